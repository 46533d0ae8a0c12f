import csv
import json
import os
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import torch
from filelock import FileLock

from autoseg import OrganPrompts
from autoseg.errors import DatasetError, LockedError, OutputError, PlanError, UsageError
from autoseg.inference.organ_prompts import PlacedPointPrompts, Span
from autoseg.inference.predictor import Predictor
from autoseg.inference.sliding_window import predict_slices
from autoseg.io.image import read_scan
from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model
from autoseg.pipelines.predict import predict_files
from autoseg.pipelines.predict_array import predict
from autoseg.system.atomic_files import read_json

TABLES = ("labels.ctbl", "labels.json", "labels.tsv")
JOURNAL = (".lock", "cases.jsonl")


@pytest.fixture(scope="module")
def model(tiny_plans, tmp_path_factory):
    torch.manual_seed(0)
    plans = tiny_plans(2)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(build_network(plans).eval(), plans, path)
    return path


@pytest.fixture
def scans(save_scan, rng, tmp_path):
    """Write two good scans, on grids of their own, and one that was cut off."""
    turned = np.array([[0, -1.0, 0, 5], [0, 0, 2.5, -7], [-1.0, 0, 0, 9], [0, 0, 0, 1]])
    save_scan(tmp_path / "scans" / "one.nii.gz", rng.normal(size=(4, 20, 24)).astype(np.float32))
    save_scan(tmp_path / "scans" / "two.nii.gz", rng.normal(size=(5, 22, 18)).astype(np.float32), affine=turned)
    whole = (tmp_path / "scans" / "one.nii.gz").read_bytes()
    (tmp_path / "scans" / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    return tmp_path / "scans"


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_good_case_is_predicted_on_its_own_grid_and_the_bad_one_is_named(model, scans, tmp_path):
    run = predict_files(scans, model, tmp_path / "out", device="cpu")
    assert [case.case_id for case in run.failed] == ["cut"]
    assert names_in(tmp_path / "out") == [
        *JOURNAL,
        *TABLES,
        "one.nii.gz",
        "preview",
        "report.html",
        "run.json",
        "statistics.csv",
        "two.nii.gz",
    ]
    assert names_in(tmp_path / "out" / "preview") == ["one.json", "one.png", "two.json", "two.png"]
    for name in ("one", "two"):
        scan, labels = (nib.load(folder / f"{name}.nii.gz") for folder in (scans, tmp_path / "out"))
        assert labels.shape == scan.shape and np.array_equal(labels.affine, scan.affine)
        assert labels.get_data_dtype() == np.uint8 and set(np.unique(labels.dataobj)) <= {0, 1, 3}
    assert read_json(tmp_path / "out" / "labels.json")["labels"] == {"organ 0": 1, "organ 1": 3}
    report = read_json(tmp_path / "out" / "run.json")
    assert {case["case_id"]: case["is_done"] for case in report["cases"]} == {"one": True, "two": True, "cut": False}
    assert "ends after" in next(case["message"] for case in report["cases"] if case["case_id"] == "cut")
    assert str(tmp_path) not in json.dumps(report), "a report that is shared tells nothing of the machine's folders"


def test_statistics_count_what_the_label_maps_hold(model, scans, tmp_path):
    predict_files(scans, model, tmp_path / "out", device="cpu")
    with (tmp_path / "out" / "statistics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows] == [("one", "1"), ("one", "3"), ("two", "1"), ("two", "3")]
    for row in rows:
        labels = np.asarray(nib.load(tmp_path / "out" / f"{row['case']}.nii.gz").dataobj)
        voxels = np.argwhere(labels == int(row["label"]))
        assert int(row["voxels"]) == len(voxels)
        if len(voxels):
            edges = [int(row[f"{axis}_{end}"]) for end in ("first", "last") for axis in "ijk"]
            assert edges == [*voxels.min(axis=0), *voxels.max(axis=0)]


def test_the_same_command_again_gives_the_same_bytes(model, scans, tmp_path):
    for name in ("a", "b"):
        predict_files(scans, model, tmp_path / name, device="cpu")
    for name in ("one.nii.gz", "two.nii.gz", "labels.json", "statistics.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_second_run_predicts_only_what_is_not_done(model, scans, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict_files(scans / "one.nii.gz", model, out, device="cpu")
    first = (out / "one.nii.gz").stat()
    run = predict_files(scans, model, out, device="cpu")
    assert {case.case_id: case.was_done for case in run.cases} == {"one": True, "two": False, "cut": False}
    assert (out / "one.nii.gz").stat().st_mtime_ns == first.st_mtime_ns
    assert [row.split(",")[0] for row in (out / "statistics.csv").read_text().splitlines()[1:]] == ["one"] * 2 + [
        "two"
    ] * 2
    kept = (out / "two.nii.gz").read_bytes()
    (out / "two.nii.gz").write_bytes(kept[:-1])  # damaged since
    run = predict_files(scans, model, out, device="cpu")
    assert {case.case_id: case.was_done for case in run.cases} == {"one": True, "two": False, "cut": False}
    assert (out / "two.nii.gz").read_bytes() == kept


@pytest.mark.parametrize("change", [{"organs": ["organ 1"]}, {"settings": ["inference.window_overlap=0.25"]}])
def test_other_organs_or_settings_make_every_case_due(model, scans, tmp_path, change):
    predict_files(scans, model, tmp_path / "out", device="cpu")
    run = predict_files(scans, model, tmp_path / "out", device="cpu", **change)
    assert not any(case.was_done for case in run.cases)


def test_a_changed_scan_or_model_is_predicted_anew(model, scans, tiny_plans, save_scan, rng, tmp_path):
    one = scans / "one.nii.gz"
    predict_files(one, model, tmp_path / "out", device="cpu")
    save_scan(one, rng.normal(size=(4, 20, 24)).astype(np.float32))
    assert not predict_files(one, model, tmp_path / "out", device="cpu").cases[0].was_done
    assert predict_files(one, model, tmp_path / "out", device="cpu").cases[0].was_done
    torch.manual_seed(1)
    plans = tiny_plans(2)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    assert not predict_files(one, tmp_path / "model.safetensors", tmp_path / "out", device="cpu").cases[0].was_done


def test_uncertainty_is_written_in_per_cent_on_the_scans_grid(model, scans, tmp_path):
    one = scans / "one.nii.gz"
    predict_files(one, model, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "uncertainty").exists()
    run = predict_files(one, model, tmp_path / "out", device="cpu", also=["uncertainty"])
    assert not run.cases[0].was_done
    scan, unsure = nib.load(one), nib.load(tmp_path / "out" / "uncertainty" / "one.nii.gz")
    assert unsure.shape == scan.shape and np.array_equal(unsure.affine, scan.affine)
    values = np.asarray(unsure.dataobj)
    expected = predict(one, model, device="cpu", uncertainty=True).uncertainty
    np.testing.assert_allclose(values, expected * 100, atol=0.51)
    assert values.max() > 5


def test_probabilities_are_written_in_per_cent_an_organ_and_leave_nothing_behind(model, scans, tmp_path):
    predict_files(scans / "two.nii.gz", model, tmp_path / "out", device="cpu", also=["probabilities"])
    folder = tmp_path / "out" / "probabilities" / "two"
    assert names_in(folder) == ["1_organ_0.nii.gz", "3_organ_1.nii.gz"]
    percent = np.stack([np.asarray(nib.load(path).dataobj) for path in sorted(folder.iterdir())])
    labels = np.asarray(nib.load(tmp_path / "out" / "two.nii.gz").dataobj)
    assert percent.min() >= 0 and percent.sum(axis=0).max() <= 101
    for value, own in zip((1, 3), percent, strict=True):
        assert (own[labels == value] >= 33).all()  # of three, the largest
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(("tmp", ".writing"))]


def test_masks_and_a_segmentation_of_slicer_are_written_when_asked_for(model, scans, tmp_path):
    one, out = scans / "one.nii.gz", tmp_path / "out"
    predict_files(one, model, out, device="cpu", also=["masks", "seg.nrrd"])
    labels = np.asarray(nib.load(out / "one.nii.gz").dataobj)
    for value, name in ((1, "1_organ_0"), (3, "3_organ_1")):
        mask = nib.load(out / "masks" / "one" / f"{name}.nii.gz")
        assert np.array_equal(np.asarray(mask.dataobj), labels == value)
    assert np.array_equal(read_scan(out / "one.seg.nrrd").array_zyx.transpose(), labels)
    assert predict_files(one, model, out, device="cpu", also=["seg.nrrd", "masks"]).cases[0].was_done
    (out / "masks" / "one" / "1_organ_0.nii.gz").unlink()
    assert not predict_files(one, model, out, device="cpu", also=["seg.nrrd", "masks"]).cases[0].was_done
    with pytest.raises(
        UsageError, match=r"--also 'stl': expected uncertainty, probabilities, seg\.nrrd, seg\.dcm, masks"
    ):
        predict_files(one, model, out, device="cpu", also=["stl"])


def test_a_folder_that_another_process_predicts_into_is_locked(model, scans, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(LockedError, match=r"out: another run works on it\. Wait"):
        predict_files(scans, model, tmp_path / "out", device="cpu")


def test_a_single_file_is_a_case(model, scans, tmp_path):
    run = predict_files(scans / "two.nii.gz", model, tmp_path / "out", device="cpu")
    assert [case.case_id for case in run.cases] == ["two"] and not run.failed


def test_one_label_asked_for_is_the_only_one_in_the_output(model, scans, tmp_path):
    predict_files(scans / "one.nii.gz", model, tmp_path / "out", device="cpu", organs=["organ 1"])
    assert read_json(tmp_path / "out" / "labels.json")["labels"] == {"organ 1": 3}
    assert set(np.unique(nib.load(tmp_path / "out" / "one.nii.gz").dataobj)) <= {0, 3}


def test_nothing_usable_raises_with_every_problem_and_still_reports(model, scans, tmp_path):
    for name in ("one", "two"):
        (scans / f"{name}.nii.gz").unlink()
    with pytest.raises(DatasetError, match="None of the 1 cases") as caught:
        predict_files(scans, model, tmp_path / "out", device="cpu")
    assert [problem.case_id for problem in caught.value.problems] == ["cut"]
    assert not read_json(tmp_path / "out" / "run.json")["cases"][0]["is_done"]


def test_channels_on_different_grids_fail_that_case_alone(tiny_plans, save_scan, rng, tmp_path):
    plans = tiny_plans(1, num_channels=2)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    for case, spacing in (("good", 1.0), ("bad", 1.5)):
        for channel, spacing_mm in ((0, 1.0), (1, spacing)):
            array = rng.normal(size=(3, 20, 20)).astype(np.float32)
            path = tmp_path / "scans" / f"{case}_{channel:04d}.nii.gz"
            save_scan(path, array, spacing_zyx_mm=(3.0, spacing_mm, spacing_mm))
    run = predict_files(tmp_path / "scans", tmp_path / "model.safetensors", tmp_path / "out", device="cpu")
    assert names_in(tmp_path / "out") == [
        *JOURNAL,
        "good.nii.gz",
        *TABLES,
        "preview",
        "report.html",
        "run.json",
        "statistics.csv",
    ]
    assert "bad_0000.nii.gz and bad_0001.nii.gz differ in spacing_zyx_mm" in run.failed[0].message


def test_a_case_with_two_faults_is_one_failed_case_with_both(tiny_plans, save_scan, tmp_path):
    plans = tiny_plans(1, num_channels=3)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    for channel in range(3):
        save_scan(tmp_path / "scans" / f"good_{channel:04d}.nii.gz", np.zeros((3, 20, 20), np.float32))
    save_scan(tmp_path / "scans" / "bad_0001.nii.gz", np.zeros((3, 20, 20), np.float32))
    run = predict_files(tmp_path / "scans", tmp_path / "model.safetensors", tmp_path / "out", device="cpu")
    [failed] = run.failed
    assert failed.case_id == "bad" and "channel 0000" in failed.message and "channel 0002" in failed.message


def test_a_case_that_now_fails_leaves_no_label_map_of_before(model, scans, tmp_path):
    out = tmp_path / "out"
    predict_files(scans, model, out, device="cpu", also=["masks"])
    (scans / "one.nii.gz").write_bytes(b"no scan any more")
    run = predict_files(scans, model, out, device="cpu")
    assert {case.case_id for case in run.failed} == {"cut", "one"}
    assert not (out / "one.nii.gz").exists() and (out / "two.nii.gz").exists()
    assert not list((out / "masks").rglob("*.nii.gz")), "the other case's masks were of another run too"


def test_a_scan_whose_name_is_not_utf8_is_predicted_and_reported(model, scans, tmp_path):
    odd = os.fsdecode(b"caf\xe9.nii.gz")
    (scans / "one.nii.gz").rename(scans / odd)
    run = predict_files(scans, model, tmp_path / "out", device="cpu")
    assert len(run.cases) == 3 and len(run.failed) == 1
    assert (tmp_path / "out" / odd).is_file()
    names = {case["case_id"] for case in read_json(tmp_path / "out" / "run.json")["cases"]}
    assert names == {"caf\\udce9", "cut", "two"}


def test_a_disk_that_is_full_at_the_end_is_no_bug_of_ours(model, scans, tmp_path, monkeypatch):
    def write_run(*_arguments, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoseg.pipelines.predict.write_run", write_run)
    with pytest.raises(OutputError, match=r"cannot be written: No space left.* Free space"):
        predict_files(scans, model, tmp_path / "out", device="cpu")


def test_scans_that_are_links_are_never_replaced_by_their_label_maps(model, scans, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "one.nii.gz").symlink_to(scans / "one.nii.gz")
    with pytest.raises(UsageError, match="inputs are never overwritten"):
        predict_files(tmp_path / "links", model, tmp_path / "links", device="cpu")


def test_settings_change_inference_alone(model, scans, tmp_path):
    one = scans / "one.nii.gz"
    predict_files(one, model, tmp_path / "out", device="cpu", settings=["inference.window_overlap=0.25"])
    assert read_json(tmp_path / "out" / "run.json")["inference"]["window_overlap"] == 0.25
    with pytest.raises(UsageError, match="only inference"):
        predict_files(one, model, tmp_path / "out", device="cpu", settings=["network.refiner_stride=2"])
    with pytest.raises(PlanError, match="window_overlap"):
        predict_files(one, model, tmp_path / "out", device="cpu", settings=["inference.window_overlap=2"])


def test_inputs_are_never_overwritten(model, scans):
    before = {name: (scans / name).read_bytes() for name in names_in(scans)}
    with pytest.raises(UsageError, match="inputs are never overwritten"):
        predict_files(scans, model, scans, device="cpu")
    with pytest.raises(UsageError, match="inputs are never overwritten"):
        predict_files(scans / "one.nii.gz", model, scans / ".." / "scans", device="cpu")
    assert {name: (scans / name).read_bytes() for name in names_in(scans)} == before


def test_an_output_that_cannot_be_written_is_found_before_the_work(model, scans, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("a file, not a folder")
    with pytest.raises(UsageError, match="cannot be written"):
        predict_files(scans, model, tmp_path / "file", device="cpu")
    with pytest.raises(UsageError, match="cannot be written"):
        predict_files(scans, model, tmp_path / "file" / "below", device="cpu")
    if os.geteuid() != 0:  # root may write everywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(UsageError, match="cannot be written"):
            predict_files(scans, model, tmp_path / "closed", device="cpu")


def test_a_case_that_needs_more_memory_than_there_is_fails_alone(model, scans, tmp_path, monkeypatch):
    from autoseg.inference.predictor import Predictor

    real = Predictor.find_labels

    def find_labels(self, channels, **_rest):
        if channels[0].geometry.shape_zyx == (4, 20, 24):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, channels)

    monkeypatch.setattr(Predictor, "find_labels", find_labels)
    run = predict_files(scans, model, tmp_path / "out", device="cpu")
    assert {case.case_id for case in run.failed} == {"one", "cut"}
    assert (tmp_path / "out" / "two.nii.gz").is_file() and not (tmp_path / "out" / "one.nii.gz").exists()


def test_points_help_the_case_they_name_alone_and_are_refused_where_they_can_do_nothing(
    tiny_plans, model, scans, tmp_path
):
    torch.manual_seed(0)
    plans = tiny_plans(2, network={"point_prompts": True})
    taking = tmp_path / "taking.safetensors"
    save_model(build_network(plans).eval(), plans, taking)
    point_prompts = {"one": {"organ 0": OrganPrompts(inside=((5, 6, 2),), box=((2, 2, 0), (18, 15, 3)))}}
    predict_files(scans, taking, tmp_path / "text", device="cpu")
    predict_files(scans, taking, tmp_path / "both", device="cpu", point_prompts=point_prompts)
    one, two = (
        [np.asarray(nib.load(tmp_path / out / name).dataobj) for out in ("text", "both")]
        for name in ("one.nii.gz", "two.nii.gz")
    )
    assert np.array_equal(*two) and not np.array_equal(*one)
    with pytest.raises(UsageError, match="this model takes none"):
        predict_files(scans, model, tmp_path / "none", device="cpu", point_prompts=point_prompts)
    with pytest.raises(UsageError, match="there is no case 'three'"):
        predict_files(scans, taking, tmp_path / "none", device="cpu", point_prompts={"three": point_prompts["one"]})
    assert not (tmp_path / "none").exists()
    for wrong in ({"one": {"heart": point_prompts["one"]["organ 0"]}}, {"one": point_prompts["one"]["organ 0"]}):
        with pytest.raises(UsageError, match=r"'heart' is not among|give organs by name"):
            predict_files(scans, taking, tmp_path / "none", device="cpu", point_prompts=wrong)


@pytest.mark.parametrize("size", [1, 2, 8])
def test_points_in_one_slice_leave_the_others_alone_whatever_the_batch(tiny_plans, rng, size):
    plans = tiny_plans(1, network={"point_prompts": True}, inference={"slices_per_batch": size})
    torch.manual_seed(3)
    network = build_network(plans).eval()
    image = rng.normal(size=(1, 6, 32, 32)).astype(np.float32)
    points = tuple((Span((-0.5, row - 0.5, 7.5), (0.5, row + 0.5, 8.5)), 1) for row in (5, 9, 13))

    def run(point_prompts):
        device = torch.device("cpu")
        maps = predict_slices([network], image, plans=plans, organs=[0], device=device, point_prompts=point_prompts)
        return torch.cat(list(maps)).numpy()

    text, pointed = run(None), run(PlacedPointPrompts((points,), (None,)))
    assert np.allclose(text[1:], pointed[1:], atol=1e-5) and not np.allclose(text[0], pointed[0], atol=1e-3)


def test_an_organ_by_its_description_is_in_every_output_and_makes_the_cases_due(model, scans, tmp_path):
    out = tmp_path / "out"
    predict_files(scans / "one.nii.gz", model, out, device="cpu")
    run = predict_files(scans / "one.nii.gz", model, out, device="cpu", new_organs={"thymus": "It is soft."})
    assert [case.was_done for case in run.cases] == [False]
    assert [organ.name for organ in run.cases[0].organs] == ["organ 0", "organ 1", "thymus"]
    assert '"thymus": 4' in (out / "labels.json").read_text().replace("\n", "")
    again = predict_files(scans / "one.nii.gz", model, out, device="cpu", new_organs={"thymus": "It is hard."})
    assert [case.was_done for case in again.cases] == [False]


def test_specks_are_removed_from_files_and_from_images_in_memory(model, tiny_plans, save_scan, tmp_path, monkeypatch):
    """The network says "organ" where the image is bright: in a box, and in one voxel far from it."""

    def brightness(images, organs, **_rest):
        middle = images[:, images.shape[1] // 2, None]
        return SimpleNamespace(logits=torch.cat([torch.zeros_like(middle), middle], dim=1))

    array = np.zeros((4, 32, 32), np.float32)
    array[1:3, 5:15, 5:15] = 1
    expected = array > 0
    array[2, 28, 28] = 1
    scan = save_scan(tmp_path / "one.nii.gz", array, spacing_zyx_mm=(3, 1, 1))
    cleaning = [{"organ": "organ 0", "min_fraction": 0.1}]
    plans = tiny_plans(1, data={"crop_to_nonzero": False}, inference={"component_filter": cleaning})
    predictor = Predictor((brightness,), plans, (0,), torch.device("cpu"))
    monkeypatch.setattr("autoseg.pipelines.prediction_request.load_predictor", lambda *_args, **_facts: predictor)
    predict_files(scan, model, tmp_path / "out", device="cpu")
    labels = np.asarray(nib.load(tmp_path / "out" / "one.nii.gz").dataobj).transpose()
    np.testing.assert_array_equal(labels > 0, expected)
    np.testing.assert_array_equal(predict(scan, predictor).labels_zyx > 0, expected)
