"""What all conversions share, on a source made up for it."""

import dataclasses
import errno
import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from miniatures import described

from autoseg.datasets.dataset import read_dataset
from autoseg.errors import DatasetError, LockedError, OutputError, UsageError
from autoseg.io.image import read_label_names, read_labels
from autoseg.system.file_lock import hold_folder
from dataset_conversion.case_files import read_files
from dataset_conversion.conversion import convert, run_conversion
from dataset_conversion.finding import find_cases, report_missing, require, with_patient
from dataset_conversion.source import Origin, SourceDataset

ORIGIN = Origin(
    name="made_up",
    title="made-up scans",
    licence="CC0-1.0",
    reference="Nobody, 2024.",
    layout="img/<case>.nii.gz and seg/<case>.nii.gz",
    get_it="Make it yourself.",
)
LABELS = {"liver": 1, "spleen": 3}
NUM_ROW = 5


def find(source: Path, **changes) -> list[SourceDataset]:
    require(source, "img", "seg", origin=ORIGIN)
    cases, problems = find_cases(source, images=["img/{case}.nii.gz"], label="seg/{case}.nii.gz", case=r"p\d_\w")
    more, _ = find_cases(source, images=["test/{case}.nii.gz"], label=None, case=r"p\d_\w")
    problems += report_missing(["p1_a", "p1_b", "p2_a"], [case.case_id for case in cases], origin=ORIGIN)
    cases = with_patient(cases, r"(p\d)_")
    return [SourceDataset(channel_names=["CT"], labels=LABELS, cases=cases + more, problems=problems, **changes)]


@pytest.fixture
def source(tmp_path, save_image, save_labels) -> Path:
    for begin, name in enumerate(("p1_a", "p1_b", "p2_a")):
        save_image(tmp_path / "source" / "img" / f"{name}.nii.gz", begin=begin)
        save_labels(tmp_path / "source" / "seg" / f"{name}.nii.gz", (1, 0, 3))
    save_image(tmp_path / "source" / "test" / "p9_a.nii.gz")
    (tmp_path / "source" / "img" / "._p1_a.nii.gz").write_bytes(b"Mac OS X")
    return tmp_path / "source"


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


def run(source, out, **changes):
    return convert(ORIGIN, partial(find, **changes), source, out=out, num_workers=0)[0]


def refuse_link(*_args, **_more):
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_convert_gives_a_dataset_that_autoseg_reads(source, out):
    done = run(source, out)
    assert (done.cases, done.others, done.problems) == (("p1_a", "p1_b", "p2_a"), ("p9_a",), ())
    dataset = read_dataset(out)
    assert dataset.problems == ()
    assert [(case.case_id, case.patient_id) for case in dataset.cases] == [
        ("p1_a", "p1"),
        ("p1_b", "p1"),
        ("p2_a", "p2"),
    ]
    assert [(organ.name, organ.value) for organ in dataset.labels.organs] == [("liver", 1), ("spleen", 3)]
    assert described(out) == {
        "name": "made_up",
        "description": "made-up scans",
        "licence": "CC0-1.0",
        "source": "Nobody, 2024. Make it yourself.",
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "liver": 1, "spleen": 3},
        "numTraining": 3,
        "file_ending": ".nii.gz",
        "patients": {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"},
    }


def test_convert_links_what_can_stay_and_leaves_the_source_as_it_is(source, out):
    before = files_below(source)
    done = run(source, out)
    assert done.num_links == 7
    assert (out / "imagesTr" / "p1_b_0000.nii.gz").samefile(source / "img" / "p1_b.nii.gz")
    assert (out / "labelsTr" / "p1_b.nii.gz").samefile(source / "seg" / "p1_b.nii.gz")
    assert (out / "imagesTs" / "p9_a_0000.nii.gz").samefile(source / "test" / "p9_a.nii.gz")
    assert files_below(source) == before


def test_convert_copies_where_the_file_system_has_no_links(source, out, monkeypatch):
    monkeypatch.setattr(os, "link", refuse_link)
    assert run(source, out).num_links == 0
    target = out / "imagesTr" / "p1_b_0000.nii.gz"
    assert target.read_bytes() == (source / "img" / "p1_b.nii.gz").read_bytes()
    assert not target.samefile(source / "img" / "p1_b.nii.gz")
    assert [path for path in out.rglob(".writing-*")] == []


