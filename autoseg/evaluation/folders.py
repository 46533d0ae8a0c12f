"""Compares a folder of predicted label maps with a folder of references.

Owns: `evaluate`: which files belong together, reading them, and problems with those that do not fit.
Does not own: the metrics (`case.py`), their summary (`report.py`).

Files are matched by name without extension: `liver_07.nii.gz` and `liver_07.nii` are the same case. A prediction
`kits__liver_07`, as validation maps of several datasets are called, matches `liver_07` of the dataset "kits".
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from autoseg.errors import DatasetError, GeometryError, Problem, ScanFileError, UsageError, printable
from autoseg.evaluation.case import evaluate_case, missed_case, organ_boxes
from autoseg.evaluation.label_names import DatasetLabels, PlanNames, read_plan_names
from autoseg.evaluation.report import CaseResult, Evaluation, complete_names, merge_names
from autoseg.evaluation.translation import to_reference_values
from autoseg.io.geometry import grids_differ
from autoseg.io.image import Scan, is_scan_name, read_label_names, read_labels, scan_stem
from autoseg.system.process_pool import default_num_workers
from autoseg.system.progress import track

MAX_LABEL_VALUE = 65535
FIRST_REGION = MAX_LABEL_VALUE + 1  # what stands for the value of the first region, then the next
OTHER_VALUES = (
    "The model was planned over several datasets, whose label maps have other values than its own. Where the reference "
    "is one of theirs, give --names with its dataset.json."
)
MAX_WORKERS = 4  # each holds two label maps and the masks of an organ
VALUES_SHOWN = 8
SLICER_COPY = ".seg"


@dataclass(frozen=True)
class _Pair:
    case_id: str
    reference: Path
    prediction: Path | None


@dataclass(frozen=True)
class _Settings:
    labels: DatasetLabels | None
    plan: PlanNames
    tolerance_mm: float
    ignore_value: int | None


@dataclass(frozen=True)
class _Measured:
    case: CaseResult | None
    problems: tuple[Problem, ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)


def evaluate(
    predictions: Path,
    references: Path,
    *,
    names: Mapping[int, str] | DatasetLabels | None = None,
    tolerance_mm: float = 1.0,
    ignore_value: int | None = None,
    num_workers: int | None = None,
) -> Evaluation:
    """Compare predicted label maps with references of the same names.

    Args:
        predictions: A folder of label maps, or one file.
        references: A folder of label maps, or one file if `predictions` is one.
        names: The names by label value, or the result of `read_dataset_labels`: exactly these organs and regions are
            measured. Predictions with other values or names for them are translated (`translation.py`). Without it, all
            values that occur are measured, with the names in the predictions.
        tolerance_mm: The distance up to which a surface counts as right, for the NSD.
        ignore_value: The value of reference voxels that are ignored; None uses that of `names`.
        num_workers: The number of cases measured at the same time; None means the number of cores, up to four.

    Returns:
        The evaluation. A case whose prediction is missing, cannot be read or is on another grid counts as a miss of all
        its organs, and is among the problems.

    Raises:
        UsageError: A path does not exist, a file is compared with a folder, or the tolerance is not a length.
        DatasetError: Nothing could be compared.

    Example:
        >>> evaluation = autoseg.evaluate(Path("predictions"), Path("labelsTr"))
        >>> evaluation.mean_dice
        0.93
    """
    if not (math.isfinite(tolerance_mm) and tolerance_mm >= 0):
        raise UsageError(f"The tolerance is {tolerance_mm} mm; expected a length of 0 or more.")
    labels = DatasetLabels(dict(names)) if isinstance(names, Mapping) else names
    if ignore_value is None and labels is not None:
        ignore_value = labels.ignore_value
    dataset = None if labels is None else labels.dataset
    pairs, unmatched, problems = _pair_files(Path(predictions), Path(references), dataset=dataset)
    settings = _Settings(labels, read_plan_names(Path(predictions)), tolerance_mm, ignore_value)
    measured = list(_measure_all(pairs, settings=settings, num_workers=num_workers))
    cases = tuple(item.case for item in measured if item.case is not None)
    problems += dict.fromkeys(problem for item in measured for problem in item.problems)
    if labels is None:
        known, conflicts = merge_names(item.names for item in measured)
        problems += [*conflicts, *([Problem("", OTHER_VALUES, is_error=False)] if settings.plan.datasets else [])]
    else:
        known = {**labels.names, **dict(enumerate(labels.regions, start=FIRST_REGION))}
    if not any(case.has_prediction for case in cases):
        raise DatasetError(
            f"There is nothing to evaluate: no prediction in {_shown(predictions)} can be compared with a "
            f"reference in {_shown(references)}. Give both files of the same name, such as case_01.nii.gz.",
            problems=problems,
        )
    return Evaluation(
        cases=cases,
        names=complete_names(cases, known),
        tolerance_mm=tolerance_mm,
        problems=tuple(problems),
        predictions_without_reference=tuple(unmatched),
    )


def _pair_files(
    predictions: Path, references: Path, *, dataset: str | None
) -> tuple[list[_Pair], list[str], list[Problem]]:
    for path in (predictions, references):
        if not path.exists():
            raise UsageError(f"{_shown(path)} does not exist; expected a folder of label maps, or one label map.")
    if predictions.is_dir() != references.is_dir():
        file, folder = (references, predictions) if predictions.is_dir() else (predictions, references)
        raise UsageError(f"{_shown(file)} is a file and {_shown(folder)} a folder; give two folders or two files.")
    if not references.is_dir():
        return [_Pair(case_id=scan_stem(references), reference=references, prediction=predictions)], [], []
    predicted, twice_predicted = _label_maps(predictions)
    known, twice_known = _label_maps(references)
    found = {name: name if name in predicted else f"{dataset}__{name}" for name in known}
    pairs = [_Pair(name, reference=path, prediction=predicted.get(found[name])) for name, path in known.items()]
    return pairs, sorted(predicted.keys() - set(found.values())), twice_predicted + twice_known


def _label_maps(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    found: dict[str, Path] = {}
    problems = []
    try:
        paths = sorted(path for path in folder.iterdir() if is_scan_name(path.name))
    except OSError as error:
        raise UsageError(f"{_shown(folder)} cannot be listed: {error.strerror}. Check its permissions.") from error
    stems = {scan_stem(path) for path in paths}
    for path in paths:
        is_copy = path.name.lower().endswith(f"{SLICER_COPY}.nrrd")
        if is_copy and scan_stem(path).removesuffix(SLICER_COPY) in stems:
            continue  # case.seg.nrrd beside case.nii.gz is the same once more, for 3D Slicer
        other = found.setdefault(scan_stem(path), path)
        if other != path:
            message = f"{folder.name} holds both {other.name} and {path.name}; used the first. Remove one of them."
            problems.append(Problem(scan_stem(path), message))
    return found, problems


def _measure_all(pairs: Sequence[_Pair], *, settings: _Settings, num_workers: int | None) -> Iterator[_Measured]:
    """Measure the cases, in order; threads suffice, since reading and measuring release Python's lock."""
    num_workers = num_workers or min(default_num_workers(), MAX_WORKERS)
    measure = partial(_measure_pair, settings=settings)
    if num_workers < 2 or len(pairs) < 2:
        yield from track(map(measure, pairs), what="evaluating", total=len(pairs))
        return
    executor = ThreadPoolExecutor(num_workers)
    try:
        yield from track(executor.map(measure, pairs), what="evaluating", total=len(pairs))
    finally:
        executor.shutdown(cancel_futures=True)  # after Ctrl-C, only the cases at work are finished


