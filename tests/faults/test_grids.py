"""Image, label map and channels that lie on different grids, and axes in every order.

One dataset holds every such case; it is planned once, and its images are predicted once.
"""

import itertools
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from commands import run_command
from small_data import SHAPE_ZYX, draw_image, draw_labels, save

from autoseg.system.atomic_files import read_json

AFFINE = np.diag([-1.0, -1.0, 3.0, 1.0])  # LPS, as most scanners store
AFFINE[:3, 3] = (30, 40, -50)
ORDERS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def moved(**changes):
    """Give the affine `by` millimeters away, of another `spacing`, `turned` about z, or with `signs` of its rows."""
    affine = AFFINE.copy()
    affine[:3, 3] += changes.get("by", 0)
    if "spacing" in changes:
        affine[2, 2] = changes["spacing"]
    if "turned" in changes:
        angle = np.deg2rad(changes["turned"])
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        affine[:2, :2] = turn @ affine[:2, :2]
    return np.diag([*changes.get("signs", (1, 1, 1)), 1.0]) @ affine


def flipped():
    """Give the affine of the same box with x counted from the other end."""
    affine = AFFINE.copy()
    affine[0] = -AFFINE[0]
    affine[0, 3] = AFFINE[0, 3] + AFFINE[0, 0] * (SHAPE_ZYX[2] - 1)
    return affine


