"""NRRD and MetaImage files as SimpleITK writes them, and broken ones."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autoseg.errors import ScanFileError
from autoseg.io.image import read_header, read_labels, read_scan
from autoseg.io.nrrd import parse_mha_header, parse_nrrd_header

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def make_image(dtype: str = "int16") -> sitk.Image:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 100, (4, 5, 6)).astype(dtype)  # z, y, x
    image = sitk.GetImageFromArray(array)
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 1.9)
    image.SetDirection(turn.GetMatrix())
    image.SetSpacing((0.7, 1.1, 3.5))
    image.SetOrigin((-20.0, 31.5, 7.25))
    return image


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_a_file_of_simpleitk_is_read_as_its_nifti_twin(tmp_path, ending, is_packed, dtype) -> None:
    image = make_image(dtype)
    sitk.WriteImage(image, str(tmp_path / f"a{ending}"), useCompression=is_packed)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    scan, twin = read_scan(tmp_path / f"a{ending}"), read_scan(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(scan.array_zyx, twin.array_zyx)
    np.testing.assert_allclose(scan.geometry.affine, nib.load(tmp_path / "a.nii.gz").affine, atol=1e-5)
    assert scan.warnings == () and read_header(tmp_path / f"a{ending}") == scan.geometry


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_the_form_is_told_by_the_bytes_and_not_by_the_name(tmp_path, ending) -> None:
    sitk.WriteImage(make_image(), str(tmp_path / f"a{ending}"))
    (tmp_path / f"a{ending}").rename(tmp_path / "a.nii.gz")
    assert read_scan(tmp_path / "a.nii.gz").array_zyx.shape == (4, 5, 6)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("is_packed", [False, True])
def test_every_cut_and_every_flipped_byte_of_packed_voxels_is_refused(tmp_path, ending, is_packed) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(make_image(), str(path), useCompression=is_packed)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ScanFileError):
            read_scan(path)
    path.write_bytes(whole[:-1])
    with pytest.raises(ScanFileError, match=r"ends after|has no end"):
        read_scan(path)
    if is_packed:
        for place in range(len(whole) - 120, len(whole), 9):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
            with pytest.raises(ScanFileError):
                read_scan(path)


def test_label_maps_and_single_slices(tmp_path) -> None:
    sitk.WriteImage(make_image("uint8"), str(tmp_path / "a.nrrd"))
    assert read_labels(tmp_path / "a.nrrd").array_zyx.dtype == np.uint8
    for ending in (".nrrd", ".mha"):
        sitk.WriteImage(make_image()[:, :, 2], str(tmp_path / f"b{ending}"))
        scan = read_scan(tmp_path / f"b{ending}")
        assert scan.array_zyx.shape == (1, 5, 6) and any("no thickness" in warning for warning in scan.warnings)


NRRD = (
    "NRRD0004\n# made by hand\ntype: uint16\ndimension: 3\nspace: {space}\nsizes: 2 3 4\n"
    "space directions: (2,0,0) (0,3,0) (0,0,4)\nkinds: domain domain domain\nendian: {endian}\nencoding: raw\n"
    "space origin: (10,20,30)\n\n"
)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("right-anterior-superior", (1, 1, 1)),
        ("LPS", (-1, -1, 1)),
        ("left-posterior-superior", (-1, -1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
    ],
)
@pytest.mark.parametrize("endian", ["little", "big"])
def test_an_nrrd_by_hand(put, space, signs, endian) -> None:
    voxels = np.arange(24, dtype="<u2" if endian == "little" else ">u2").tobytes()
    scan = read_scan(put(NRRD.format(space=space, endian=endian).encode() + voxels, "a.nrrd", pack=False))
    assert scan.array_zyx[1, 2, 1] == 11 and scan.array_zyx.shape == (4, 3, 2)
    expected = np.diag([2.0, 3, 4, 1])
    expected[:3, 3] = 10, 20, 30
    np.testing.assert_array_equal(np.array(scan.geometry.affine), np.diag([*signs, 1.0]) @ expected)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("encoding: raw", "encoding: bzip2", "encoding is 'bzip2'; expected raw or gzip"),
        ("encoding: raw", "encoding: raw\ndata file: a.raw", "lie in another file"),
        ("encoding: raw", "encoding: raw\nbyte skip: 12", "byte skip is '12'"),
        ("type: uint16", "type: block", "stores 'block' in its voxels"),
        ("type: uint16\n", "", "the header has no type"),
        ("sizes: 2 3 4", "sizes: 2 3 x", "sizes is '2 3 x'; expected whole numbers"),
        ("sizes: 2 3 4", "sizes: 2 3", "there are 2 sizes and 3 axes"),
        ("sizes: 2 3 4", "sizes: 2 3 0", "at least one a side"),
        ("sizes: 2 3 4", "sizes: 32767 32767 32767", "at most 8 GiB"),
        ("(2,0,0)", "(2,0)", "is not a vector of three numbers"),
        ("(2,0,0)", "none", "expected one volume of grey values"),
        ("(2,0,0)", "(nan,0,0)", "finite"),
        ("(2,0,0)", "(0,0,0)", "length zero"),
        ("(2,0,0)", "(2,2,0)", "not at right angles"),
        ("space: LPS", "space: scanner-xyz", "its space is 'scanner-xyz'"),
        ("\n\n", "\n", "ends inside its NRRD header"),
    ],
)
def test_an_nrrd_header_that_cannot_be_used_says_why(put, old, new, message) -> None:
    text = NRRD.format(space="LPS", endian="little")
    assert old in text
    path = put(text.replace(old, new).encode() + bytes(48), "a.nrrd", pack=False)
    with pytest.raises(ScanFileError, match=message):
        read_scan(path)


def test_an_nrrd_with_windows_lines_whose_voxels_hold_an_empty_line(put) -> None:
    text = NRRD.format(space="LPS", endian="little").replace("\n", "\r\n")
    scan = read_scan(put(text.encode() + b"\n" * 48, "a.nrrd", pack=False))
    assert (scan.array_zyx == 0x0A0A).all()


@pytest.mark.parametrize(("unit", "factor"), [("mm", 1), ("um", 1e-3), ("cm", 10), ("m", 1000)])
def test_the_unit_of_an_nrrd_is_heeded(put, unit, factor) -> None:
    text = NRRD.format(space="RAS", endian="little").replace(
        "kinds:", f'space units: "{unit}" "{unit}" "{unit}"\nkinds:'
    )
    path = put(text.encode() + bytes(48), "a.nrrd", pack=False)
    if factor == 1000:  # voxels of metres
        with pytest.raises(ScanFileError, match="spacing_zyx_mm"):
            read_scan(path)
        return
    geometry = read_scan(path).geometry
    np.testing.assert_allclose(geometry.spacing_zyx_mm, np.array((4, 3, 2)) * factor)
    np.testing.assert_allclose(geometry.origin_xyz_mm, np.array((10, 20, 30)) * factor)


def test_an_unknown_unit_is_refused(put) -> None:
    text = NRRD.format(space="RAS", endian="little").replace("kinds:", 'space units: "mm" "mm" "s"\nkinds:')
    with pytest.raises(ScanFileError, match="space units is"):
        read_scan(put(text.encode() + bytes(48), "a.nrrd", pack=False))


@pytest.mark.parametrize("word", ["True", "true", "T", "1"])
def test_a_metaimage_may_say_true_in_many_ways(put, word) -> None:
    text = MHA.replace("BinaryDataByteOrderMSB = False", f"BinaryDataByteOrderMSB = {word}")
    scan = read_scan(put(text.encode() + np.arange(24, dtype=">u2").tobytes(), "a.mha", pack=False))
    assert scan.array_zyx[1, 2, 1] == 11


def test_an_nrrd_without_axes_is_taken_for_lps_with_a_warning(put) -> None:
    text = "NRRD0001\ntype: uchar\ndimension: 3\nsizes: 2 3 4\nspacings: 1 2 3\nencoding: raw\n\n"
    scan = read_scan(put(text.encode() + bytes(24), "a.nrrd", pack=False))
    assert scan.geometry.spacing_zyx_mm == (3, 2, 1) and "says nothing of the patient's axes" in scan.warnings[0]


MHA = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 10 20 30\nElementSpacing = 2 3 4\nDimSize = 2 3 4\n"
    "ElementType = MET_USHORT\nElementDataFile = LOCAL\n"
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ElementDataFile = LOCAL", "ElementDataFile = a.raw", "lie in another file"),
        ("ElementDataFile = LOCAL\n", "", "ends inside its MetaImage header"),
        ("MET_USHORT", "MET_USHORT_ARRAY", "stores 'MET_USHORT_ARRAY'"),
        ("NDims = 3", "NDims = 3\nElementNumberOfChannels = 3", "several values in each voxel"),
        ("BinaryData = True", "BinaryData = False", "as text"),
        ("DimSize = 2 3 4", "DimSize = 2 3 4 5", "expected one volume"),
        ("DimSize = 2 3 4\n", "", "the header has no DimSize"),
        ("ElementSpacing = 2 3 4", "ElementSpacing = 2 3", "do not have 3 axes"),
        ("ElementSpacing = 2 3 4", "ElementSpacing = 2 3 x", "expected numbers"),
        ("ElementSpacing = 2 3 4", "ElementSpacing = 2 3 0", "length zero"),
    ],
)
def test_a_metaimage_header_that_cannot_be_used_says_why(put, old, new, message) -> None:
    assert old in MHA
    path = put(
        MHA.replace(old, new).encode() + bytes(48 if "LOCAL" in new or old != "ElementDataFile = LOCAL\n" else 0),
        "a.mha",
        pack=False,
    )
    with pytest.raises(ScanFileError, match=message):
        read_scan(path)


def test_headers_of_any_bytes_end_in_an_error_of_ours_or_an_image(rng) -> None:
    for parse, whole in ((parse_nrrd_header, NRRD.format(space="LPS", endian="little")), (parse_mha_header, MHA)):
        for _ in range(500):
            content = bytearray(whole.encode())
            for place in rng.integers(0, len(content), 3):
                content[place] = rng.integers(0, 256)
            try:
                assert parse(bytes(content), name="a").geometry.shape_zyx
            except ScanFileError as error:
                assert str(error).startswith("a")


def test_files_of_text_headers_are_cases_of_a_dataset(tmp_path) -> None:
    from autoseg.datasets.prediction_inputs import find_cases

    for name in ("a.nrrd", "b.mha", "c.nii.gz"):
        sitk.WriteImage(make_image(), str(tmp_path / name))
    cases, problems = find_cases(Path(tmp_path), channel_names=["CT"])
    assert [case.case_id for case in cases] == ["a", "b", "c"] and not problems


def test_a_metaimage_of_thousands_of_axes_gets_no_matrix_of_them(put) -> None:
    text = MHA.replace("DimSize = 2 3 4", "DimSize = 2 3 4" + " 1" * 20_000)  # a matrix of 3 GB
    with pytest.raises(ScanFileError, match="expected one volume"):
        read_scan(put(text.encode() + bytes(48), "a.mha", pack=False))


def test_a_metaimage_of_empty_lines_alone_is_refused_at_once(put) -> None:
    with pytest.raises(ScanFileError, match="ends inside its MetaImage header"):
        read_scan(put(b"ObjectType" + b"\n" * 300_000, "a.mha", pack=False))
