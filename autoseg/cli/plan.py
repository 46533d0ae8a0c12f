"""Defines the command `autoseg_plan`, which checks a dataset, plans, and preprocesses.

Owns: the arguments, and what is printed.
Does not own: the work (`pipelines/plan.py`).

Heavy modules are imported inside the functions that need them, so that `--help` answers at once.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.common import build_parser, run_command
from autoseg.distributed.ranks import is_main_rank, join_ranks
from autoseg.errors import (
    EXIT_DONE,
    EXIT_SOME_CASES_FAILED,
    DatasetError,
    Problem,
    UsageError,
    format_problems,
    printable,
)

if TYPE_CHECKING:
    from autoseg.organs.llm_texts import Server
    from autoseg.pipelines.plan import PlanOutcome
    from autoseg.planning.checks import DatasetCheck
    from autoseg.planning.multi_dataset.label_mapping import LabelMapping

MAX_ORGANS_SHOWN = 8
MAX_LABELS_SHOWN = 24


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return run_command(_build_parser(), _work, argv)


def _build_parser() -> argparse.ArgumentParser:
    parser = build_parser(
        "autoseg_plan",
        description="Check a dataset, measure it, plan the network and its training, and preprocess the scans. "
        "The same command continues a run that was stopped, and is quick if nothing changed.",
        example="autoseg_plan data/liver -o runs/liver",
    )
    parser.add_argument(
        "datasets",
        nargs="*",
        type=Path,
        metavar="DATASET",
        help="folder of a dataset (nnU-Net, MSD, plain); several become one model",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="device to plan for (auto: CUDA if available)"
    )
    parser.add_argument(
        "--memory-gib", type=float, metavar="N", help="memory of that device (default: that of this machine)"
    )
    parser.add_argument(
        "--overlay", action="append", default=[], metavar="NAME", help="part of a plan: fast, ... or a JSON file"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="settings",
        help="one value of the plan, such as training.epochs=20; repeatable",
    )
    parser.add_argument(
        "--check", action="store_true", help="only look for problems; with -o RUN, write a report of them there"
    )
    parser.add_argument("--explain", metavar="FIELD", help="show why a plan has a value, such as network.backbone")
    parser.add_argument(
        "--on-bad",
        choices=("fail", "skip"),
        default="fail",
        help="with bad cases: stop (default), or continue without them",
    )
    parser.add_argument("--num-workers", type=int, metavar="N", help="number of processes (default: one per core)")
    parser.add_argument(
        "--descriptions",
        type=Path,
        metavar="FILE",
        help='JSON with your descriptions of organs, such as {"liver": "The liver is ..."}, which replace all others',
    )
    parser.add_argument(
        "--describe",
        metavar="URL",
        help="ask an OpenAI-compatible server, such as http://localhost:8000/v1, to describe unknown organs",
    )
    parser.add_argument("--describe-model", metavar="NAME", help="the model to ask there")
    parser.add_argument("--describe-key-file", type=Path, metavar="FILE", help="a file with the server's key")
    parser.add_argument(
        "--offline", action="store_true", help="use no network: pretrained weights only from the hub's cache"
    )
    return parser


def _work(arguments: argparse.Namespace) -> int:
    if arguments.num_workers is not None and arguments.num_workers < 1:
        raise UsageError(f"--num-workers {arguments.num_workers}: expected at least 1.")
    if arguments.explain is not None:
        return _explain(arguments)
    if not arguments.datasets:
        raise UsageError("name the folder of a dataset, as in: autoseg_plan DATASET -o RUN.")
    return _check(arguments) if arguments.check else _plan(arguments)


def _explain(arguments: argparse.Namespace) -> int:
    from autoseg.config.plans import read_plans
    from autoseg.planning.explain import explain

    runs = [*([] if arguments.output is None else [arguments.output]), *arguments.datasets]
    run = next((folder for folder in runs if (folder / "plans.json").is_file()), None)
    if run is None:
        raise UsageError(
            "--explain needs a planned run. Give it, as in: autoseg_plan -o RUN --explain network.backbone."
        )
    print("\n".join(printable(line) for line in explain(read_plans(run / "plans.json"), arguments.explain)))
    return EXIT_DONE


def _check(arguments: argparse.Namespace) -> int:
    with join_ranks() as ranks:
        return _check_alone(arguments) if ranks.is_main else EXIT_DONE


def _check_alone(arguments: argparse.Namespace) -> int:
    check, problems = _look_at_dataset(arguments) if arguments.output is None else _report_dataset(arguments)
    errors = [problem for problem in problems if problem.is_error]
    counts = _counts(len(check.fingerprint.cases), check.num_cases)
    if any(not problem.case_id for problem in errors) or (errors and arguments.on_bad == "fail"):
        raise DatasetError(counts, problems=problems)
    mapping = [] if check.mapping is None else _show_mapping(check.mapping, run=arguments.output)
    print("\n".join([counts, *map(printable, mapping), *format_problems(problems)]))
    return EXIT_SOME_CASES_FAILED if errors else EXIT_DONE


def _look_at_dataset(arguments: argparse.Namespace) -> "tuple[DatasetCheck, tuple[Problem, ...]]":
    """Check the dataset; nothing is written, so every scan is read."""
    from autoseg.planning.checks import check_names
    from autoseg.planning.fingerprint.case_cache import CaseCache
    from autoseg.planning.multi_dataset.merge_datasets import check_datasets
    from autoseg.planning.organ_texts.custom_texts import read_own_descriptions

    own = None if arguments.descriptions is None else read_own_descriptions(arguments.descriptions)
    check = check_datasets(
        arguments.datasets,
        num_workers=arguments.num_workers,
        open_cache=lambda _root, _name: CaseCache(None),
    )
    return check, check.problems + check_names(check, own)


def _report_dataset(arguments: argparse.Namespace) -> "tuple[DatasetCheck, tuple[Problem, ...]]":
    """Check the dataset and write the report of it, also of one that cannot be used."""
    from autoseg.pipelines.plan import PlanRequest, run_check
    from autoseg.planning.report import PAGE_NAME

    request = PlanRequest(
        tuple(arguments.datasets),
        arguments.output,
        num_workers=arguments.num_workers,
        descriptions=arguments.descriptions,
    )
    where = f"report    {printable(str(arguments.output / PAGE_NAME))}"
    try:
        result = run_check(request)
    except DatasetError:
        print(where)
        raise
    print(where)
    return result


def _counts(num_usable: int, num_cases: int) -> str:
    return f"{num_usable} of {num_cases} cases can be used."


def _plan(arguments: argparse.Namespace) -> int:
    from autoseg.pipelines.plan import PlanRequest, run_plan

    if arguments.output is None:
        raise UsageError("-o RUN is missing. Name the folder that the plan goes to.")
    outcome = run_plan(
        PlanRequest(
            dataset_roots=tuple(arguments.datasets),
            run_folder=arguments.output,
            device=arguments.device,
            memory_gib=arguments.memory_gib,
            overlays=tuple(arguments.overlay),
            settings=tuple(arguments.settings),
            on_bad=arguments.on_bad,
            num_workers=arguments.num_workers,
            describe=_server(arguments),
            descriptions=arguments.descriptions,
            offline=arguments.offline,
        )
    )
    if not is_main_rank():
        return EXIT_DONE  # the first rank speaks for all
    print("\n".join(printable(line) for line in _summarize(outcome, run=arguments.output)))
    return EXIT_SOME_CASES_FAILED if outcome.skipped else EXIT_DONE


def _show_mapping(mapping: "LabelMapping", *, run: Path | None) -> list[str]:
    from autoseg.planning.multi_dataset.mapping_file import FILE_NAME, describe_mapping

    lines = describe_mapping(mapping)
    more = [f"          and {len(lines) - MAX_LABELS_SHOWN} more"] if len(lines) > MAX_LABELS_SHOWN else []
    where = "" if run is None else f" (to change it, edit {printable(str(run / FILE_NAME))} and plan again)"
    return [
        f"labels    of {len(mapping.labels)} datasets{where}",
        *(f"          {line}" for line in lines[:MAX_LABELS_SHOWN]),
        *more,
    ]


def _server(arguments: argparse.Namespace) -> "Server | None":
    from autoseg.organs.llm_texts import Server

    if arguments.describe is None:
        return None
    if arguments.describe_model is None:
        raise UsageError("--describe needs --describe-model. Name a model that the server knows.")
    key_file: Path | None = arguments.describe_key_file
    if key_file is not None and not key_file.is_file():
        raise UsageError(f"--describe-key-file {key_file} cannot be read: there is no such file. Check the path.")
    try:
        key = None if key_file is None else key_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--describe-key-file {key_file} cannot be read: {error}. Check the path.") from error
    return Server(arguments.describe, arguments.describe_model, key)


def _summarize(outcome: "PlanOutcome", *, run: Path) -> list[str]:
    plans = outcome.plans
    network, training = plans.network, plans.training
    names = [organ.name for organ in plans.data.organs]
    more = f" and {len(names) - MAX_ORGANS_SHOWN} more" if len(names) > MAX_ORGANS_SHOWN else ""
    spacing = " x ".join(f"{size:.3g}" for size in plans.data.target_spacing_zyx_mm)
    mapping = None if outcome.check is None else outcome.check.mapping
    shown = [] if mapping is None else _show_mapping(mapping, run=run)
    shares = ", ".join(f"{one.dataset} {one.fraction:.0%}" for one in training.dataset_sampling_fractions)
    skipped = f", {len(outcome.skipped)} left out" if outcome.skipped else ""
    return [
        f"cases     {len(outcome.used)}{skipped}; folds: {training.num_folds}",
        *shown,
        *([f"sampling  {shares} of the steps"] if shares else []),
        f"organs    {', '.join(names[:MAX_ORGANS_SHOWN])}{more}",
        f"grid      {spacing} mm (z, y, x), sliced along {plans.data.slice_axis}",
        f"network   {network.backbone}, window {network.window_rows_px} x {network.window_columns_px} px, "
        f"batch {training.batch_slices}, for {plans.device.kind} with {plans.device.memory_gib:g} GiB",
        f"plan      {run / 'plans.json'} (why: autoseg_plan -o {run} --explain network)",
        f"next      autoseg_train {run}",
    ]


if __name__ == "__main__":
    raise SystemExit(main())