def test_convert_renumbers_and_names_the_values(source, out):
    run(source, out, renumber={3: 1, 1: 3})
    path = out / "labelsTr" / "p1_a.nii.gz"
    assert read_labels(path).array_zyx.reshape(-1)[80:83].tolist() == [3, 0, 1]
    assert read_label_names(path) == {1: "liver", 3: "spleen"}
    assert (out / "imagesTr" / "p1_a_0000.nii.gz").samefile(source / "img" / "p1_a.nii.gz")


def test_convert_again_does_nothing_again(source, out):
    run(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name[0] != "."}
    (source / "img" / "p9_z.nii.gz").unlink(missing_ok=True)
    done = run(source, out)
    assert done.num_kept == 4
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name[0] != "."}
    assert {path for path in before if before[path] != after[path]} == {out / "dataset.json"}


def test_convert_goes_on_where_it_was_stopped(source, out, save_labels):
    (source / "seg" / "p1_b.nii.gz").rename(source / "kept_away.nii.gz")
    first = run(source, out)
    assert first.cases == ("p1_a", "p2_a")
    assert [(problem.case_id, problem.message) for problem in first.problems] == [
        ("p1_b", "seg/p1_b.nii.gz is missing. Copy or download it again."),
        ("", "1 of 3 cases are missing: p1_b. Make it yourself."),
    ]
    (source / "kept_away.nii.gz").rename(source / "seg" / "p1_b.nii.gz")
    (out / "labelsTr" / "p2_a.nii.gz").unlink()
    with (out / "conversion.jsonl").open("ab") as file:
        file.write(b'\n{"case": "p1_b", "key"')  # a kill cut this line off
    second = run(source, out)
    assert (second.cases, second.num_kept, second.problems) == (("p1_a", "p1_b", "p2_a"), 2, ())
    assert run(source, out).num_kept == 4


def test_convert_changed_source_is_converted_again(source, out, save_labels):
    run(source, out)
    save_labels(source / "seg" / "p2_a.nii.gz", (3, 3, 3, 3))
    assert run(source, out).num_kept == 3
    assert (read_labels(out / "labelsTr" / "p2_a.nii.gz").array_zyx == 3).sum() == 4


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "p1_b.nii.gz"),
        (lambda path: path.write_bytes(b"<html>log in first</html>"), "is a web page, not a scan"),
    ],
)
@pytest.mark.parametrize("folder", ["img", "seg"])
def test_convert_damaged_file_is_reported_and_stops_no_other(source, out, damage, message, folder):
    path = source / folder / "p1_b.nii.gz"
    content = path.read_bytes()
    damage(path)
    done = run(source, out)
    assert done.cases == ("p1_a", "p2_a")
    assert [problem.case_id for problem in done.problems] == ["p1_b"]
    assert message in done.problems[0].message
    assert sorted(path.name for path in out.rglob("p1_b*")) == []
    path.write_bytes(content)
    assert run(source, out).cases == ("p1_a", "p1_b", "p2_a")


def test_convert_unknown_value_is_a_problem_of_its_case(source, out, save_labels):
    save_labels(source / "seg" / "p1_b.nii.gz", (1, 2, 3, 9))
    done = run(source, out)
    assert done.cases == ("p1_a", "p2_a")
    assert "p1_b.nii.gz holds 2, 9; expected only 0 and 1 liver, 3 spleen." in done.problems[0].message


def test_convert_label_on_another_grid_is_a_problem_of_its_case(source, out, save_scan):
    save_scan(source / "seg" / "p1_b.nii.gz", np.ones((6, 8, 11), dtype=np.uint8), spacing_zyx_mm=(3.0, 0.8, 0.8))
    done = run(source, out)
    assert [(problem.case_id, "shape_zyx" in problem.message) for problem in done.problems] == [("p1_b", True)]


def test_convert_label_that_no_case_holds_is_a_warning(source, out, save_labels):
    for path in (source / "seg").iterdir():
        save_labels(path, (1, 1))
    (problem,) = run(source, out).problems
    assert (problem.is_error, problem.message) == (False, "no label map holds spleen (3).")


def test_convert_other_folder_names_all_that_is_missing(tmp_path, source, out):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"does not hold made-up scans: expected img/.* Make it yourself") as caught:
        run(tmp_path / "empty", out)
    assert [problem.case_id for problem in caught.value.problems] == ["img", "seg"]
    with pytest.raises(DatasetError, match="Did you mean the folder 'source' inside it"):
        run(tmp_path, tmp_path.parent / f"{tmp_path.name}_out")
    assert not out.exists()