def _measure_pair(pair: _Pair, *, settings: _Settings) -> _Measured:
    try:
        reference = read_labels(pair.reference)
    except (ScanFileError, GeometryError) as error:
        return _Measured(None, (Problem(pair.case_id, f"The reference is left out: {error}"),))
    prediction, fault = _read_prediction(pair, reference=reference)
    names = {} if pair.prediction is None or prediction is None else read_label_names(pair.prediction)
    warning_of_names = None
    if prediction is not None and settings.labels is not None:
        array, warning_of_names = to_reference_values(
            prediction.array_zyx, reference.array_zyx, names=names, labels=settings.labels, plan=settings.plan
        )
        prediction = replace(prediction, array_zyx=array)
    maps = [reference] if prediction is None else [reference, prediction]
    values, unknown_values = _choose_values([scan.array_zyx for scan in maps], settings=settings)
    problems = [] if fault is None else [Problem(pair.case_id, f"{fault} Counted as a miss.")]
    warnings = [warning for scan in maps for warning in scan.warnings] + ([unknown_values] if unknown_values else [])
    problems += [Problem(pair.case_id, warning, is_error=False) for warning in warnings]
    problems += [] if warning_of_names is None else [Problem("", warning_of_names, is_error=False)]
    spacing_zyx_mm = reference.geometry.spacing_zyx_mm
    if prediction is None:
        metrics = missed_case(
            reference.array_zyx,
            spacing_zyx_mm=spacing_zyx_mm,
            organ_values=values,
            ignore_value=settings.ignore_value,
        )
        return _Measured(CaseResult(pair.case_id, metrics, has_prediction=False), tuple(problems))
    metrics = evaluate_case(
        prediction.array_zyx,
        reference.array_zyx,
        spacing_zyx_mm=spacing_zyx_mm,
        organ_values=values,
        tolerance_mm=settings.tolerance_mm,
        ignore_value=settings.ignore_value,
    )
    return _Measured(CaseResult(pair.case_id, metrics), tuple(problems), names)


