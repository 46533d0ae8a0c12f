"""Kill every stage at every kind of moment, give the same command again, and compare with the undisturbed run.

    python tests/proofs/kill_matrix.py -o docs/kill_matrix.md

A small dataset is planned, trained, predicted, exported and evaluated once without disturbance. Then for each point of
`POINTS` the stage runs again from the same beginning, dies there by `kill -9`, and the same command is given again.
After the kill every file that has its name must be whole; after the repetition every file must equal the undisturbed
run's byte for byte, but for times that are written down. Each run is a fork of this process: nothing is loaded twice.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(1, str(Path(__file__).parents[1] / "faults"))

import torch
from killing import Appending, Calling, Point, Renaming, arm
from small_data import write_dataset

from autoseg.cli import evaluate, plan, predict, train
from autoseg.io.image import is_scan_name, read_labels
from autoseg.network.weights.model_file import load_models
from autoseg.system.atomic_files import TEMPORARY_PREFIX, file_sha256, read_json

HEAD = """# Killed and repeated

`tests/proofs/kill_matrix.py` kills each stage (`kill -9`) at the points below and gives the same command again. After
the kill every file that has its name is whole; after the repetition every file equals that of an undisturbed run, byte
for byte on a CPU with one thread, but for the times that are written down. CI goes through the whole table.
""".splitlines()
STAGES = ("plan", "train", "predict", "export", "evaluate")
SMALL = [
    *("network.image_size_px=32", "network.window_rows_px=32", "network.window_columns_px=32"),
    *("network.feature_channels=16", "network.refiner_channels=[4,16,16]"),
    *("training.batch_slices=2", "training.steps_per_epoch=4", "training.num_folds=2"),
]
OTHER = ["data.target_spacing_zyx_mm=[2,2,2]"]  # what an earlier plan in the same folder was made with
TIMES = {"seconds", "fraction_waiting_for_data", "was_done"}  # the last: whether an earlier run of the command did it
UNCOMPARED = ("*.lock", ".lock*", "resume*.pt", "progress.png")  # of these only the wholeness is looked at


@dataclass(frozen=True)
class Kill:
    """A row of the matrix.

    Attributes:
        stage: Of `STAGES`.
        what: Where it dies, in words.
        point: The same for `arm`.
        after_other: Whether the folder holds an earlier plan with other settings.
    """

    stage: str
    what: str
    point: Point
    after_other: bool = False


POINTS = (
    Kill("plan", "before the first scan is read", Calling("autoseg.planning.fingerprint.extract:scan_cases")),
    Kill("plan", "while the third scan is read", Calling("autoseg.planning.fingerprint.extract:scan_case", number=3)),
    Kill("plan", "`fingerprint.json` half written", Renaming("fingerprint.json", "half")),
    Kill("plan", "`fingerprint.json` just written", Renaming("fingerprint.json", "renamed")),
    Kill("plan", "`dataset_report.json` half written", Renaming("dataset_report.json", "half")),
    Kill("plan", "`plans.json` half written", Renaming("plans.json", "half")),
    Kill("plan", "`plans.json` just written", Renaming("plans.json", "renamed")),
    Kill("plan", "`plans.json` of another plan just replaced", Renaming("plans.json", "renamed"), after_other=True),
    Kill("plan", "the last `dataset_report.json` half written", Renaming("dataset_report.json", "half", number=2)),
    Kill("plan", "`splits.json` half written", Renaming("splits.json", "half")),
    Kill(
        "plan",
        "preprocessing: one array of the second case packed",
        Calling("autoseg.preprocessing.store:pack_array", "after", 3),
    ),
    Kill("plan", "preprocessing: the second case written, without its name", Renaming("good_1", "whole")),
    Kill("plan", "preprocessing: the second case just named", Renaming("good_1", "renamed")),
    Kill(
        "plan",
        "preprocessing: a case of another plan taken away, the new one without its name",
        Renaming("good_1", "whole"),
        after_other=True,
    ),
    Kill("train", "before the first step", Calling("autoseg.training.trainer:train_step")),
    Kill("train", "in the first epoch, nothing saved yet", Calling("autoseg.training.trainer:train_step", "after", 3)),
    Kill("train", "in the third epoch", Calling("autoseg.training.trainer:train_step", "after", 10)),
    Kill(
        "train",
        "half a line of `metrics.jsonl` written",
        Appending("autoseg.training.trainer:append_metrics", "metrics.jsonl", 2),
    ),
    Kill("train", "the first training state half written", Renaming("resume.pt", "half")),
    Kill("train", "the second training state half written", Renaming("resume.pt", "half", 2)),
    Kill(
        "train",
        "the second training state written, the first just set aside",
        Renaming("resume_previous.pt", "renamed"),
    ),
    Kill("train", "the second training state written, without its name", Renaming("resume.pt", "whole", 2)),
    Kill(
        "train", "the second training state just named, the model still the first", Renaming("resume.pt", "renamed", 2)
    ),
    Kill("train", "`model.safetensors` half written", Renaming("model.safetensors", "half", 2)),
    Kill("train", "`model_best.safetensors` half written", Renaming("model_best.safetensors", "half")),
    Kill("train", "`progress.png` half written", Renaming("progress.png", "half")),
    Kill("train", "after the last step, before the model is written", Renaming("model.safetensors", "half", 4)),
    Kill("train", "validation: the second label map half written", Renaming("validation/*.nii.gz", "half", 2)),
    Kill(
        "train", "validation: the specks of the first case just removed", Renaming("validation/*.nii.gz", "renamed", 3)
    ),
    Kill("train", "validation: `summary.json` half written", Renaming("summary.json", "half")),
    Kill("predict", "before the first scan", Calling("autoseg.pipelines.case_steps:_read")),
    Kill(
        "predict",
        "the network at work on the second scan",
        Calling("autoseg.inference.predictor:Predictor.find_labels", "before", 2),
    ),
    Kill("predict", "a label map half written", Renaming("good_*.nii.gz", "half", 2)),
    Kill("predict", "a label map just named, its picture missing", Renaming("good_*.nii.gz", "renamed", 2)),
    Kill("predict", "a picture half written", Renaming("preview/*.png", "half", 2)),
    Kill("predict", "all files of a case written, not yet in the resume log", Renaming("preview/*.json", "renamed", 2)),
    Kill(
        "predict",
        "half a line of the resume log written",
        Appending("autoseg.pipelines.resume_log:ResumeLog.add", "cases.jsonl", 2),
    ),
    Kill(
        "predict",
        "a line of the resume log just written",
        Calling("autoseg.pipelines.resume_log:ResumeLog.add", "after", 2),
    ),
    Kill("predict", "`statistics.csv` half written", Renaming("statistics.csv", "half")),
    Kill("predict", "`report.html` half written", Renaming("report.html", "half")),
    Kill("predict", "`run.json` half written", Renaming("run.json", "half")),
    Kill("export", "before the folds are read", Calling("autoseg.pipelines.export_model:pack_models")),
    Kill("export", "the file half written", Renaming("packed.safetensors", "half")),
    Kill("export", "the file written, without its name", Renaming("packed.safetensors", "whole")),
    Kill("export", "the file just named", Renaming("packed.safetensors", "renamed")),
    Kill("evaluate", "after the first case", Calling("autoseg.evaluation.folders:_measure_pair", "after")),
    Kill("evaluate", "the JSON half written", Renaming("evaluation.json", "half")),
)


def commands(data: Path, work: Path) -> dict[str, tuple[Callable[..., int], list[str]]]:
    """Give the command line of each stage, all of whose files lie in `work`."""
    run, out = work / "run", work / "out"
    cpu = ["--device", "cpu"]
    return {
        "plan": (
            plan.main,
            [str(data), "-o", str(run), *cpu, "--memory-gib", "4", "--num-workers", "1", "--set", *_each(SMALL)],
        ),
        "train": (train.main, [str(run), "--fold", "0", "--epochs", "4", *cpu]),
        "predict": (predict.main, ["-m", str(run), "--fold", "0", "-i", str(data / "imagesTr"), "-o", str(out), *cpu]),
        "export": (train.main, [str(run), "--fold", "0", "--export", str(work / "packed.safetensors")]),
        "evaluate": (evaluate.main, [str(out), str(data / "labelsTr"), "-o", str(work / "evaluation.json")]),
    }


def _each(settings: Sequence[str]) -> list[str]:
    return [settings[0], *(word for setting in settings[1:] for word in ("--set", setting))]


def in_fork(
    main: Callable[..., int], arguments: Sequence[str], *, log: Path, point: Point | None = None, folder: Path
) -> int:
    """Run a command in a fork of this process; gives its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with log.open("a") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
            torch.set_num_threads(1)
            from autoseg.training import trainer
            from autoseg.training.validation import periodic_validation

            trainer.SECONDS_BETWEEN_SAVES = 0.0  # every epoch, in place of every minute
            periodic_validation.MAX_TIME_FRACTION = float("inf")  # whatever the time that validation takes
            if point is not None:
                arm(point, folder=folder)
            code = main(list(arguments))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def contents(work: Path) -> dict[str, Any]:
    """Give what every file of a folder says, by name: a digest, or plain values without the times in them."""
    found: dict[str, Any] = {}
    for path in sorted(work.rglob("*")):
        if path.is_file() and not any(path.match(pattern) for pattern in UNCOMPARED):
            found[str(path.relative_to(work))] = _content(path)
    return found


