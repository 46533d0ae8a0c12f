"""The conversion on a miniature, whose MetaImage files SimpleITK writes."""

import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from miniatures import damage, described, messages_of, run

from autoseg.errors import DatasetError, ScanFileError
from autoseg.io.image import read_labels, read_scan
from dataset_conversion import luna16
from dataset_conversion.luna16 import find, main
from dataset_conversion.mhd_files import read_mhd, read_mhd_labels

UIDS = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{number}" for number in (105495028985881418176186711228, 9, 77)]
SHAPE = (3, 4, 6)
RAMP = (np.arange(72, dtype=np.int16) - 1000).reshape(SHAPE)
ORIGIN_LPS_MM, SPACING_XYZ_MM = (-30.0, -20.0, -100.0), (2.0, 1.0, 2.5)
LUNGS = np.zeros(SHAPE, np.uint8)
LUNGS[1, 2] = (4, 4, 5, 0, 3, 3)  # x grows to the left: the right lung comes first


def save_mhd(path, array_zyx, *, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1), origin=ORIGIN_LPS_MM, pack=False):
    image = sitk.GetImageFromArray(array_zyx)
    image.SetSpacing(SPACING_XYZ_MM)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=pack)


@pytest.fixture
def source(tmp_path):
    for subset, uid in zip((0, 0, 9), UIDS, strict=True):
        save_mhd(tmp_path / "source" / f"subset{subset}" / f"{uid}.mhd", RAMP)
        save_mhd(tmp_path / "source" / "seg-lungs-LUNA16" / f"{uid}.mhd", LUNGS, pack=True)
    return tmp_path / "source"


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), (-1, 0, 0, 0, -1, 0, 0, 0, 1)])
def test_header_and_voxels_in_two_files_are_read_as_simpleitk_reads_them(tmp_path, pack, direction):
    save_mhd(tmp_path / "a.mhd", RAMP, direction=direction, pack=pack)
    assert (tmp_path / ("a.zraw" if pack else "a.raw")).is_file()
    scan = read_mhd(tmp_path / "a.mhd")
    np.testing.assert_array_equal(scan.array_zyx, RAMP)
    x, y, z, _ = scan.geometry.affine_array @ [3, 2, 1, 1]
    place = sitk.ReadImage(str(tmp_path / "a.mhd")).TransformIndexToPhysicalPoint((3, 2, 1))
    np.testing.assert_allclose((-x, -y, z), place)


def test_float_labels_are_rounded_and_other_numbers_refused(tmp_path):
    save_mhd(tmp_path / "a.mhd", LUNGS.astype(np.float32) + np.float32(1e-5))
    np.testing.assert_array_equal(read_mhd_labels(tmp_path / "a.mhd").array_zyx, LUNGS)
    save_mhd(tmp_path / "a.mhd", LUNGS.astype(np.float32) / 2)
    with pytest.raises(ScanFileError):
        read_mhd_labels(tmp_path / "a.mhd")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (b"../other.raw", "names no file of voxels beside it"),
        (b"/etc/passwd", "names no file of voxels beside it"),
        (b"LIST", "names no file of voxels beside it"),
        (b"b.raw", r"b\.raw does not exist"),
        (None, r"a\.raw ends before the last of the 6 x 4 x 3 voxels of int16"),
    ],
)
def test_a_header_may_name_no_other_file_and_claim_no_more_than_there_is(tmp_path, words, message):
    save_mhd(tmp_path / "a.mhd", RAMP)
    if words is None:
        (tmp_path / "a.raw").write_bytes((tmp_path / "a.raw").read_bytes()[:-1])
    else:
        head = (tmp_path / "a.mhd").read_bytes()
        (tmp_path / "a.mhd").write_bytes(head.replace(b"a.raw", words))
    with pytest.raises(ScanFileError, match=message):
        read_mhd(tmp_path / "a.mhd")


