"""Runs `autoseg_plan`: it checks a dataset, measures it, plans, preprocesses, and splits it into folds.

Owns: the order of the steps, and when each file is written.
Does not own: any of the steps themselves, which problems stop a run (`planning/checks.py`), the lock on the run folder
(`planning/run_folder.py`), the parser (`cli/plan.py`).

Every file is complete or absent, and `splits.json` comes last: a run folder that has one is ready to train. The same
command again reads only the cases whose files changed, and preprocesses only what is not there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from autoseg.config.plans import Plans, read_plans
from autoseg.distributed.ranks import Ranks, join_ranks
from autoseg.errors import DatasetError, Problem, UsageError
from autoseg.organs.llm_texts import Server
from autoseg.pipelines.plan_ranks import PreprocessingWork, preprocess_shard, read_shards
from autoseg.planning.checks import DatasetCheck, check_names, shorten_paths, show_problems, stop_at_errors
from autoseg.planning.fingerprint.case_cache import CaseCache, cache_name
from autoseg.planning.hardware import find_device
from autoseg.planning.memory_and_disk import bytes_to_preprocess, warn_if_disk_is_short
from autoseg.planning.multi_dataset.dataset_names import refuse_the_same
from autoseg.planning.multi_dataset.merge_datasets import check_datasets
from autoseg.planning.organ_texts.custom_texts import read_own_descriptions, use_own_descriptions
from autoseg.planning.organ_texts.describe_unknown_organs import add_descriptions
from autoseg.planning.organ_texts.organ_sentences import describe_organs
from autoseg.planning.pin_weights import pin_weights
from autoseg.planning.planner import NO_RULES, make_plans
from autoseg.planning.report import JSON_NAME, write_report
from autoseg.planning.resolve import Rule
from autoseg.planning.run_folder import earlier_plans, own_folder, write_plans_if_new, write_splits_if_new
from autoseg.system.atomic_files import write_json

DeviceChoice = Literal["auto", "cpu", "cuda"]
OnBad = Literal["fail", "skip"]
STORE_NAME = "preprocessed"


@dataclass(frozen=True)
class PlanRequest:
    """The arguments of `plan`."""

    dataset_roots: tuple[Path, ...]
    run_folder: Path
    device: DeviceChoice = "auto"
    memory_gib: float | None = None
    overlays: tuple[str | Path, ...] = ()
    settings: tuple[str, ...] = ()
    rules: Mapping[str, Rule] = field(default_factory=dict)
    on_bad: OnBad = "fail"
    num_workers: int | None = None
    describe: Server | None = None
    descriptions: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class PlanOutcome:
    """The outcome of `run_plan`.

    Attributes:
        plans: The plans, as they were written to `plans.json`.
        check: The check of the dataset; None on ranks other than the main one.
        used: The cases that are preprocessed and in a fold.
        skipped: The cases that are left out, for errors that the report names.
    """

    plans: Plans
    check: DatasetCheck | None
    used: tuple[str, ...]
    skipped: tuple[str, ...]


def plan(
    dataset_roots: Path | str | Sequence[Path | str],
    run_folder: Path | str,
    *,
    device: DeviceChoice = "auto",
    memory_gib: float | None = None,
    overlays: Sequence[str | Path] = (),
    settings: Sequence[str] = (),
    rules: Mapping[str, Rule] = NO_RULES,
    on_bad: OnBad = "fail",
    num_workers: int | None = None,
    describe: Server | None = None,
    descriptions: Path | str | None = None,
    offline: bool = False,
) -> Plans:
    """Check, fingerprint, plan and preprocess a dataset, or several as one.

    Under torchrun the ranks divide the reading of scans and preprocessing, and the main rank does the rest.

    Example:
        plans = autoseg.plan("data/liver", "runs/liver", settings=["training.epochs=20"])

    Args:
        dataset_roots: The folder of a dataset, or the folders of several; nothing is written there.
        run_folder: The folder that everything is written to; an earlier run in it is continued.
        device: The device to plan for; "auto" chooses CUDA where a GPU is found.
        memory_gib: Memory of the device in GiB; None uses that of this machine.
        overlays: Parts of plans: names such as "fast", or paths of JSON files.
        settings: Words such as "network.memory_slices=4"; they win over overlays.
        rules: Rules that replace autoseg's own, by the field of the plan that they choose; overlays and settings win
            over them.
        on_bad: "fail" stops at bad cases, after all have been checked; "skip" goes on without them.
        num_workers: The number of processes; None starts one per core.
        describe: The language model to ask for descriptions of unknown organs; None asks nobody.
        descriptions: JSON file of {organ: text} or {organ: [sentence, ...]}; it wins over `dataset.json`.
        offline: Use no network; pretrained weights of the hub must be in its cache on this machine.

    Returns:
        The plans, as they were written.

    Raises:
        DatasetError: Bad cases with `on_bad="fail"`, or nothing usable; lists all problems.
        UsageError: A folder, the file of descriptions or the mapping of labels cannot be used.
        PlanError: An overlay or a setting is wrong.
        CheckpointError: Pretrained weights that the plan names are not on the hub, or it cannot be reached.
        LockedError: Another run works on the same folder: one that plans, or trains with what is there.
        OutputError: The disk is full, or broken.
        RankLostError: Another process of torchrun is gone, or ended early.
    """
    request = PlanRequest(
        dataset_roots=(Path(dataset_roots),)
        if isinstance(dataset_roots, (str, Path))
        else tuple(Path(root) for root in dataset_roots),
        run_folder=Path(run_folder),
        device=device,
        memory_gib=memory_gib,
        overlays=tuple(overlays),
        settings=tuple(settings),
        rules=rules,
        on_bad=on_bad,
        num_workers=num_workers,
        describe=describe,
        descriptions=None if descriptions is None else Path(descriptions),
        offline=offline,
    )
    return run_plan(request).plans


def run_plan(request: PlanRequest) -> PlanOutcome:
    """Plan as `plan` does, and return more about it."""
    if request.offline and request.describe is not None:
        raise UsageError("--offline and --describe: give one of them, since a server is asked over the network.")
    with join_ranks() as ranks:
        return _lead(request, ranks) if ranks.is_main else _help(request, ranks)


def _help(request: PlanRequest, ranks: Ranks) -> PlanOutcome:
    """Read and preprocess a shard of the cases, and wait for the results of the main rank."""
    ranks.barrier()  # until it holds the run folder
    read_shards(request.dataset_roots, run_folder=request.run_folder, num_workers=request.num_workers, ranks=ranks)
    preprocess_shard(None, store_folder=request.run_folder / STORE_NAME, num_workers=request.num_workers, ranks=ranks)
    used, skipped = ranks.broadcast(None)
    return PlanOutcome(read_plans(request.run_folder / "plans.json"), None, tuple(used), tuple(skipped))


def _lead(request: PlanRequest, ranks: Ranks) -> PlanOutcome:
    device = find_device(request.device, memory_gib=request.memory_gib)
    refuse_the_same(request.dataset_roots)
    own = None if request.descriptions is None else read_own_descriptions(request.descriptions)
    with own_folder(request.run_folder, dataset_roots=request.dataset_roots):
        ranks.barrier()
        caches = {}
        if ranks.world_size > 1:
            caches = read_shards(
                request.dataset_roots, run_folder=request.run_folder, num_workers=request.num_workers, ranks=ranks
            )
        check = _check(request, caches)
        found = {"layout": check.layout, "contents": check.contents}
        usable = _usable(check)
        report = request.run_folder / JSON_NAME
        stop = partial(stop_at_errors, num_cases=check.num_cases, on_bad=request.on_bad, report=report)
        _write_report(request, check=check, used=usable, found=found)
        stop(check.problems)
        write_json(request.run_folder / "fingerprint.json", check.fingerprint.model_dump(mode="json"))
        fingerprint, unused = use_own_descriptions(check.fingerprint, own)
        fingerprint = add_descriptions(fingerprint, run_folder=request.run_folder, server=request.describe)
        plans = make_plans(
            fingerprint,
            device=device,
            overlays=request.overlays,
            settings=request.settings,
            rules=request.rules,
        )
        plans = pin_weights(plans, earlier=earlier_plans(request.run_folder), offline=request.offline)
        found["plan"] = unused + describe_organs(fingerprint)[1]
        write_plans_if_new(plans, request.run_folder)
        failures = found["preprocessing"] = _preprocess(check, plans=plans, request=request, ranks=ranks)
        failed = {problem.case_id for problem in failures if problem.is_error}
        used = tuple(case_id for case_id in usable if case_id not in failed)
        _write_report(request, check=check, used=used, found=found)
        stop(failures)
        if not used:
            raise DatasetError("no case could be preprocessed. Correct the problems listed below.", problems=failures)
        write_splits_if_new(check.fingerprint, plans=plans, used=used, run_folder=request.run_folder)
    problems = tuple(problem for stage in found.values() for problem in stage)
    show_problems(problems)
    skipped = tuple(sorted({p.case_id for p in problems if p.is_error}))
    ranks.broadcast([used, skipped])
    return PlanOutcome(plans, check, used, skipped)


def run_check(request: PlanRequest) -> tuple[DatasetCheck, tuple[Problem, ...]]:
    """Check a dataset, and write its report, the cache for later runs, and the label mapping of several datasets.

    Returns:
        The check, and all problems.

    Raises:
        DatasetError: Nothing is usable; the report is written anyway.
        UsageError: The folder, the file of descriptions or the mapping of labels cannot be used.
        LockedError: Another process plans into the same folder.
    """
    refuse_the_same(request.dataset_roots)
    own = None if request.descriptions is None else read_own_descriptions(request.descriptions)
    with own_folder(request.run_folder, dataset_roots=request.dataset_roots):
        check = _check(request, {})
        names = check_names(check, own)
        found = {"layout": check.layout, "contents": check.contents, "plan": names}
        _write_report(request, check=check, used=_usable(check), found=found)
    return check, check.problems + names


def _check(request: PlanRequest, caches: Mapping[str | None, CaseCache]) -> DatasetCheck:
    """Check the datasets; if nothing is usable, the report explains why."""
    try:
        return check_datasets(
            request.dataset_roots,
            num_workers=request.num_workers,
            open_cache=lambda _root, name: caches.get(name) or CaseCache(request.run_folder / cache_name(name)),
            run_folder=request.run_folder,
        )
    except DatasetError as error:
        problems = (Problem("", error.headline), *error.problems)
        name = " + ".join(root.resolve().name for root in request.dataset_roots)
        write_report(request.run_folder, dataset_name=name, problems={"layout": problems})
        raise


def _usable(check: DatasetCheck) -> tuple[str, ...]:
    return tuple(case.case_id for case in check.fingerprint.cases)


def _write_report(
    request: PlanRequest, *, check: DatasetCheck, used: Sequence[str], found: Mapping[str, Sequence[Problem]]
) -> None:
    write_report(
        request.run_folder,
        dataset_name=check.dataset.name,
        case_ids=[case.case_id for case in check.dataset.cases],
        fingerprint=check.fingerprint,
        used=used,
        problems=found,
    )


def _preprocess(check: DatasetCheck, *, plans: Plans, request: PlanRequest, ranks: Ranks) -> tuple[Problem, ...]:
    facts = check.fingerprint.cases
    usable, store_folder = {case.case_id for case in facts}, request.run_folder / STORE_NAME
    warn_if_disk_is_short(store_folder, facts, plans.data)
    cases = [case for case in check.dataset.cases if case.case_id in usable]
    work = PreprocessingWork(cases, plans.data, bytes_to_preprocess(facts, plans.data))
    problems = preprocess_shard(work, store_folder=store_folder, num_workers=request.num_workers, ranks=ranks)
    for root in request.dataset_roots:
        problems = list(shorten_paths(problems, root=root))
    return tuple(problems)