def _content(path: Path) -> Any:
    if path.suffix == ".json":
        return _without_times(read_json(path))
    if path.suffix == ".jsonl":
        return sorted(json.dumps(_without_times(record), sort_keys=True) for record in _whole_lines(path))
    if path.suffix == ".html":
        return re.sub(r'"seconds": [0-9.e-]+', "", path.read_text())
    return file_sha256(path)


def _whole_lines(path: Path) -> list[Any]:
    """Read the lines of a log but for one that a kill tore, which its readers leave out too."""
    records = []
    for line in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            records.append(json.loads(line))
    return records


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(own) for key, own in value.items() if key not in TIMES}
    return [_without_times(own) for own in value] if isinstance(value, list) else value


def check_whole(work: Path) -> None:
    """Read every file that has its name; one that is half there raises. A line at the end of a log may be."""
    for path in sorted(work.rglob("*")):
        hidden = any(part.startswith(TEMPORARY_PREFIX) for part in path.relative_to(work).parts)
        if not path.is_file() or hidden:
            continue
        if path.suffix == ".json":
            read_json(path)
        elif path.suffix == ".safetensors":
            load_models(path, device=torch.device("cpu"))
        elif path.suffix == ".pt":
            torch.load(path, weights_only=True)
        elif is_scan_name(path.name):
            read_labels(path)
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82"), f"{path} is cut off"
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>"), f"{path} is cut off"


