"""Several datasets in one run: all the way, what does not fit, and a mapping of labels that somebody damaged."""

import json

import nibabel as nib
import numpy as np
import pytest
from commands import TINY_OPTIONS, run_command
from small_data import draw_image, draw_labels, save

from autoseg.system.atomic_files import read_json

LABELS_A = {"background": 0, "liver": 3, "lien": 5, "ignore": 9}
LABELS_B = {"background": 0, "spleen": 1, "liver": 2, "stent": 7}
SETTINGS = (*TINY_OPTIONS, "--set", "training.steps_per_epoch=6", "--set", "training.num_folds=2")


def draw(number, values, *, is_ct):
    """Draw a scan of liver, spleen and a rod of a third label, with the dataset's values; a CT has air at one side."""
    liver, spleen, third = values
    labels = draw_labels(liver, spleen)
    labels[0, 0, :5] = third
    image = draw_image(number) + (-100 if is_ct else 200)
    if is_ct:
        image[:, :, -2:] = -1000
    return image, labels


def write_dataset(root, num_cases, *, labels, values, channels=("MRI",), prefix="case", **more):
    for number in range(num_cases):
        image, label = draw(number + len(root.name), values, is_ct=channels[0] == "CT")
        names = [(f"imagesTr/{prefix}_{number}_{channel:04d}", image) for channel in range(len(channels))]
        for name, array in [*names, (f"labelsTr/{prefix}_{number}", label)]:
            save(root / f"{name}.nii.gz", array, np.diag([1, 1, 3, 1]))
    content = {"channel_names": list(channels), "labels": labels, "file_ending": ".nii.gz", **more}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_two(folder, *, num_cases=2):
    """Write A, of MRI with an ignored value and ids that hold the separator, and B, of CT; both folders are "data"."""
    return (
        write_dataset(
            folder / "a" / "data",
            num_cases,
            labels=LABELS_A,
            values=(3, 5, 9),
            prefix="p__1",
            annotated_labels={"p__1_0": ["liver"], "p__1_1": []},
        ),
        write_dataset(folder / "b" / "data", num_cases, labels=LABELS_B, values=(2, 1, 7), channels=("CT",)),
    )