def _read_prediction(pair: _Pair, *, reference: Scan) -> tuple[Scan | None, str | None]:
    """Return the prediction, or None and the reason."""
    if pair.prediction is None:
        return None, "There is no prediction of this case. Predict it, or remove the reference."
    try:
        prediction = read_labels(pair.prediction)
    except (ScanFileError, GeometryError) as error:
        return None, f"The prediction cannot be read: {error}"
    difference = grids_differ(reference.geometry, prediction.geometry, names=("reference", "prediction"))
    return (prediction, None) if difference is None else (None, difference)


def _choose_values(maps: Sequence[np.ndarray], *, settings: _Settings) -> tuple[dict[int, tuple[int, ...]], str | None]:
    """Return the label values to measure, with those of regions together, and a warning about unknown values."""
    found: set[int] = set()
    for labels in maps:
        high, low = int(labels.max(initial=0)), int(labels.min(initial=0))
        found.update({high, low}, organ_boxes(labels, organ_values=range(1, min(high, MAX_LABEL_VALUE) + 1)))
    found -= {0, settings.ignore_value}
    declared = settings.labels
    possible = range(1, MAX_LABEL_VALUE + 1) if declared is None else declared.all_names.keys()
    unknown = sorted(value for value in found if value not in possible)
    measured = found.intersection(possible) if declared is None else declared.names
    chosen: dict[int, tuple[int, ...]] = {value: (value,) for value in sorted(measured)}
    chosen |= dict(enumerate(declared.regions.values() if declared is not None else (), start=FIRST_REGION))
    if not unknown:
        return chosen, None
    shown = ", ".join(map(str, unknown[:VALUES_SHOWN])) + (", ..." if len(unknown) > VALUES_SHOWN else "")
    expected = f"in 1 to {MAX_LABEL_VALUE}" if declared is None else "among the named labels"
    return chosen, f"The label maps hold {shown}, not {expected}; counted as background."


def _shown(path: Path) -> str:
    return printable(str(path))