def differing(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Name the files that differ, are missing, or should not be there."""
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


class Matrix:
    """The undisturbed run, and the runs that are killed."""

    def __init__(self, scratch: Path, *, stages: Sequence[str]) -> None:
        """Make the dataset and run each stage once; the folder before each stage is kept."""
        self.scratch, self.data, self.work = scratch, scratch / "data", scratch / "work"
        self.log = scratch / "log.txt"
        write_dataset(self.data, num_cases=5)
        self.commands = commands(self.data, self.work)
        self.work.mkdir()
        self.after: dict[str, dict[str, Any]] = {}
        for stage in stages:
            shutil.copytree(self.work, scratch / f"before_{stage}")
            code = in_fork(*self.commands[stage], log=self.log, folder=self.work)
            assert code == 0, f"{stage} ended with {code}:\n{self.log.read_text()[-3000:]}"
            self.after[stage] = contents(self.work)

    def try_kill(self, kill: Kill) -> str:
        """Die at a point and repeat; gives what is wrong, or nothing."""
        shutil.rmtree(self.work)
        shutil.copytree(self.scratch / f"before_{kill.stage}", self.work)
        main, arguments = self.commands[kill.stage]
        if kill.after_other:
            assert in_fork(main, [*arguments, "--set", *_each(OTHER)], log=self.log, folder=self.work) == 0
        code = in_fork(main, arguments, log=self.log, point=kill.point, folder=self.work)
        if code != -signal.SIGKILL:
            return f"was not killed, but ended with {code}"
        try:
            check_whole(self.work)
        except Exception as error:
            return f"after the kill a file is not whole: {error}"
        code = in_fork(main, arguments, log=self.log, folder=self.work)
        if code != 0:
            return f"the same command ended with {code}"
        wrong = differing(contents(self.work), self.after[kill.stage])
        return f"differ: {', '.join(wrong)}" if wrong else ""


def as_table(rows: Sequence[tuple[Kill, str]]) -> str:
    """Lay the matrix out for docs/."""
    lines = [*HEAD, "", "| stage | killed | afterwards |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {kill.stage} | {kill.what} | {wrong or 'equal'} |" for kill, wrong in rows)]) + "\n"


def main() -> int:
    """Go through the matrix; the exit code is the number of points that are not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="write the table to this file")
    parser.add_argument("--only", default="", help="points whose description holds this")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every nth of them")
    arguments = parser.parse_args()
    rows = []
    chosen = [kill for kill in POINTS if arguments.only in f"{kill.stage} {kill.what}"][:: arguments.every]
    with tempfile.TemporaryDirectory() as name:
        last = max(STAGES.index(kill.stage) for kill in chosen)
        matrix = Matrix(Path(name), stages=STAGES[: last + 1])
        for kill in chosen:
            rows.append((kill, matrix.try_kill(kill)))
            print(f"{kill.stage:8}  {kill.what}: {rows[-1][1] or 'equal'}", flush=True)
        failed = [kill for kill, wrong in rows if wrong]
        if failed:
            print(matrix.log.read_text()[-6000:])
    if arguments.output is not None:
        arguments.output.write_text(as_table(rows), encoding="utf-8")
    print(f"{len(rows) - len(failed)} of {len(rows)} equal")
    return min(len(failed), 100)


if __name__ == "__main__":
    raise SystemExit(main())