def edit(run, change):
    content = read_json(run / "label_mapping.json")
    change(content)
    (run / "label_mapping.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def way(tmp_path_factory):
    """Plan, edit the mapping, plan again, train, predict: the folder and what each command said."""
    folder = tmp_path_factory.mktemp("many")
    a, b = write_two(folder, num_cases=3)
    run, said = folder / "run", {}
    plan = ("plan", a, b, "-o", run, "--num-workers", 1)
    said["looked"] = run_command("plan", a, b, "--check")
    said["checked"] = run_command(*plan, "--check")
    said["planned"] = run_command(*plan, *SETTINGS)
    (folder / "found.json").write_bytes((run / "plans.json").read_bytes())
    edit(run, lambda content: content["datasets"]["data_2"].update(stent=None))
    said["again"] = run_command(*plan, *SETTINGS)
    said["trained"] = run_command("train", run, "--epochs", 1, "--fold", 0)
    scans = folder / "scans"
    scans.mkdir()
    for root, name in ((a, "p__1_0"), (b, "case_0")):
        (scans / f"{name}.nii.gz").write_bytes((root / "imagesTr" / f"{name}_0000.nii.gz").read_bytes())
    said["predicted"] = run_command("predict", "-m", run, "-i", scans, "-o", folder / "out")
    said["as_mri"] = run_command("predict", "-m", run, "-i", scans, "-o", folder / "mri", "--modality", "MR")
    return folder, said


@pytest.mark.fault("label-mapping")
def test_two_datasets_go_all_the_way_with_one_command_each(way):
    folder, said = way
    for name, outcome in said.items():
        assert outcome.code == 0, (name, outcome.text)
    for name in ("looked", "checked", "planned"):
        assert "liver  <- data: liver; data_2: liver" in said[name].text
        assert "lien  <- data: lien; data_2: spleen" in said[name].text
        assert "data__p__1_1" in said[name].text and "no label was annotated" in said[name].text
    assert "(to change it, edit" not in said["looked"].text and "label_mapping.json" in said["checked"].text
    assert "sampling  data 50%, data_2 50% of the steps" in said["planned"].text
    assert "(background)  <- data_2: stent" in said["again"].text
    found, plans = read_json(folder / "found.json")["data"], read_json(folder / "run" / "plans.json")["data"]
    assert [organ["name"] for organ in found["organs"]] == ["liver", "lien", "stent"]
    assert [organ["name"] for organ in plans["organs"]] == ["liver", "lien"]
    assert plans["modality"] == "mri" and [one["name"] for one in plans["additional_modalities"]] == ["ct"]
    assert [one["ignore_value"] for one in plans["datasets"]] == [9, None]


@pytest.mark.fault("partial-annotation")
def test_the_store_knows_what_was_annotated_ignored_or_made_background(way):
    from autoseg.preprocessing.store import CaseStore

    store = CaseStore(way[0] / "run" / "preprocessed")
    assert store.case_ids() == [
        *("data_2__case_0", "data_2__case_1", "data_2__case_2"),
        *("data__p__1_0", "data__p__1_1", "data__p__1_2"),
    ]
    assert [store.source(f"data__p__1_{k}").annotated for k in range(3)] == [(1,), (), None]
    assert {store.source(case).dataset for case in store.case_ids()} == {"data", "data_2"}
    assert set(np.unique(store.open_labels("data__p__1_2")[:])) == {0, 1, 2, 255}
    assert set(np.unique(store.open_labels("data_2__case_0")[:])) == {0, 1, 2}


def test_validation_counts_what_was_annotated(way):
    summary = read_json(way[0] / "run" / "fold_0" / "validation" / "summary.json")
    assert summary["cases"]
    for case_id, dice in summary["cases"].items():
        if case_id == "data__p__1_0":
            assert dice["lien"] is None
        if case_id == "data__p__1_1":
            assert set(dice.values()) == {None}


def test_prediction_takes_the_modality_from_the_values_or_from_the_user(way):
    folder, said = way
    names = read_json(folder / "out" / "labels.json")
    assert names["labels"] == {"liver": 1, "lien": 2}
    assert names["datasets"]["data_2"] == {"spleen": "lien", "liver": "liver", "stent": None}
    by_values, as_mri = (
        {name: np.asarray(nib.load(folder / where / f"{name}.nii.gz").dataobj) for name in ("p__1_0", "case_0")}
        for where in ("out", "mri")
    )
    assert np.array_equal(by_values["p__1_0"], as_mri["p__1_0"]), "it is an MRI, by its values too"
    assert set(np.unique(np.stack([*by_values.values(), *as_mri.values()]))) <= {0, 1, 2}
    again = said["as_mri"].text
    assert "2 of 2 cases predicted" in again


PLAN = ("--num-workers", 1)


@pytest.mark.fault("label-mapping")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "label_mapping.json cannot be read as JSON"),
        ('{"datasets": {"data": null}}', "is not a mapping of labels"),
        ('{"datasets": {"data": {"liver": 5}}}', "the label 'liver' means 5"),
        ('{"datasets": {"data": {"liver": "\\ud800"}}}', "the label 'liver' means"),
    ],
)
def test_a_damaged_mapping_is_refused_before_any_scan_is_read(tmp_path, command, monkeypatch, text, words):
    roots, run = write_two(tmp_path), tmp_path / "run"
    run.mkdir()
    (run / "label_mapping.json").write_text(text)
    monkeypatch.setattr("autoseg.planning.fingerprint.extract.scan_case", None)  # calling it would fail
    for more in ([], ["--check"]):
        outcome = command("plan", *roots, "-o", run, *PLAN, *more)
        assert outcome.code == 2 and words in outcome.text, outcome.text
    assert (run / "label_mapping.json").read_text() == text
    assert not (run / "plans.json").exists()


