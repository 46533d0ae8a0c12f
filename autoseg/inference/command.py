"""`autoseg.predict`, the library call behind `autoseg_predict`: many cases, one after the other.

Owns: the loop over cases, what is written, and what happens to a case that cannot be predicted.
"""

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from autoseg.dataset import CaseFiles, find_cases, read_channels
from autoseg.errors import AutosegError, DatasetError, GeometryError, Problem, UsageError
from autoseg.files import write_json, write_text
from autoseg.geometry import grids_differ
from autoseg.image_io import Scan, write_label_map
from autoseg.inference.clicks import OrganClicks
from autoseg.inference.label_tables import write_label_tables
from autoseg.inference.predictor import Predictor, load_predictor
from autoseg.inference.statistics import OrganStatistics, format_statistics, measure_organs
from autoseg.network.device import choose_device
from autoseg.plans import Plans, apply_settings
from autoseg.progress import track

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class CaseStatus:
    """What became of one case.

    Attributes:
        case_id: Its name.
        is_done: Whether its label map was written.
        seconds: Time it took.
        message: Why not, or what was odd.
        organs: What its label map says in numbers.
    """

    case_id: str
    is_done: bool
    seconds: float
    message: str = ""
    organs: tuple[OrganStatistics, ...] = ()


@dataclass(frozen=True)
class PredictionRun:
    """What `predict` did; also in `run.json`."""

    output: Path
    cases: tuple[CaseStatus, ...]

    @property
    def failed(self) -> tuple[CaseStatus, ...]:
        """The cases without a label map."""
        return tuple(case for case in self.cases if not case.is_done)


def predict(
    model: Path | str,
    inputs: Path | str,
    output: Path | str,
    *,
    device: str = "auto",
    labels: Sequence[str] = (),
    settings: Sequence[str] = (),
    clicks: Mapping[str, Mapping[str, OrganClicks]] | None = None,
) -> PredictionRun:
    """Segment a scan or a folder of scans and write a label map for each.

    Args:
        model: A `model.safetensors` or a run folder.
        inputs: A scan file or a folder of them; several channels are told apart by `_0000`, `_0001`.
        output: Folder for `<case>.nii.gz`, `labels.json`, `.ctbl` and `.tsv`, `statistics.csv` and `run.json`.
        device: auto, cpu or cuda.
        labels: Names of the organs asked for; none means all.
        settings: Changes such as "inference.window_overlap=0.25"; only inference may be changed.
        clicks: Points and boxes by case and organ; the other cases and organs go by their text alone.

    Raises:
        DatasetError: No case could be predicted; the cases' problems are in it.
        AutosegError: The model or an argument cannot be used.
    """
    model, inputs, output = Path(model), Path(inputs), Path(output)
    predictor = load_predictor(model, labels=labels, device=choose_device(device))
    predictor = _with_settings(predictor, settings)
    cases, problems = find_cases(inputs, channel_names=[channel.name for channel in predictor.plans.data.channels])
    _refuse_output_over_input(cases, output)
    _refuse_clicks_on_nothing(clicks or {}, cases, predictor)
    _write_names(predictor, output)
    statuses = [CaseStatus(p.case_id, is_done=False, seconds=0.0, message=p.message) for p in problems if p.is_error]
    for case in track(cases, what="predicting"):
        statuses.append(_predict_case(predictor, case, clicks=(clicks or {}).get(case.case_id), output=output))
    run = PredictionRun(output=output, cases=tuple(statuses))
    write_text(output / "statistics.csv", format_statistics((case.case_id, case.organs) for case in run.cases))
    write_json(output / "run.json", _describe(run, predictor, model=model))
    if not any(case.is_done for case in run.cases):
        raise DatasetError(
            f"None of the {len(run.cases)} cases in {inputs} could be predicted.",
            problems=[Problem(case.case_id, case.message) for case in run.failed],
        )
    return run


def read_case(case: CaseFiles) -> tuple[Scan, ...]:
    """Read a case's channels and check that they lie on one grid.

    Raises:
        AutosegError: A file cannot be read, or the channels' grids differ.
    """
    channels = read_channels(case)
    for path, channel in zip(case.image_paths[1:], channels[1:], strict=True):
        names = (case.image_paths[0].name, path.name)
        difference = grids_differ(channels[0].geometry, channel.geometry, names=names)
        if difference is not None:
            raise GeometryError(difference)
    return channels


def _predict_case(
    predictor: Predictor, case: CaseFiles, *, clicks: Mapping[str, OrganClicks] | None, output: Path
) -> CaseStatus:
    """Predict one case; what is wrong with it is its own affair and stops no other."""
    start = time.monotonic()
    try:
        channels = read_case(case)
        labels: np.ndarray = predictor.predict_scans(channels, clicks=clicks)
        geometry, names = channels[0].geometry, predictor.names
        organs = measure_organs(labels, channels[0].array_zyx, geometry=geometry, names=names)
        write_label_map(output / f"{case.case_id}.nii.gz", labels, geometry=geometry, names=names)
    except (AutosegError, OSError, MemoryError, torch.OutOfMemoryError) as error:
        log.warning("%s: not predicted: %s", case.case_id, error)
        return CaseStatus(case.case_id, is_done=False, seconds=time.monotonic() - start, message=str(error))
    warnings = "; ".join(warning for channel in channels for warning in channel.warnings)
    seconds = time.monotonic() - start
    return CaseStatus(case.case_id, is_done=True, seconds=seconds, message=warnings, organs=organs)


def _with_settings(predictor: Predictor, settings: Sequence[str]) -> Predictor:
    for setting in settings:
        if not setting.startswith("inference."):
            raise UsageError(f"--set {setting}: at prediction only inference.* may be changed.")
    plans: Plans = apply_settings(predictor.plans, settings)
    return Predictor(networks=predictor.networks, plans=plans, organs=predictor.organs, device=predictor.device)


def _refuse_output_over_input(cases: Sequence[CaseFiles], output: Path) -> None:
    folders = {path.resolve().parent for case in cases for path in case.image_paths}
    if output.resolve() in folders:
        raise UsageError(f"-o {output}: the scans lie there; inputs are never overwritten. Choose another folder.")


def _refuse_clicks_on_nothing(
    clicks: Mapping[str, Mapping[str, OrganClicks]], cases: Sequence[CaseFiles], predictor: Predictor
) -> None:
    known = [case.case_id for case in cases]
    unknown = [case_id for case_id in clicks if case_id not in known]
    if unknown:
        raise UsageError(f"clicks: there is no case {unknown[0]!r}. Cases: {', '.join(known[:10])}.")
    for case_id, own in clicks.items():
        if not isinstance(own, Mapping):
            raise UsageError(f"clicks: {case_id!r} has {own!r}; give organs by name, {{case: {{organ: OrganClicks}}}}.")
        predictor.check_clicks(own)


def _write_names(predictor: Predictor, output: Path) -> None:
    """Write names and colours before all else: a folder that cannot be written shows itself before the work."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        write_label_tables(output, predictor.names)
    except OSError as error:
        raise UsageError(f"-o {output} cannot be written: {error.strerror or error}. Choose another folder.") from error


def _describe(run: PredictionRun, predictor: Predictor, *, model: Path) -> dict[str, object]:
    return {
        "autoseg": version("autoseg"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": model.name,
        "device": str(predictor.device),
        "labels": {str(value): name for value, name in predictor.names.items()},
        "inference": predictor.plans.inference.model_dump(mode="json"),
        "cases": [{name: fact for name, fact in vars(case).items() if name != "organs"} for case in run.cases],
    }
