"""Runs `autoseg.predict_files`, the function behind `autoseg_predict`: it predicts many cases, one after the other.

Owns: the checks of the arguments, the output folder, the end of the run.
Does not own: reading, predicting and writing one case (`case_steps.py`), the files (`export/`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from autoseg import __version__
from autoseg.datasets.dataset import CaseFiles
from autoseg.datasets.prediction_inputs import find_cases
from autoseg.distributed.ranks import Ranks, join_ranks
from autoseg.errors import DatasetError, OutputError, Problem, UsageError, printable
from autoseg.export.case_files import ALSO, FOLDERS, FOLDERS_OF_CASES, label_map_name
from autoseg.export.label_tables import write_label_tables
from autoseg.export.run_files import CaseStatus, PredictionRun, write_run
from autoseg.inference.model_loading import find_model_files
from autoseg.inference.organ_prompts import OrganPrompts
from autoseg.inference.predictor import Predictor
from autoseg.io.byte_stream import display_name
from autoseg.network.weights.model_file import BuildNetwork
from autoseg.pipelines.case_steps import Job, predict_cases
from autoseg.pipelines.dry_run import Estimate, estimate_cases, log_time_on_cpu, warn_if_disk_is_short
from autoseg.pipelines.prediction_request import PredictionRequest
from autoseg.pipelines.resume_log import LOG_NAME, ResumeLog
from autoseg.system.atomic_files import explain_write_error, file_sha256, remove_leftovers
from autoseg.system.file_lock import LOCK_NAME, hold_folder


def predict_files(
    inputs: Path | str | Sequence[Path | str],
    model: Path | str,
    output: Path | str,
    *,
    device: str = "auto",
    organs: Sequence[str] | str = (),
    new_organs: Mapping[str, str] | None = None,
    fold: str | int | None = None,
    settings: Sequence[str] | str = (),
    point_prompts: Mapping[str, Mapping[str, OrganPrompts]] | None = None,
    also: Sequence[str] | str = (),
    modality: str | None = None,
    build_network: BuildNetwork | None = None,
) -> PredictionRun:
    """Segment a scan or a folder of scans and write a label map for each.

    Under torchrun the ranks divide the cases, and rank 0 writes the files about the whole run.

    Args:
        inputs: A scan, a folder of scans, a DICOM series, a `.csv` table of cases, or several of these (`find_cases`).
        model: A `model.safetensors` or a run folder.
        output: The folder for `<case>.nii.gz`, `labels.json`, `.ctbl` and `.tsv`, `statistics.csv`,
            `preview/<case>.png`, `report.html` and `run.json`. Cases that an earlier run finished there with the same
            scans, model and settings are kept.
        device: auto, cpu or cuda.
        organs: The names of the organs to find; none means all.
        new_organs: Descriptions by name of organs that the model was not trained on, which are found in addition; an
            empty description is replaced by the built-in one. A warning names organs unlike all known ones.
        fold: The fold whose model of a run folder is used; None uses the one trained on all cases, or else the average
            of the folds.
        settings: Changes such as "inference.window_overlap=0.25"; only inference may be changed.
        point_prompts: Points and boxes by case and organ; the other cases and organs are found by text only.
        also: Additional files per case: "uncertainty" (per voxel, in percent), "probabilities" (per organ, in percent;
            they temporarily need a byte per voxel and organ on the output's disk), "seg.nrrd" (a segmentation for 3D
            Slicer), "seg.dcm" (a DICOM segmentation, for DICOM series, needs highdicom), "masks" (one file per organ).
        modality: The modality of all scans, for a model of several: ct, mri, ..; None finds it by intensities.
        build_network: The function that built the model's network, if it was not autoseg's own.

    Raises:
        DatasetError: No case could be predicted; lists the problems of all cases.
        LockedError: Another run works on the folder.
        OutputError: The output's disk is full or broken; finished cases stay.
        AutosegError: The model or an argument cannot be used.

    Example:
        >>> run = autoseg.predict_files("new_scans", "my_run", "predictions", organs=["liver", "spleen"])
        >>> [case.case_id for case in run.failed]
        []
    """
    model, output = Path(model), Path(output)
    also = [also] if isinstance(also, str) else also
    request = PredictionRequest(model, device, organs, new_organs, fold, settings, modality, build_network)
    unknown = [name for name in also if name not in ALSO]
    if unknown:
        raise UsageError(f"--also {unknown[0]!r:.40}: expected {', '.join(ALSO)}.")
    digests = [
        file_sha256(path) for path in find_model_files(model, fold=None if fold is None else str(fold))
    ]  # before it is loaded: see `ResumeLog`
    predictor = request.load_predictor()
    paths = _as_paths(inputs)
    cases, problems = find_cases(paths, channel_names=predictor.channel_names)
    _refuse_output_over_input(cases, output)
    if "seg.dcm" in also:
        _refuse_what_is_no_series(cases)
    _refuse_prompts_on_nothing(point_prompts or {}, cases, predictor)
    recipe = _describe_recipe(predictor, digests, also=also)
    with join_ranks() as ranks, _own_folder(output, ranks):
        with _writing(output):
            if ranks.is_main:
                # first: a folder that cannot be written shows itself
                write_label_tables(output, predictor.names, plan=predictor.plans.data)
            resume_log = ResumeLog(output, rank=ranks.rank)
        if ranks.is_main:
            warn_if_disk_is_short(predictor, cases, output, also=also)
            if device == "auto" and predictor.device.type == "cpu":
                log_time_on_cpu(predictor, cases)
        job = Job(predictor, output, recipe, point_prompts or {}, tuple(also), resume_log)
        of_ranks = ranks.all_gather(predict_cases(ranks.shard(cases), job))
        statuses = {status.case_id: status for of_rank in of_ranks for status in of_rank}
        in_order = [statuses[case.case_id] for case in cases]
        run = PredictionRun(output=output, cases=(*_bad_cases(problems), *in_order))
        if ranks.is_main:
            with _writing(output):
                write_run(run, predictor, model=model.name)
    if ranks.is_main and not any(case.is_done for case in run.cases):
        raise DatasetError(
            f"None of the {len(run.cases)} cases in {', '.join(map(display_name, paths))} could be predicted. Correct "
            "what is listed below.",
            problems=[Problem(case.case_id, case.message) for case in run.failed],
        )
    return run


def estimate_files(
    inputs: Path | str | Sequence[Path | str], request: PredictionRequest, *, also: Sequence[str] = ()
) -> list[Estimate]:
    """Estimate time, memory and disk space of `predict_files` for each case; nothing is written.

    Args:
        inputs: The scans, as for `predict_files`.
        request: The model and its settings.
        also: The additional files per case.

    Raises:
        AutosegError: The model or an argument cannot be used, as for `predict_files`.
    """
    predictor = request.load_predictor()
    cases, problems = find_cases(_as_paths(inputs), channel_names=predictor.channel_names)
    faults = [Estimate(case.case_id, fault=case.message) for case in _bad_cases(problems)]
    return [*estimate_cases(predictor, cases, also=also), *faults]


def _as_paths(inputs: Path | str | Sequence[Path | str]) -> list[Path]:
    return [Path(inputs)] if isinstance(inputs, str | Path) else [Path(path) for path in inputs]


def _describe_recipe(predictor: Predictor, digests: Sequence[str], *, also: Sequence[str]) -> str:
    plan = predictor.plans.inference.model_dump(mode="json")
    organs = [predictor.plans.data.organs[k] for k in predictor.organs]
    asked = [[organ.name, organ.value, organ.sentences, organ.additional_sentences] for organ in organs]
    kind = predictor.modality
    return json.dumps([__version__, digests, plan, asked, kind, predictor.device.type, sorted(also)])


def _bad_cases(problems: Sequence[Problem]) -> list[CaseStatus]:
    """Return one status per case that cannot be read, with everything that is wrong with it."""
    messages: dict[str, list[str]] = {}
    for problem in problems:
        if problem.is_error:
            messages.setdefault(problem.case_id, []).append(problem.message)
    return [CaseStatus(case_id, is_done=False, message=" ".join(own)) for case_id, own in messages.items()]


def _refuse_output_over_input(cases: Sequence[CaseFiles], output: Path) -> None:
    paths = [path for case in cases for path in case.image_paths]
    folders = {folder for path in paths for folder in (path.resolve(), path.resolve().parent, path.parent.resolve())}
    ours = {output.resolve() / name for name in (*FOLDERS, *FOLDERS_OF_CASES)}
    if output.resolve() in folders or any(not ours.isdisjoint(folder.parents) or folder in ours for folder in folders):
        raise UsageError(f"-o {output}: the scans lie there; inputs are never overwritten. Choose another folder.")
    is_ours = (output / LOCK_NAME).exists() or (output / LOG_NAME).exists()
    names = [] if is_ours else [label_map_name(case.case_id) for case in cases]
    there = [name for name in names if (output / name).is_file() and not (output / name).is_symlink()]
    if there:
        raise UsageError(
            f"-o {output}: {printable(there[0])} is there, and no prediction of autoseg's wrote it. Choose another "
            "folder."
        )
    above = output.resolve().parent
    if output.resolve().name == "preprocessed" and (above / "plans.json").exists():
        raise UsageError(f"-o {output}: autoseg_plan keeps the cases of a run there. Choose another folder.")


def _refuse_what_is_no_series(cases: Sequence[CaseFiles]) -> None:
    from autoseg.export.dicom_seg import load_highdicom

    load_highdicom()
    files = [case.image_paths[0] for case in cases if not case.image_paths[0].is_dir()]
    if files:
        raise UsageError(
            f"--also seg.dcm: {display_name(files[0])} is not a DICOM series, so a DICOM segmentation has nothing to "
            "refer to. Give the folder of the series, or ask for seg.nrrd."
        )


def _refuse_prompts_on_nothing(
    point_prompts: Mapping[str, Mapping[str, OrganPrompts]], cases: Sequence[CaseFiles], predictor: Predictor
) -> None:
    known = [case.case_id for case in cases]
    unknown = [case_id for case_id in point_prompts if case_id not in known]
    if unknown:
        raise UsageError(f"point_prompts: there is no case {unknown[0]!r}. Name one of {', '.join(known[:10])}.")
    for case_id, own in point_prompts.items():
        if not isinstance(own, Mapping):
            raise UsageError(
                f"point_prompts: {case_id!r} has {own!r}; give organs by name, {{case: {{organ: OrganPrompts}}}}."
            )
        predictor.check_point_prompts(own)


@contextmanager
def _own_folder(output: Path, ranks: Ranks) -> Iterator[None]:
    """Lock the output folder for this process and the other ranks."""
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
    name = LOCK_NAME if ranks.is_main else f"{LOCK_NAME}-{ranks.rank}"
    remedy = "Wait for it, end it, or choose another -o."
    with hold_folder(output, command="autoseg_predict", remedy=remedy, name=name):
        if ranks.is_main:
            with _writing(output):
                inner = [folder for name in FOLDERS_OF_CASES for folder in (output / name).glob("*/")]
                for folder in (output, *(output / name for name in FOLDERS), *inner):
                    remove_leftovers(folder)
        ranks.barrier()
        yield


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"-o {output}: {explain_write_error(error, output)}") from error