def test_convert_no_usable_case_is_an_error_that_lists_them(source, out):
    for path in (source / "seg").iterdir():
        path.write_bytes(b"")
    for path in (source / "test").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no usable case") as caught:
        run(source, out)
    assert [problem.case_id for problem in caught.value.problems] == ["p1_a", "p1_b", "p2_a"]
    assert not (out / "dataset.json").exists()


@pytest.mark.parametrize("place", [".", "inside", ".."])
def test_convert_source_and_out_may_not_lie_in_each_other(source, place):
    with pytest.raises(UsageError, match="never written to"):
        run(source, source / place)


def test_convert_folder_with_something_else_is_left_alone(source, out):
    (out / "imagesTr").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds something else"):
        run(source, out)


def test_convert_folder_of_another_run_is_left_alone(source, out):
    out.mkdir()
    with hold_folder(out, command="other", remedy=""), pytest.raises(LockedError):
        run(source, out)


def test_convert_two_cases_of_one_name_are_reported(source, out):
    (dataset,) = find(source)
    twice = SourceDataset(**{**vars(dataset), "cases": [*dataset.cases, dataset.cases[0]]})
    (done,) = convert(ORIGIN, lambda _source: [twice], source, out=out, num_workers=0)
    assert done.cases == ("p1_b", "p2_a")
    assert [(problem.case_id, problem.message[:20]) for problem in done.problems] == [("p1_a", "stands there 2 times")]


def test_run_conversion_works_in_processes_and_tells_what_is_missing(source, out, capsys):
    (source / "img" / "p1_b.nii.gz").unlink()
    assert run_conversion(ORIGIN, find, [str(source), str(out), "--num-workers", "2"]) == 3
    printed = capsys.readouterr()
    assert "2 cases to train on with 2 labels, 1 others in imagesTs; 0 were done before; 5 hard links" in printed.out
    assert "p1_b  img/p1_b.nii.gz is missing." in printed.err
    assert run_conversion(ORIGIN, find, [str(source), str(out), "--num-workers", "0"]) == 2


def test_run_conversion_takes_options_of_its_own(source, out):
    def add_options(parser):
        parser.add_argument("--folder", default="")

    assert run_conversion(ORIGIN, find, [str(source), str(out), "--folder", "one"], add_options=add_options) == 0
    assert (out / "one" / "dataset.json").is_file()


def test_find_cases_two_files_for_one_place_are_reported(source, save_image):
    save_image(source / "img" / "p1_b.nii")
    (dataset,) = find(source)
    assert next((problem.case_id, problem.message) for problem in dataset.problems) == (
        "p1_b",
        "img/p1_b.nii.gz and img/p1_b.nii stand for the same. Keep one.",
    )


def test_find_cases_star_stands_for_one_folder_and_the_name_for_itself(tmp_path, save_image):
    for name in ("x1/a/a_ct.nii.gz", "x2/b/b_ct.nii.gz", "x2/c/d_ct.nii.gz", "y/e/e_ct.nii.gz", "x1/z/f/f_ct.nii.gz"):
        save_image(tmp_path / name)
    cases, problems = find_cases(tmp_path, images=["x*/{case}/{case}_ct.nii.gz"], label=None, case=r"\w")
    assert ([case.case_id for case in cases], problems) == (["a", "b"], [])


def test_convert_held_out_case_goes_to_the_test_folders(source, out, save_labels):
    save_labels(source / "test_seg" / "p9_a.nii.gz", (3,))
    save_image_to = source / "test" / "p9_b.nii.gz"
    save_image_to.write_bytes((source / "test" / "p9_a.nii.gz").read_bytes())

    def find_held_out(source):
        options = {"label": "test_seg/{case}.nii.gz", "case": r"p\d_\w", "held_out": True, "may_lack_label": True}
        cases, problems = find_cases(source, images=["test/{case}.nii.gz"], **options)
        (dataset,) = find(source)
        training = [case for case in dataset.cases if case.label is not None]
        return [SourceDataset(["CT"], LABELS, cases=[*training, *cases], problems=problems)]

    (done,) = convert(ORIGIN, find_held_out, source, out=out, num_workers=0)
    assert (done.cases, done.others, done.problems) == (("p1_a", "p1_b", "p2_a"), ("p9_a", "p9_b"), ())
    assert sorted(path.name for path in (out / "imagesTs").iterdir()) == ["p9_a_0000.nii.gz", "p9_b_0000.nii.gz"]
    assert sorted(path.name for path in (out / "labelsTs").iterdir()) == ["p9_a.nii.gz"]
    assert [case.case_id for case in read_dataset(out).cases] == ["p1_a", "p1_b", "p2_a"]