@pytest.mark.fault("label-mapping")
def test_a_wrong_edit_is_refused_and_what_was_planned_stays(tmp_path, command):
    roots, run = write_two(tmp_path), tmp_path / "run"
    assert command("plan", *roots, "-o", run, *PLAN).code == 0
    before = (run / "plans.json").read_bytes()
    edit(run, lambda content: content["datasets"]["data"].update(livre="liver"))
    outcome = command("plan", *roots, "-o", run, *PLAN)
    assert outcome.code == 2 and "dataset 'data' has no label 'livre'. Did you mean 'liver'?" in outcome.text
    edit(run, lambda content: [content["datasets"]["data"].pop("livre"), content["regions"].update(a=["lien", "b"])])
    outcome = command("plan", *roots, "-o", run, *PLAN)
    assert outcome.code == 2 and "the region 'a' unites 'b', which no label means" in outcome.text
    assert (run / "plans.json").read_bytes() == before
    edit(run, lambda content: content["regions"].clear())
    assert command("plan", *roots, "-o", run, *PLAN).code == 0
    assert (run / "plans.json").read_bytes() == before


@pytest.mark.fault("label-mapping")
def test_a_dataset_that_comes_and_goes_leaves_the_edits_and_the_plan_as_they_were(tmp_path, command):
    (a, b), run = write_two(tmp_path), tmp_path / "run"
    c = write_dataset(tmp_path / "c", 1, labels={"liver": 1, "liver tumour": 2, "x": 3}, values=(1, 2, 3))
    assert command("plan", a, b, "-o", run, *PLAN).code == 0
    edit(run, lambda content: content["datasets"]["data_2"].update(stent=None))
    assert command("plan", a, b, "-o", run, *PLAN).code == 0
    before = {name: read_json(run / name) for name in ("plans.json", "label_mapping.json", "splits.json")}
    outcome = command("plan", a, b, c, "-o", run, *PLAN)
    assert outcome.code == 0 and "liver  <- data: liver; data_2: liver; c: liver" in outcome.text
    assert "data: liver -> liver with liver tumour" in outcome.text
    assert "(background)  <- data_2: stent" in outcome.text
    outcome = command("plan", a, b, "-o", run, *PLAN)
    assert outcome.code == 0 and "keeps what it says of datasets that are not planned now: c" in outcome.text
    assert read_json(run / "plans.json") == before["plans.json"]
    assert read_json(run / "splits.json") == before["splits.json"]
    datasets = read_json(run / "label_mapping.json")["datasets"]
    assert {name: datasets[name] for name in ("data", "data_2")} == before["label_mapping.json"]["datasets"]
    assert set(datasets["c"]) == {"liver", "liver tumour", "x"}


@pytest.mark.fault("datasets-do-not-fit")
@pytest.mark.parametrize(
    ("channels", "words"),
    [
        (("MRI", "T2"), "the datasets have different numbers of channels (a: T1, T2; b: MRI)"),
        (("T2", "T1"), "a has the channels T1, T2, and b the same in another order: T2, T1"),
    ],
)
def test_channels_that_do_not_go_together_are_refused(tmp_path, command, channels, words):
    a = write_dataset(tmp_path / "a", 1, labels=LABELS_A, values=(3, 5, 9), channels=("T1", "T2"))
    b = write_dataset(tmp_path / "b", 1, labels=LABELS_A, values=(3, 5, 9), channels=channels[: 1 + ("T1" in channels)])
    for more in ([], ["--check"], ["--on-bad", "skip"]):
        outcome = command("plan", a, b, "-o", tmp_path / "run", *PLAN, *more)
        assert outcome.code == 4 and words in outcome.text, outcome.text
    assert read_json(tmp_path / "run" / "dataset_report.json")["problems"][0]["message"].startswith(words[:20])


