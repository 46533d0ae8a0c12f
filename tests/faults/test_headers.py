"""Headers that are unusual or impossible, and voxel values without meaning, are planned and predicted."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest
from bad_cases import assert_refused, assert_used, plan_and_predict, write_dataset
from damage import metaimage, nifti, nrrd, packed, with_fields
from small_data import SHAPE_ZYX, draw_image, draw_labels

from autoseg.errors import ScanFileError
from autoseg.io.image import read_scan

QFORM, SFORM, NEITHER = {"sform_code": 0}, {"qform_code": 0}, {"sform_code": 0, "qform_code": 0}
REPAIR = "Repair the header"


def mri(seed, **fields):
    """Give a packed NIfTI with fields changed."""
    return packed(with_fields(nifti(draw_image(seed)), **fields))


def in_unit(seed, code, size):
    """Give a scan whose lengths of 1 mm are written in another unit."""
    whole = nifti(draw_image(seed), spacing_xyz_mm=(size, size, size))
    return packed(with_fields(whole, xyzt_units=code))


def spoilt(seed, number, value=np.nan):
    """Give a scan some voxels of which hold a value that is none."""
    array = draw_image(seed)
    array.ravel()[:number] = value
    return packed(nifti(array))


def labels_with(**fields):
    """Give a label map with fields of its header changed."""
    return packed(with_fields(nifti(draw_labels()), **fields))


BIG_ENDIAN = nib.Nifti1Image(draw_image(60).T, np.eye(4), nib.Nifti1Header(endianness=">")).to_bytes()
BIG_LABELS = nib.Nifti1Image(draw_labels().astype(np.int16).T, np.eye(4), nib.Nifti1Header(endianness=">")).to_bytes()
STORED = (draw_image(70) * 10).astype(np.int16)
TEN_VOXELS = draw_image(0).size // 288

IMAGES = {
    "spacing_0.nii.gz": mri(10, pixdim=(1, 0, 1, 1, 0, 0, 0, 0)),
    "spacing_below_0.nii.gz": mri(11, pixdim=(1, 1, -1, 1, 0, 0, 0, 0)),
    "spacing_nan.nii.gz": mri(12, pixdim=(1, 1, 1, np.nan, 0, 0, 0, 0)),
    "spacing_infinite.nii.gz": mri(13, pixdim=(1, 1, 1, np.inf, 0, 0, 0, 0)),
    "spacing_of_no_scanner.nii.gz": mri(14, pixdim=(1, 5000, 1, 1, 0, 0, 0, 0), **QFORM),
    "spacing_tiny.nii.gz": mri(15, srow_x=(1e-6, 0, 0, 0), **SFORM),
    "axis_of_0.nii.gz": mri(16, srow_y=(0, 0, 0, 0), **SFORM),
    "origin_nan.nii.gz": mri(17, srow_x=(1, 0, 0, np.nan), **SFORM),
    "origin_far.nii.gz": mri(18, srow_x=(1, 0, 0, 1e30), **SFORM),
    "spacing_0_mha.mha": metaimage(draw_image(19), ElementSpacing="1 0 1"),
    "spacing_nan_nrrd.nrrd": nrrd(draw_image(20), space_directions="(nan,0,0) (0,1,0) (0,0,1)"),
    "spacing_large_nrrd.nrrd": nrrd(draw_image(21), space_directions="(1,0,0) (0,1,0) (0,0,5000)"),
    "no_affine.nii.gz": mri(22, **NEITHER),
    "conflict_far.nii.gz": mri(23, srow_x=(1, 0, 0, 0.6)),
    "conflict_near.nii.gz": mri(24, srow_x=(1, 0, 0, 0.4), qoffset_x=0.0),
    "conflict_flip.nii.gz": mri(25, srow_x=(-1, 0, 0, 23)),
    "agreeing.nii.gz": mri(26, srow_x=(1, 0, 0, 0.05)),
    "sheared_far.nii.gz": mri(27, srow_x=(1, 0, 0.5, 0), **SFORM),
    "sheared_near.nii.gz": mri(28, srow_x=(1, 0, 0.02, 0), **SFORM),
    "sheared_nrrd.nrrd": nrrd(draw_image(29), space_directions="(1,0,0) (0,1,0) (0.5,0,1)"),
    "big_endian.nii.gz": packed(BIG_ENDIAN),
    "big_endian_mha.mha": metaimage(draw_image(31).astype(">f4"), BinaryDataByteOrderMSB="True"),
    "big_endian_nrrd.nrrd": nrrd(draw_image(32).astype(">f4"), endian="big"),
    "slope.nii.gz": packed(with_fields(nifti(STORED), scl_slope=0.5, scl_inter=-3.0)),
    "slope_0.nii.gz": packed(with_fields(nifti(STORED + 1), scl_slope=0.0, scl_inter=0.0)),
    "slope_nan.nii.gz": packed(with_fields(nifti(STORED + 2), scl_slope=np.nan, scl_inter=np.nan)),
    "slope_infinite.nii.gz": packed(with_fields(nifti(STORED + 3), scl_slope=np.inf, scl_inter=0.0)),
    "intercept_alone.nii.gz": packed(with_fields(nifti(STORED + 4), scl_slope=0.0, scl_inter=1000.0)),
    "intercept_nan.nii.gz": packed(with_fields(nifti(STORED + 5), scl_slope=2.0, scl_inter=np.nan)),
    "slope_too_large.nii.gz": packed(with_fields(nifti(STORED + 6), scl_slope=3e38)),
    "metres.nii.gz": in_unit(41, 1, 0.001),
    "micrometres.nii.gz": in_unit(42, 3, 1000),
    "millimeters.nii.gz": in_unit(43, 2, 1),
    "unit_unknown.nii.gz": in_unit(44, 6, 1),
    "unit_wrong.nii.gz": in_unit(45, 1, 5),
    "unit_of_time.nrrd": nrrd(draw_image(46), space_units='"s" "s" "s"'),
    "few_nan.nii.gz": spoilt(47, TEN_VOXELS),
    "few_infinite.nii.gz": spoilt(48, TEN_VOXELS, -np.inf),
    "few_nan_nrrd.nrrd": nrrd(np.where(np.arange(draw_image(0).size).reshape(SHAPE_ZYX) < 10, np.nan, draw_image(49))),
    "many_nan.nii.gz": spoilt(50, draw_image(0).size // 50),
    "all_infinite.nii.gz": spoilt(51, draw_image(0).size, np.inf),
    "huge_values.nii.gz": spoilt(52, 5, 3e38),
    "constant.nii.gz": packed(nifti(np.full(SHAPE_ZYX, 7, np.int16))),
    "constant_0.mha": metaimage(np.zeros(SHAPE_ZYX, np.float32)),
}
LABELS = {
    "label_spacing_0.nii.gz": labels_with(pixdim=(1, 0, 1, 1, 0, 0, 0, 0)),
    "label_conflict.nii.gz": labels_with(srow_x=(1, 0, 0, 0.6)),
    "label_sheared.nii.gz": labels_with(srow_x=(1, 0, 0.5, 0), **SFORM),
    "label_nan.nii.gz": packed(nifti(np.where(draw_labels() == 1, np.nan, 0).astype(np.float32))),
    "label_big_endian.nii.gz": packed(BIG_LABELS),
    "label_scaled.nii.gz": packed(with_fields(nifti(draw_labels() * 2), scl_slope=0.5, scl_inter=0.0)),
    "label_slope_0.nii.gz": labels_with(scl_slope=0.0, scl_inter=0.0),
    "label_metres.nii.gz": packed(with_fields(nifti(draw_labels(), spacing_xyz_mm=(0.001,) * 3), xyzt_units=1)),
}


@pytest.fixture(scope="module")
def both(model_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("headers")
    return plan_and_predict(write_dataset(folder / "data", IMAGES, LABELS), model=model_file, to=folder)


@pytest.mark.fault("bad-spacing")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("spacing_0.nii.gz", "the spacing along x is 0; expected a positive number"),
        ("spacing_below_0.nii.gz", "the spacing along y is -1"),
        ("spacing_nan.nii.gz", "the spacing along z is nan"),
        ("spacing_infinite.nii.gz", "the spacing along z is inf"),
        ("spacing_of_no_scanner.nii.gz", "spacing_zyx_mm is (1.0, 1.0, 5000.0); expected 0.0001 to 1000"),
        ("spacing_tiny.nii.gz", "expected 0.0001 to 1000"),
        ("axis_of_0.nii.gz", "has axes of length zero"),
        ("origin_nan.nii.gz", "expected 4x4 finite numbers"),
        ("origin_far.nii.gz", "expected at most 1e+06 away from 0"),
        ("spacing_0_mha.mha", "has axes of length zero"),
        ("spacing_nan_nrrd.nrrd", "expected 4x4 finite numbers"),
        ("spacing_large_nrrd.nrrd", "spacing_zyx_mm is (5000.0, 1.0, 1.0)"),
    ],
)
def test_a_spacing_that_cannot_be_is_refused(both, name, fault):
    assert_refused(both, name, fault, REPAIR)


@pytest.mark.fault("bad-spacing")
def test_the_spacing_of_a_label_map_is_looked_at_too(both):
    assert_refused(both, "label_spacing_0.nii.gz", "the spacing along x is 0", REPAIR, as_label=True)


@pytest.mark.fault("no-affine")
def test_without_an_affine_nibabels_is_taken(both):
    _, message = both.planned("no_affine")  # the label, which has one, does not agree: x runs the other way
    assert "has neither sform nor qform; x is taken to run from right to left" in message
    predicted = both.predicted("no_affine")
    assert predicted["is_done"] and "neither sform nor qform" in predicted["message"]
    assert "no_affine: the header has neither sform nor qform" in both.printed[2]
    written, scan = (
        both.output / "no_affine.nii.gz",
        nib.Nifti1Image.from_bytes(gzip.decompress(IMAGES["no_affine.nii.gz"])),
    )
    np.testing.assert_array_equal(nib.load(written).affine, scan.affine)
    assert nib.load(written).affine[0, 0] == -1


@pytest.mark.fault("conflicting-affines")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("conflict_far.nii.gz", "its sform and qform put the same corner 0.6 voxels apart; at most 0.5 is accepted"),
        ("conflict_flip.nii.gz", "its sform and qform put the same corner 23 voxels apart"),
    ],
)
def test_two_affines_that_lie_apart_are_refused(both, name, fault):
    assert_refused(both, name, fault, "Set both to the true one")


@pytest.mark.fault("conflicting-affines")
def test_two_affines_that_nearly_agree_are_reported_of_or_used(both):
    assert "sform and qform lie 0.4 voxels apart; the sform is used." in both.planned("conflict_near")[1]
    assert both.predicted("conflict_near")["message"] == "sform and qform lie 0.4 voxels apart; the sform is used."
    assert "conflict_near: sform and qform lie 0.4 voxels apart" in both.printed[2]
    assert nib.load(both.output / "conflict_near.nii.gz").get_sform()[0, 3] == np.float32(0.4)
    assert both.predicted("agreeing")["message"] == "" and both.predicted("agreeing")["is_done"]
    words = "its sform and qform put the same corner 0.6 voxels apart"
    assert_refused(both, "label_conflict.nii.gz", words, "Set both to the true one", as_label=True)


@pytest.mark.fault("sheared-axes")
@pytest.mark.parametrize("name", ["sheared_far.nii.gz", "sheared_nrrd.nrrd"])
def test_axes_far_from_right_angles_are_refused(both, name):
    assert_refused(both, name, "its axes are not at right angles", "Resample the scan onto a right-angled grid")


@pytest.mark.fault("sheared-axes")
def test_axes_nearly_at_right_angles_are_used(both):
    assert "the axes are not quite at right angles (a corner is " in both.planned("sheared_near")[1]
    assert "the axes are not quite at right angles" in both.predicted("sheared_near")["message"]
    written = nib.load(both.output / "sheared_near.nii.gz").affine
    np.testing.assert_allclose(written[0], [1, 0, 0.02, 0], rtol=1e-6)  # the output's grid is the input's
    assert_refused(both, "label_sheared.nii.gz", "not at right angles", "Resample", as_label=True)


@pytest.mark.fault("byte-order")
@pytest.mark.parametrize("name", ["big_endian.nii.gz", "big_endian_mha.mha", "big_endian_nrrd.nrrd"])
def test_either_byte_order_is_read(both, name):
    assert_used(both, name)


@pytest.mark.fault("byte-order")
def test_a_big_endian_label_map_holds_the_same_organs(both):
    assert_used(both, "label_big_endian.nii.gz", as_label=True)
    assert facts_of(both, "label_big_endian")["organs"] == facts_of(both, "good_0")["organs"]
    mean = facts_of(both, "big_endian")["channels"][0]["whole"]["mean"]
    assert mean == pytest.approx(draw_image(60).mean(), rel=1e-4)


def facts_of(both, case_id):
    """Give what the fingerprint holds of a case."""
    cases = json.loads((both.run / "fingerprint.json").read_text(encoding="utf-8"))["cases"]
    return next(case for case in cases if case["case_id"] == case_id)


@pytest.mark.fault("scaling")
@pytest.mark.parametrize(
    ("name", "warning", "slope", "intercept"),
    [
        ("slope.nii.gz", "", 0.5, -3),
        ("slope_0.nii.gz", "", 1, 1),
        ("slope_nan.nii.gz", "", 1, 2),
        ("slope_infinite.nii.gz", "", 1, 3),
        ("intercept_alone.nii.gz", "scl_inter is 1000 without a scl_slope; values are taken as stored", 1, 4),
        ("intercept_nan.nii.gz", "scl_inter is nan; 0 is taken instead", 2, 10),
    ],
)
def test_a_slope_counts_and_without_one_nothing_does(both, name, warning, slope, intercept):
    assert_used(both, name, warning)
    mean = facts_of(both, name.split(".")[0])["channels"][0]["whole"]["mean"]
    assert mean == pytest.approx(STORED.mean() * slope + intercept, rel=1e-4)


@pytest.mark.fault("scaling")
def test_scaled_label_maps_and_slopes_beyond_numbers(both):
    for name in ("label_scaled.nii.gz", "label_slope_0.nii.gz"):
        assert_used(both, name, as_label=True)
        assert facts_of(both, name.split(".")[0])["organs"] == facts_of(both, "good_0")["organs"]
    assert_refused(
        both, "slope_too_large.nii.gz", "voxels are NaN or infinite", "Set them to the value of the background"
    )


@pytest.mark.fault("units")
@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("metres.nii.gz", "lengths are given in metres and are converted to millimeters"),
        ("micrometres.nii.gz", "lengths are given in micrometres"),
        ("millimeters.nii.gz", ""),
        ("unit_unknown.nii.gz", "the unit of length has the unknown code 6; millimeters are taken"),
    ],
)
def test_lengths_become_millimeters(both, name, warning):
    assert_used(both, name, warning)
    assert facts_of(both, name.split(".")[0])["spacing_zyx_mm"] == pytest.approx([1, 1, 1])


@pytest.mark.fault("units")
def test_a_unit_that_cannot_be_meant_is_refused_and_the_labels_unit_counts_too(both):
    assert_refused(both, "unit_wrong.nii.gz", "spacing_zyx_mm is (5000.0", "Repair the header's spacing or its unit")
    assert_refused(both, "unit_of_time.nrrd", "expected mm, um, cm or m for all axes", REPAIR)
    assert "lengths are given in metres" in both.planned("label_metres")[1]
    assert "label_metres" in both.in_folds()


@pytest.mark.fault("not-finite-voxels")
@pytest.mark.parametrize(
    ("name", "count"), [("few_nan.nii.gz", TEN_VOXELS), ("few_infinite.nii.gz", TEN_VOXELS), ("few_nan_nrrd.nrrd", 10)]
)
def test_few_voxels_that_are_no_numbers_are_replaced_and_counted(both, name, count):
    assert_used(both, name, f"{count} NaN or infinite voxels were replaced.")


@pytest.mark.fault("not-finite-voxels")
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("many_nan.nii.gz", "57 of 2880 voxels are NaN or infinite; at most 1% is accepted"),
        ("all_infinite.nii.gz", "2880 of 2880 voxels are NaN or infinite"),
    ],
)
def test_many_voxels_that_are_no_numbers_are_refused(both, name, fault):
    assert_refused(both, name, fault, "Set them to the value of the background")


@pytest.mark.fault("not-finite-voxels")
def test_labels_that_are_no_numbers_are_refused_however_few(both):
    remedy = "Set them to 0 or to their label"
    assert_refused(both, "label_nan.nii.gz", "holds label values that are NaN or infinite", remedy, as_label=True)


@pytest.mark.fault("not-finite-voxels")
def test_values_at_the_end_of_float32_count_as_infinite(both):
    assert_used(both, "huge_values.nii.gz", "5 NaN or infinite voxels were replaced.")


@pytest.mark.fault("constant-image")
@pytest.mark.parametrize(
    ("name", "warning"), [("constant.nii.gz", "is constant (7)"), ("constant_0.mha", "is constant (0)")]
)
def test_a_constant_image_is_used_with_a_warning(both, name, warning):
    assert_used(both, name, f"{warning}: nothing can be seen in it. Check the file.")


@pytest.fixture(scope="module")
def both_of_ct(tmp_path_factory, tiny_plans):
    """Plan and predict CTs, with a model of CTs."""
    from autoseg.network.build import build_network
    from autoseg.network.weights.model_file import save_model

    noise = {number: draw_image(number) for number in range(4)}
    images = {
        "from_0_to_1.nii.gz": noise[0] / 300,
        "from_0_to_255.nii.gz": noise[1].clip(0, 255),
        "with_1024.nii.gz": noise[2] * 10,
        "hounsfield.nii.gz": noise[3] * 10 - 1024,
    }
    folder = tmp_path_factory.mktemp("ct")
    channels = [{"name": "CT", "normalization": "ct", "clip_low": -100, "clip_high": 300, "mean": 50, "std": 60}]
    plans = tiny_plans(2, data={"channels": channels})
    save_model(build_network(plans).eval(), plans, folder / "model.safetensors")
    bytes_of = {
        name: packed(nifti(array.clip(0 if "hounsfield" not in name else None))) for name, array in images.items()
    }
    root = write_dataset(folder / "data", bytes_of, channel="CT")
    return plan_and_predict(root, model=folder / "model.safetensors", to=folder)


@pytest.mark.fault("ct-range")
@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("from_0_to_1.nii.gz", ", scaled to 0..1. Give Hounsfield units"),
        ("from_0_to_255.nii.gz", ", windowed to 0..255. Give Hounsfield units"),
        ("with_1024.nii.gz", "1024 may have been added, air is about -1024 HU. Give Hounsfield units"),
        ("hounsfield.nii.gz", ""),
    ],
)
def test_a_ct_without_hounsfield_units_is_used_with_a_warning(both_of_ct, name, warning):
    assert both_of_ct.codes == (0, 0, 0)
    assert_used(both_of_ct, name, warning)
    if warning:
        assert "channel CT is named a CT but holds " in both_of_ct.predicted(name.split(".")[0])["message"]
        assert warning in both_of_ct.printed[0]


MHA = "NDims = 3\nDimSize = 2 3 4\nElementType = MET_SHORT\nElementSpacing = 1 1 2\n{}ElementDataFile = LOCAL\n"
NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 3 4\nspacings: 1 1 2\nencoding: raw\nendian: little\n{}\n"


@pytest.mark.fault("not-nifti")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (MHA.format(""), ""),
        (NRRD.format(""), ""),
        (NRRD.format("a:=b: 1\na:=b: 2\n"), ""),
        (MHA.format("HeaderSize = -1\n"), "do not begin after the header"),
        (MHA.format("DimSize = 2 2 2\n"), "occurs twice"),
        (MHA.format("").replace("NDims = 3", "NDims = 2"), "NDims is not the number of its sizes, 3"),
        (MHA.format("").replace("1 1 2", "-1 1 2"), "a spacing is -1; expected positive numbers"),
        (NRRD.format("sizes: 2 2 2\n"), "occurs twice"),
        (NRRD.format("").replace("dimension: 3", "dimension: 4"), "dimension is not the number of its sizes, 3"),
        (NRRD.format("").replace("1 1 2", "1 -1 2"), "a spacing is -1; expected positive numbers"),
    ],
)
def test_a_text_header_is_read_unless_it_contradicts_itself(tmp_path, text, fault):
    path = tmp_path / ("a.nrrd" if text.startswith("NRRD") else "a.mha")
    path.write_bytes(text.encode() + bytes(48))
    if fault:
        with pytest.raises(ScanFileError, match=fault):
            read_scan(path)
    else:
        assert read_scan(path).array_zyx.shape == (4, 3, 2)
