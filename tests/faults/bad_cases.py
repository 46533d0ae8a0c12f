"""A dataset of many bad cases among good ones, planned and predicted once, and the outcome of each case.

Owns: `write_dataset`, `plan_and_predict`, and the assertions that tests of single rows make.
Does not own: the bad files (`damage.py`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import run_command
from damage import nifti, packed
from small_data import ORGANS, draw_image, draw_labels

GOOD = ("good_0", "good_1", "good_2")
NOTHING = ""  # to be found in every text


@dataclass(frozen=True)
class Both:
    """What `autoseg_plan` and `autoseg_predict` made of a dataset.

    Attributes:
        codes: Exit codes of plan, of plan with `--on-bad skip`, and of predict.
        printed: All that each of them printed.
        run: Folder of the plan.
        output: Folder of the label maps.
    """

    codes: tuple[int, ...]
    printed: tuple[str, ...]
    run: Path
    output: Path

    def planned(self, case_id: str) -> tuple[str, str]:
        """Give what the report says of a case: good, warning or error, and all its messages."""
        report = json.loads((self.run / "dataset_report.json").read_text(encoding="utf-8"))
        messages = [problem["message"] for problem in report["problems"] if problem["case_id"] == case_id]
        return report["cases"].get(case_id, "absent"), " ".join(messages)

    def predicted(self, case_id: str) -> dict[str, Any]:
        """Give what `run.json` says of a case."""
        cases = json.loads((self.output / "run.json").read_text(encoding="utf-8"))["cases"]
        return next(case for case in cases if case["case_id"] == case_id)

    def label_maps(self) -> set[str]:
        """Name the cases that have a label map."""
        return {path.name.removesuffix(".nii.gz") for path in self.output.glob("*.nii.gz")}

    def in_folds(self) -> set[str]:
        """Name the cases that are trained on."""
        folds = json.loads((self.run / "splits.json").read_text(encoding="utf-8"))
        return {name for fold in folds for part in fold.values() for name in part}


def write_dataset(
    root: Path, images: Mapping[str, bytes], labels: Mapping[str, bytes] | None = None, *, channel: str = "MRI"
) -> Path:
    """Write good cases and, beside them, bad ones.

    Args:
        root: Folder of the dataset.
        images: Bytes of a bad image by file name, such as "cut.nii.gz", which is the case "cut".
        labels: The same for label maps; their images are good.
        channel: Name of the one channel.
    """
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    content = {"channel_names": {"0": channel}, "labels": ORGANS}
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    for number, case_id in enumerate(GOOD):
        _write(root, f"{case_id}.nii.gz", seed=number)
    for number, (name, image) in enumerate(images.items(), start=10):
        _write(root, name, seed=number, image=image)
    for number, (name, label) in enumerate((labels or {}).items(), start=100):
        _write(root, name, seed=number, label=label)
    return root


def _write(root: Path, name: str, *, seed: int, image: bytes | None = None, label: bytes | None = None) -> None:
    case_id, ending = name.split(".", 1)
    image_name = f"{case_id}_0000.{'nii.gz' if image is None else ending}"
    label_name = f"{case_id}.{'nii.gz' if label is None else ending}"
    (root / "imagesTr" / image_name).write_bytes(packed(nifti(draw_image(seed))) if image is None else image)
    (root / "labelsTr" / label_name).write_bytes(packed(nifti(draw_labels())) if label is None else label)


def plan_and_predict(root: Path, *, model: Path, to: Path) -> Both:
    """Plan, plan with `--on-bad skip`, predict the same images; as the commands do, in this process."""
    run, output = to / "run", to / "out"
    planning = ("plan", root, "-o", run, "--num-workers", 1)
    outcomes = [
        run_command(*planning),
        run_command(*planning, "--on-bad", "skip"),
        run_command("predict", "-m", model, "-i", root / "imagesTr", "-o", output),
    ]
    return Both(tuple(one.code for one in outcomes), tuple(one.text for one in outcomes), run, output)


def assert_refused(both: Both, name: str, fault: str, remedy: str, *, as_label: bool = False) -> None:
    """Assert that a bad case is named with its fault and remedy, that nothing was made of it, and all of the others."""
    case_id, ending = name.split(".", 1)
    file = f"{case_id}.{ending}" if as_label else f"{case_id}_0000.{ending}"
    assert both.codes == (4, 3, 3), both.printed
    state, message = both.planned(case_id)
    assert state == "error"
    for words in (file, fault, remedy):
        assert words in message
        assert words in both.printed[0]
    assert case_id not in both.in_folds() and set(GOOD) <= both.in_folds()
    assert not (both.run / "preprocessed" / case_id).exists()
    assert set(GOOD) <= both.label_maps()
    if as_label:
        return
    predicted = both.predicted(case_id)
    assert not predicted["is_done"]
    for words in (file, fault, remedy):
        assert words in predicted["message"] and words in both.printed[2]
    assert not list(both.output.rglob(f"{case_id}*")) and not list(both.output.rglob(".writing-*"))


def assert_used(both: Both, name: str, warning: str = NOTHING, *, as_label: bool = False) -> None:
    """Assert that a case is planned and predicted, with a warning, or (by default) without one."""
    case_id = name.split(".", 1)[0]
    state, message = both.planned(case_id)
    assert state == ("warning" if warning else "good"), message
    assert warning in message
    assert case_id in both.in_folds() and (both.run / "preprocessed" / case_id / "case.json").is_file()
    predicted = both.predicted(case_id)
    assert predicted["is_done"] and case_id in both.label_maps()
    if as_label:
        return
    assert warning in predicted["message"] and bool(warning) == bool(predicted["message"])
    if warning:
        line = next(
            line for line in both.printed[2].splitlines() if line.startswith(f"{case_id}: ") and warning in line
        )
        assert line