@pytest.mark.fault("datasets-do-not-fit")
def test_what_is_wrong_with_any_of_the_datasets_stands_in_one_table(tmp_path, command):
    a = write_dataset(tmp_path / "a", 1, labels={"liver": 3}, values=(3, 3, 8))
    b = write_dataset(tmp_path / "b", 2, labels=LABELS_B, values=(2, 1, 7))
    (b / "labelsTr" / "case_1.nii.gz").unlink()
    c = write_dataset(tmp_path / "c", 1, labels={"liver": 3, "Liver": 4}, values=(3, 3, 4))
    outcome = command("plan", a, b, c, tmp_path / "none", "-o", tmp_path / "run", *PLAN)
    assert outcome.code == 4
    for words in (
        "a__case_0  label holds 8 (5 voxels)",
        "b__case_1  there is an image but no label",
        "c: the organ name 'Liver' occurs twice",
        "none does not exist",
    ):
        assert words in outcome.text, outcome.text
    assert not (tmp_path / "run" / "plans.json").exists()


@pytest.mark.fault("datasets-do-not-fit")
def test_ids_that_are_too_long_together_are_left_out_by_name(tmp_path, command):
    a = write_dataset(tmp_path / "a", 1, labels=LABELS_A, values=(3, 5, 9))
    b = write_dataset(tmp_path / "b", 1, labels=LABELS_A, values=(3, 5, 9), prefix="x" * 197)
    outcome = command("plan", a, b, "-o", tmp_path / "run", *PLAN, "--on-bad", "skip")
    assert outcome.code == 4 and "no case of b can be used" in outcome.text
    assert "its name has 202 bytes together with its dataset's; expected at most 200" in outcome.text


@pytest.mark.fault("datasets-do-not-fit")
def test_a_folder_given_twice_by_any_path_is_refused(tmp_path, command):
    a = write_dataset(tmp_path / "a", 1, labels=LABELS_A, values=(3, 5, 9))
    (tmp_path / "link").symlink_to(a)
    for more in ([], ["--check"]):
        outcome = command("plan", a, tmp_path / "link", "-o", tmp_path / "run", *PLAN, *more)
        assert outcome.code == 2 and "a dataset is given twice" in outcome.text
    assert command("plan", a, tmp_path / "link", "--check").code == 2


@pytest.mark.fault("partial-annotation")
def test_a_misspelt_annotation_is_an_error_of_the_dataset_also_with_skip(make_dataset, command, tmp_path):
    root = make_dataset(3, annotated_labels={"good_0": ["livre"], "good_1": ["livre", "spleen"]})
    for more in ([], ["--on-bad", "skip"]):
        outcome = command("plan", root, "-o", tmp_path / "run", *PLAN, *more)
        words = (
            "annotated_labels of 'good_0' and 1 more cases holds 'livre', which is not a label. Did you mean 'liver'?"
        )
        assert outcome.code == 4 and words in outcome.text


@pytest.mark.fault("partial-annotation")
def test_organs_in_a_label_map_that_nobody_annotated_are_reported(make_dataset, command, tmp_path):
    root = make_dataset(3, annotated_labels={"good_0": ["liver"], "good_1": []})
    outcome = command("plan", root, "-o", tmp_path / "run", *PLAN)
    assert outcome.code == 0
    assert "good_0  (warning) label holds spleen, which annotated_labels says were not annotated" in outcome.text
    assert "good_1  (warning) label holds liver, spleen, which annotated_labels says" in outcome.text
    assert "good_1  (warning) annotated_labels says that no label was annotated" in outcome.text


@pytest.mark.fault("markup-and-formulas")
def test_names_in_the_mapping_that_are_printed_are_escaped(tmp_path, command):
    labels = {"liver": 1, "\x1b[31mspleen": 2, "x": 3}
    roots = [write_dataset(tmp_path / name, 1, labels=labels, values=(1, 2, 3)) for name in ("a", "b\x1b[1m")]
    for more in (["--check"], ["--check", "-o", tmp_path / "run"], ["-o", tmp_path / "run"]):
        outcome = command("plan", *roots, *PLAN, *more)
        assert outcome.code == 0 and "labels    of 2 datasets" in outcome.text
        assert "\x1b[3" not in outcome.text and "\x1b[1m" not in outcome.text