def read_and_note(case):
    return dataclasses.replace(read_files(case), notes=("looks unusual.",) if case.case_id == "p1_b" else ())


def test_convert_notes_of_a_case_are_reported_again_by_a_later_run(source, out):
    for _ in range(2):
        (problem,) = run(source, out, read=read_and_note).problems
        assert (problem.case_id, problem.message, problem.is_error) == ("p1_b", "looks unusual.", False)


def test_convert_other_settings_convert_again(source, out):
    run(source, out, settings={"spacing": 1})
    assert run(source, out, settings={"spacing": 1}).num_kept == 4
    assert run(source, out, settings={"spacing": 2}).num_kept == 0


class Killed(BaseException):
    """As a signal would."""


def read_until_killed(case):
    if case.case_id == "p1_b":
        raise Killed
    return read_files(case)


@pytest.mark.parametrize("is_again", [False, True])
def test_convert_killed_in_between_leaves_no_dataset_json_and_goes_on(source, out, save_labels, is_again):
    if is_again:
        run(source, out)
        save_labels(source / "seg" / "p1_b.nii.gz", (3, 3, 3, 3))
    with pytest.raises(Killed):
        run(source, out, read=read_until_killed)
    assert not (out / "dataset.json").exists()
    assert (run(source, out).num_kept, (out / "dataset.json").is_file()) == (3 if is_again else 1, True)


def test_convert_full_disk_ends_the_run_and_leaves_no_half_case(source, out, monkeypatch):
    def copy_but_no_labels(path, target):
        if path.parent.name == "seg":
            raise OSError(errno.ENOSPC, "No space left on device")
        target.write_bytes(path.read_bytes())

    monkeypatch.setattr(os, "link", refuse_link)
    monkeypatch.setattr("shutil.copyfile", copy_but_no_labels)
    with pytest.raises(OutputError, match=r"out cannot be written: No space left on device\. Free space there"):
        run(source, out)
    assert [path.name for path in out.rglob("*.gz")] == []


def test_convert_changed_case_that_fails_now_leaves_nothing_of_its_earlier_self(source, out):
    run(source, out)
    (source / "img" / "p1_b.nii.gz").write_bytes(b"")
    assert run(source, out).cases == ("p1_a", "p2_a")
    assert [path.name for path in out.rglob("p1_b*")] == []


def test_convert_case_of_an_earlier_run_that_the_source_lost_is_reported(source, out):
    run(source, out)
    (source / "seg" / "p1_b.nii.gz").unlink()
    for _ in range(2):
        reported = [problem.message for problem in run(source, out).problems if problem.case_id == "p1_b"]
        assert reported[1:] == [
            "is there from an earlier run, but not whole in the source any more. Delete its files in OUT."
        ]
    for path in out.rglob("p1_b*"):
        path.unlink()
    assert [problem.case_id for problem in run(source, out).problems] == ["p1_b", ""]


def test_convert_removes_what_a_killed_run_was_writing(source, out):
    run(source, out)
    (out / "imagesTr" / ".writing-p1_a-x.nii.gz").write_bytes(b"half")
    run(source, out)
    assert [path.name for path in out.rglob(".writing-*")] == []


def test_convert_link_that_leads_nowhere_is_a_missing_file(source, out):
    path = source / "img" / "p1_b.nii.gz"
    path.unlink()
    path.symlink_to(source / "annex" / "object")
    done = run(source, out)
    assert (done.cases, done.problems[0].message[:31]) == (("p1_a", "p2_a"), "img/p1_b.nii.gz is missing. Cop")


def test_convert_source_that_is_links_is_linked_to_the_files_themselves(source, out, tmp_path):
    path = source / "img" / "p1_b.nii.gz"
    path.rename(tmp_path / "object")
    path.symlink_to(tmp_path / "object")
    run(source, out)
    target = out / "imagesTr" / "p1_b_0000.nii.gz"
    assert target.samefile(tmp_path / "object") and not target.is_symlink()