SHIFTED_LITTLE = np.array([0.05, 0, 0])
SHIFTED = np.array([0, 0.15, 0])
# what differs, in the label map or in the second channel; what is said
DIFFERENT = {
    "size": ((*SHAPE_ZYX[:2], 23), AFFINE, ["shape_zyx: (6, 20, 24) and (6, 20, 23)", "Resample the"]),
    "spacing": (SHAPE_ZYX, moved(spacing=2.5), ["spacing_zyx_mm: (3.0, 1.0, 1.0) and (2.5, 1.0, 1.0)", "Resample the"]),
    "origin": (
        SHAPE_ZYX,
        moved(by=SHIFTED),
        ["origin_xyz_mm: (30.0, 40.0, -50.0) and (30.0, 40.15, -50.0)", "0.15 mm"],
    ),
    "direction": (SHAPE_ZYX, moved(turned=5), ["differ in direction", "mm apart", "Resample the"]),
    "flipped": (SHAPE_ZYX, flipped(), ["fill the same box: one header is flipped", "copy its affine to the other"]),
    "mirrored": (SHAPE_ZYX, moved(signs=(-1, -1, 1)), ["sign of their axes alone", "one header flipped", "copy its"]),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Write the dataset: good cases, and each difference once in the label map and once in the second channel."""
    root = tmp_path_factory.mktemp("grids") / "data"

    def write(name, *, label=(SHAPE_ZYX, AFFINE), channel=(SHAPE_ZYX, AFFINE), number=0):
        save(root / "imagesTr" / f"{name}_0000.nii.gz", draw_image(number), AFFINE)
        z, y, x = channel[0]
        save(root / "imagesTr" / f"{name}_0001.nii.gz", draw_image(number + 50)[:z, :y, :x], channel[1])
        z, y, x = label[0]
        save(root / "labelsTr" / f"{name}.nii.gz", draw_labels()[:z, :y, :x], label[1])

    for number in range(2):
        write(f"good_{number}", number=number)
    write(
        "little", label=(SHAPE_ZYX, moved(by=SHIFTED_LITTLE)), channel=(SHAPE_ZYX, moved(by=SHIFTED_LITTLE)), number=2
    )
    for number, (name, (shape, affine, _words)) in enumerate(DIFFERENT.items(), start=3):
        write(f"label_{name}", label=(shape, affine), number=number)
        write(f"channel_{name}", channel=(shape, affine), number=number + 20)
    content = {"channel_names": {"0": "MRI", "1": "T2"}, "labels": {"background": 0, "liver": 1, "spleen": 2}}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def planned(root):
    """Plan, first as it is, then without the bad cases."""
    run = root.parent / "run"
    refused = run_command("plan", root, "-o", run, "--num-workers", 1)
    return refused, run_command("plan", root, "-o", run, "--on-bad", "skip", "--num-workers", 1), run


@pytest.fixture(scope="module")
def predicted(root, make_model):
    """Predict all images with a model of two channels."""
    output = root.parent / "out"
    return run_command("predict", "-m", make_model(2, num_channels=2), "-i", root / "imagesTr", "-o", output), output


def messages_of(run: Path) -> dict[str, str]:
    """Give what the dataset report says of each case."""
    messages: dict[str, str] = {}
    for problem in read_json(run / "dataset_report.json")["problems"]:
        messages[problem["case_id"]] = messages.get(problem["case_id"], "") + problem["message"] + " "
    return messages


@pytest.mark.fault("grids-differ")
def test_plan_refuses_or_skips_cases_whose_grids_differ_and_uses_the_others(planned):
    refused, skipped, run = planned
    assert (refused.code, skipped.code) == (4, 3)
    assert "12 of 15 cases cannot be used" in refused.text and "--on-bad skip" in refused.text
    assert "cases     3, 12 left out" in skipped.text
    report = read_json(run / "dataset_report.json")
    assert sorted(name for name, state in report["cases"].items() if state != "error") == ["good_0", "good_1", "little"]
    assert sorted(path.name for path in (run / "preprocessed").iterdir()) == ["good_0", "good_1", "little"]


@pytest.mark.fault("grids-differ")
@pytest.mark.fault("origins-differ")
@pytest.mark.parametrize("name", DIFFERENT)
def test_plan_names_both_values_and_the_remedy(planned, name):
    refused, _skipped, run = planned
    for where, who in (("label", "image and label differ in"), ("channel", "image and channel T2 differ in")):
        message = messages_of(run)[f"{where}_{name}"]
        for words in (who, *DIFFERENT[name][2]):
            assert words in message
        assert message.strip() in refused.text


@pytest.mark.fault("grids-differ")
@pytest.mark.fault("origins-differ")
@pytest.mark.parametrize("name", DIFFERENT)
def test_predict_skips_cases_whose_channels_differ_and_predicts_the_others(predicted, root, name):
    outcome, output = predicted
    assert outcome.code == 3, outcome.text
    case = f"channel_{name}"
    cases = {entry["case_id"]: entry for entry in read_json(output / "run.json")["cases"]}
    for words in (f"{case}_0000.nii.gz and {case}_0001.nii.gz differ in", *DIFFERENT[name][2]):
        assert words in cases[case]["message"] and words in outcome.text
    written = {path.name.removesuffix(".nii.gz") for path in output.glob("*.nii.gz")}
    assert written == {"good_0", "good_1", "little", *(f"label_{other}" for other in DIFFERENT)}
    assert str(root) not in outcome.text


@pytest.mark.fault("origins-differ")
def test_a_shift_below_a_tenth_of_a_voxel_is_repaired_and_reported(planned, predicted):
    refused, _skipped, run = planned
    for name in ("label", "channel T2"):
        text = f"the {name}'s grid lies 0.05 mm off, under 0.1 voxel; the image's grid is used."
        assert text in messages_of(run)["little"] and text in refused.text
    _outcome, output = predicted
    cases = {entry["case_id"]: entry for entry in read_json(output / "run.json")["cases"]}
    assert "the channel little_0001.nii.gz's grid lies 0.05 mm off" in cases["little"]["message"]
    np.testing.assert_array_equal(nib.load(output / "little.nii.gz").affine, AFFINE)


def turned_by_ten_degrees():
    """Give a rotation about an oblique axis (Rodrigues' formula)."""
    x, y, z = np.array([1.0, 2.0, 3.0]) / np.sqrt(14)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(10)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@pytest.fixture(scope="module")
def orders(tmp_path_factory):
    """Write one patient, oblique in the scanner, in 48 files: every order and direction of the axes."""
    root = tmp_path_factory.mktemp("orders") / "data"
    image, labels = (array[:5].transpose() for array in (draw_image(0), draw_labels()))
    for number, (order, signs) in enumerate(ORDERS):
        affine = np.zeros((4, 4))
        affine[3, 3] = 1.0
        for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
            affine[world, axis] = sign * (1.0, 1.5, 3.0)[world]
        affine[:3, :3] = turned_by_ten_degrees() @ affine[:3, :3]
        affine[:3, 3] = (-7, 11, 40)
        flips = tuple(slice(None, None, sign) for sign in signs)
        for folder, array in (("images", image), ("labels", labels)):
            save(root / folder / f"{number:02d}.nii.gz", array.transpose(order)[flips].transpose(), affine)
    (root / "dataset.json").write_text(json.dumps({"channel_names": ["MRI"], "labels": {"liver": 1, "spleen": 2}}))
    return root


@pytest.mark.fault("orientations")
def test_plan_finds_the_same_patient_in_all_48_orders(orders, tmp_path):
    outcome = run_command("plan", orders, "-o", tmp_path / "run", "--num-workers", 1)
    assert outcome.code == 0, outcome.text
    assert outcome.text.count("holds the same voxels as 00") > 0
    cases = read_json(tmp_path / "run" / "fingerprint.json")["cases"]
    assert len(cases) == 48 and len({case["voxel_digest"] for case in cases}) == 1
    for case in cases:
        assert case["size_zyx"] == [5, 20, 24]
        assert case["spacing_zyx_mm"] == pytest.approx([3.0, 1.5, 1.0], rel=1e-5)
        assert case["organs"][0]["num_voxels"] == 192 and case["organs"][0]["slices_zyx"] == [3, 8, 8]


@pytest.mark.fault("orientations")
def test_predict_puts_every_label_map_on_its_scans_exact_grid(orders, make_model, tmp_path):
    """Ten orders, oblique; `tests/pipelines/test_orientations.py` goes through all 48 and all other outputs."""
    chosen = range(0, 48, 5)
    scans = [orders / "images" / f"{number:02d}.nii.gz" for number in chosen]
    outcome = run_command("predict", "-m", make_model(2), "-i", *scans, "-o", tmp_path / "out")
    assert outcome.code == 0, outcome.text
    expected = None
    for number in chosen:
        order, signs = ORDERS[number]
        scan, made = (nib.load(folder / f"{number:02d}.nii.gz") for folder in (orders / "images", tmp_path / "out"))
        assert made.shape == scan.shape
        np.testing.assert_array_equal(made.affine, scan.affine)
        flips = tuple(slice(None, None, sign) for sign in signs)
        patient = np.asarray(made.dataobj)[flips].transpose(np.argsort(order))
        expected = patient if expected is None else expected
        assert (patient != expected).mean() < 0.01  # float32 spacings differ in the last digit
    assert set(np.unique(expected)) > {0}