def test_cuts_and_changed_bytes_end_in_a_scan_or_one_error(tmp_path, rng):
    save_mhd(tmp_path / "a.mhd", RAMP, pack=True)
    head, voxels = (tmp_path / "a.mhd").read_bytes(), (tmp_path / "a.zraw").read_bytes()
    for content, path in ((head, tmp_path / "a.mhd"), (voxels, tmp_path / "a.zraw")):
        for damaged in damage(content, rng, step=5):
            path.write_bytes(damaged)
            try:
                read_mhd(tmp_path / "a.mhd")
            except ScanFileError as error:
                assert str(error).isprintable()
        path.write_bytes(content)


def test_lungs_and_trachea_are_converted(source, tmp_path):
    done = run(luna16, source, tmp_path / "out")
    assert sorted(done.cases) == sorted(UIDS)
    assert [problem.message[:33] for problem in done.problems] == ["2 subsets are there; expected 10."]
    labels = read_labels(tmp_path / "out" / "labelsTr" / f"{UIDS[0]}.nii.gz")
    assert labels.array_zyx[1, 2].tolist() == [2, 2, 3, 0, 1, 1] and np.count_nonzero(labels.array_zyx) == 5
    image = read_scan(tmp_path / "out" / "imagesTr" / f"{UIDS[0]}_0000.nii.gz")
    np.testing.assert_array_equal(image.array_zyx, RAMP)
    assert image.geometry == labels.geometry
    content = described(tmp_path / "out")
    assert content["labels"] == {"background": 0, "left lung": 1, "right lung": 2, "trachea": 3}


def test_a_label_map_whose_axes_run_otherwise_is_turned_and_a_lost_place_reported(source, tmp_path):
    turned = {"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1), "origin": (-20.0, -17.0, -100.0)}
    save_mhd(source / "seg-lungs-LUNA16" / f"{UIDS[1]}.mhd", LUNGS[:, ::-1, ::-1], **turned)
    lost = {**turned, "origin": ORIGIN_LPS_MM}
    save_mhd(source / "seg-lungs-LUNA16" / f"{UIDS[2]}.mhd", LUNGS[:, ::-1, ::-1], **lost)
    done = run(luna16, source, tmp_path / "out")
    for uid in UIDS[1:]:
        labels = read_labels(tmp_path / "out" / "labelsTr" / f"{uid}.nii.gz").array_zyx
        assert labels[1, 2].tolist() == [2, 2, 3, 0, 1, 1]
    reported = messages_of(done)
    assert "only its directions are used" in reported[UIDS[2]] and UIDS[1] not in reported


def test_exchanged_sides_are_reported_and_other_values_refused(source, tmp_path):
    save_mhd(source / "seg-lungs-LUNA16" / f"{UIDS[1]}.mhd", LUNGS[:, :, ::-1])
    save_mhd(source / "seg-lungs-LUNA16" / f"{UIDS[2]}.mhd", LUNGS - 2 * (LUNGS == 3))
    done = run(luna16, source, tmp_path / "out")
    reported = messages_of(done)
    assert reported[UIDS[1]].startswith("the left lung lies to the right of the right one.")
    assert f"{UIDS[2]}.mhd holds 1; expected only 0, 3 left lung" in reported[UIDS[2]]
    assert UIDS[2] not in done.cases


def test_what_is_missing_is_named(source, tmp_path, capsys):
    (source / "seg-lungs-LUNA16" / f"{UIDS[1]}.mhd").unlink()
    (source / "subset9" / f"{UIDS[2]}.raw").unlink()
    assert main([str(source), str(tmp_path / "out")]) == 3
    reported = capsys.readouterr().err
    assert f"seg-lungs-LUNA16/{UIDS[1]}.mhd is missing." in reported
    assert f"{UIDS[2]}.raw does not exist" in reported
    shutil.rmtree(source / "subset0")
    shutil.rmtree(source / "subset9")
    with pytest.raises(DatasetError, match="does not hold LUNA16") as caught:
        find(source)
    assert [problem.case_id for problem in caught.value.problems] == ["subset0 .. subset9"]


def test_archives_unpacked_into_folders_of_their_own_are_found(source, tmp_path):
    for name in ("subset0", "subset9", "seg-lungs-LUNA16"):
        (source / name).rename(source / "moved")
        (source / name).mkdir()
        (source / "moved").rename(source / name / name)
    assert len(run(luna16, source, tmp_path / "out").cases) == 3
