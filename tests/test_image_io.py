import gzip
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import AutosegError, GeometryError, ScanFileError, UsageError
from autoseg.geometry import ImageGeometry
from autoseg.image_io import (
    count_volumes,
    is_scan_name,
    read_all_volumes,
    read_header,
    read_label_names,
    read_labels,
    read_scan,
    scan_stem,
    write_label_map,
    write_scan,
)

SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def nifti_bytes(array: np.ndarray = SMALL, *, order: str = "<", kind: Any = nib.Nifti1Header, **fields: Any) -> bytes:
    """Write a NIfTI file by hand: 1 mm voxels, an sform, then any header field as given."""
    header = kind(endianness=order)
    header.set_data_shape(array.shape[::-1])
    header.set_data_dtype(array.dtype)
    header["pixdim"][1:4] = 1.0
    header.set_sform(np.eye(4), code=1)
    header["vox_offset"] = header.single_vox_offset
    header["magic"] = header.single_magic
    for field, value in fields.items():
        header[field] = value
    return header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(order)).tobytes()


def put(folder: Path, content: bytes, name: str = "case.nii.gz", *, pack: bool = True) -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(content, mtime=0) if pack else content)
    return path


def oblique(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    turn = nib.eulerangles.euler2mat(0.2, -0.1, 0.3)
    matrix = np.zeros((3, 3))
    for index_axis, (space_axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[space_axis, index_axis] = sign * (0.7, 1.3, 4.9)[index_axis]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ matrix, (-91.3, 17.77, 203.001)
    return affine


# reading


def test_read_scan_gives_zyx_values_as_stored(tmp_path: Path) -> None:
    scan = read_scan(put(tmp_path, nifti_bytes()))
    np.testing.assert_array_equal(scan.array_zyx, SMALL)
    assert scan.array_zyx.dtype == np.int16
    assert scan.array_zyx.flags.writeable
    assert scan.geometry.shape_zyx == (2, 3, 4)
    assert scan.warnings == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_read_scan_every_type_and_byte_order_equals_nibabel(tmp_path: Path, dtype: str, order: str) -> None:
    path = put(tmp_path, nifti_bytes(SMALL.astype(dtype), order=order))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array_zyx, np.asanyarray(nib.load(path).dataobj).transpose())
    assert scan.array_zyx.dtype == (np.dtype("f4") if dtype[0] == "f" else np.dtype(dtype))


def test_read_scan_nifti2_is_read(tmp_path: Path) -> None:
    scan = read_scan(put(tmp_path, nifti_bytes(kind=nib.Nifti2Header)))
    np.testing.assert_array_equal(scan.array_zyx, SMALL)


@pytest.mark.parametrize(
    ("slope", "intercept", "first_two", "num_warnings"),
    [
        (2.0, -10.0, [-10, -8], 0),
        (1.0, 0.0, [0, 1], 0),
        (0.0, 0.0, [0, 1], 0),
        (0.0, 5.0, [0, 1], 1),
        (np.nan, 7.0, [0, 1], 1),
        (0.5, np.nan, [0, 0.5], 1),
    ],
)
def test_read_scan_slope_and_intercept(
    tmp_path: Path, slope: float, intercept: float, first_two: list[float], num_warnings: int
) -> None:
    scan = read_scan(put(tmp_path, nifti_bytes(scl_slope=slope, scl_inter=intercept)))
    assert scan.array_zyx.ravel()[:2].tolist() == first_two
    assert len(scan.warnings) == num_warnings


def test_read_scan_gzip_is_told_by_its_bytes_not_its_name(tmp_path: Path) -> None:
    packed_as_plain = put(tmp_path, nifti_bytes(), "a.nii", pack=True)
    plain_as_packed = put(tmp_path, nifti_bytes(), "b.nii.gz", pack=False)
    for path in (packed_as_plain, plain_as_packed):
        np.testing.assert_array_equal(read_scan(path).array_zyx, SMALL)


def test_read_scan_several_gzip_members_and_padding_are_read(tmp_path: Path) -> None:
    content = nifti_bytes()
    path = tmp_path / "case.nii.gz"
    path.write_bytes(
        b"".join(gzip.compress(part) for part in (content[:300], content[300:370], content[370:])) + bytes(9)
    )
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.array_zyx, SMALL)
    assert scan.warnings == ()


@pytest.mark.parametrize("size", [1 << 20, (1 << 20) + 17, 3_000_000])
def test_read_scan_larger_than_a_chunk_equals_nibabel(tmp_path: Path, rng: np.random.Generator, size: int) -> None:
    array = rng.integers(0, 200, size=(1, 1, size), dtype=np.uint8)
    path = tmp_path / "case.nii.gz"
    nib.save(nib.Nifti2Image(array.transpose(), np.eye(4)), path)
    np.testing.assert_array_equal(read_scan(path).array_zyx, array)


def test_read_scan_4d_with_one_volume_and_2d_become_3d(tmp_path: Path) -> None:
    four = read_scan(put(tmp_path, nifti_bytes(SMALL[None]), "four.nii.gz"))
    two = read_scan(put(tmp_path, nifti_bytes(SMALL[0], pixdim=[1, 1, 1, 0, 0, 0, 0, 0]), "two.nii.gz"))
    assert four.geometry.shape_zyx == (2, 3, 4)
    assert two.array_zyx.shape == (1, 3, 4)
    assert two.geometry.spacing_zyx_mm == (1, 1, 1)


def test_read_scan_several_volumes_needs_a_choice(tmp_path: Path) -> None:
    path = put(tmp_path, nifti_bytes(np.stack([SMALL, SMALL + 100])))
    with pytest.raises(ScanFileError, match="2 volumes; expected one"):
        read_scan(path)
    assert count_volumes(path) == 2
    np.testing.assert_array_equal(read_scan(path, volume=1).array_zyx, SMALL + 100)
    assert [scan.array_zyx[0, 0, 0] for scan in read_all_volumes(path)] == [0, 100]
    with pytest.raises(ScanFileError, match="no volume 2"):
        read_scan(path, volume=2)


def test_read_scan_few_bad_voxels_are_replaced_and_counted(tmp_path: Path) -> None:
    array = np.ones((10, 10, 10), dtype=np.float32)
    array[0, 0, :5] = [-7, 9, np.nan, np.inf, -np.inf]
    scan = read_scan(put(tmp_path, nifti_bytes(array)))
    assert scan.array_zyx[0, 0, :5].tolist() == [-7, 9, -7, 9, -7]
    assert scan.warnings == ("3 NaN or infinite voxels were replaced.",)


def test_read_scan_over_one_percent_bad_voxels_is_refused(tmp_path: Path) -> None:
    array = np.ones((10, 10, 10), dtype=np.float32)
    array[0, 0] = np.nan
    assert read_scan(put(tmp_path, nifti_bytes(array))).warnings  # exactly 1 %
    array[1, 0, 0] = np.nan
    with pytest.raises(ScanFileError, match="11 of 1000 voxels are NaN"):
        read_scan(put(tmp_path, nifti_bytes(array)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_read_labels_gives_the_smallest_type(tmp_path: Path, dtype: type) -> None:
    labels = read_labels(put(tmp_path, nifti_bytes(SMALL.astype(dtype))))
    assert labels.array_zyx.dtype == np.uint8
    np.testing.assert_array_equal(labels.array_zyx, SMALL)


def test_read_labels_large_and_negative_values_keep_their_number(tmp_path: Path) -> None:
    large = read_labels(put(tmp_path, nifti_bytes(SMALL.astype(np.int32) * 1000)))
    assert (large.array_zyx.dtype, large.array_zyx.max()) == (np.uint16, 23000)
    negative = read_labels(put(tmp_path, nifti_bytes(SMALL - 1)))
    assert (negative.array_zyx.dtype, negative.array_zyx.min()) == (np.int32, -1)
    with pytest.raises(ScanFileError, match="expected 0 to 65535"):
        read_labels(put(tmp_path, nifti_bytes(SMALL.astype(np.int64) << 40)))


def test_read_labels_nearly_integers_are_rounded_others_refused(tmp_path: Path) -> None:
    labels = read_labels(put(tmp_path, nifti_bytes((SMALL * 1.00004578).clip(0, 3).astype(np.float32))))
    assert np.unique(labels.array_zyx).tolist() == [0, 1, 2, 3]
    with pytest.raises(ScanFileError, match=r"holds 1\.5 \(and 1 such voxels in all\).*nearest-neighbour"):
        read_labels(put(tmp_path, nifti_bytes(np.where(SMALL == 3, 1.5, 1.0))))
    with pytest.raises(ScanFileError, match="NaN or infinite"):
        read_labels(put(tmp_path, nifti_bytes(np.where(SMALL == 3, np.nan, 1.0))))


@pytest.mark.parametrize(
    ("code", "factor", "num_warnings"), [(0, 1, 0), (1, 1000, 1), (2, 1, 0), (3, 0.001, 1), (2 + 8, 1, 0), (6, 1, 1)]
)
def test_read_header_unit_of_length_becomes_millimetres(
    tmp_path: Path, code: int, factor: float, num_warnings: int
) -> None:
    scan = read_scan(put(tmp_path, nifti_bytes(xyzt_units=code)))
    assert scan.geometry.spacing_zyx_mm == pytest.approx((factor,) * 3)
    assert len(scan.warnings) == num_warnings


def test_read_header_equals_the_scans_grid_without_the_voxels(tmp_path: Path) -> None:
    content = gzip.compress(nifti_bytes(np.zeros((50, 50, 50), dtype=np.uint8)))
    whole = put(tmp_path, content, "whole.nii.gz", pack=False)
    cut = put(tmp_path, content[: len(content) - 9], "cut.nii.gz", pack=False)
    assert read_header(whole) == read_scan(whole).geometry == read_header(cut)


def test_read_scan_without_sform_and_qform_warns_and_takes_nibabels_choice(tmp_path: Path) -> None:
    path = put(tmp_path, nifti_bytes(sform_code=0))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.geometry.affine_array, nib.load(path).affine)
    assert "neither sform nor qform" in scan.warnings[0]


def test_read_scan_sform_and_qform_in_conflict_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match=r"sform and qform.*0\.6 voxels apart"):
        read_scan(put(tmp_path, nifti_bytes(qform_code=1, qoffset_x=0.6)))
    assert read_scan(put(tmp_path, nifti_bytes(qform_code=1, qoffset_x=0.4))).geometry.origin_xyz_mm == (0, 0, 0)


def test_read_scan_shear_is_accepted_below_half_a_voxel_only(tmp_path: Path) -> None:
    # z steps also move x. The nearest right-angled grid shares the shear between x and z: the corner moves about
    # sqrt(2) * shear / 2 * (half the slices, 4.5) from the centre.
    array = np.zeros((10, 10, 10), dtype=np.uint8)
    slight = read_scan(put(tmp_path, nifti_bytes(array, srow_x=[1, 0, 0.02, 0])))
    assert "right angles" in slight.warnings[0]
    with pytest.raises(ScanFileError, match="axes are not at right angles"):
        read_scan(put(tmp_path, nifti_bytes(array, srow_x=[1, 0, 0.3, 0])))


# damage

WHOLE = nifti_bytes(np.arange(1000, dtype=np.int16).reshape(10, 10, 10))
PACKED = gzip.compress(WHOLE, mtime=0)


def flipped(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (WHOLE[: 352 + 1040], "ends after 52 % of the voxels"),
        (gzip.compress(WHOLE[: 352 + 1040]), "ends after 52 % of the voxels"),
        (PACKED[: len(PACKED) // 2], "ends after .* % of the voxels"),
        (PACKED[:-4], "the gzip stream has no end"),
        (flipped(PACKED, len(PACKED) - 6), "gzip data fails the check"),
        (WHOLE[:352], "ends after 0 % of the voxels"),
        (WHOLE[:200], "ends inside its header"),
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html>Please log in", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer.*git lfs pull"),
        (bytes(128) + b"DICM" + bytes(500), "a DICOM file.*dcm2niix"),
        (b"PK\x03\x04" + bytes(500), "a zip archive"),
        (b"NRRD0004\n" + bytes(500), "an NRRD image"),
        (b"hello world, no scan" * 50, "not a NIfTI file"),
        (nifti_bytes(magic=b"ni1"), r"\.hdr/\.img pair"),
        (nifti_bytes(magic=b""), "ANALYZE"),
        (nifti_bytes(magic=b"n+9"), "magic is"),
        (nifti_bytes(dim=[3, 0, 3, 2, 1, 1, 1, 1]), "expected at least 1 each"),
        (nifti_bytes(dim=[3, -4, 3, 2, 1, 1, 1, 1]), "expected at least 1 each"),
        (nifti_bytes(dim=[0, 4, 3, 2, 1, 1, 1, 1]), "claims 0 dimensions"),
        (nifti_bytes(dim=[5, 4, 3, 2, 1, 3, 1, 1]), "3 values in each voxel"),
        (nifti_bytes(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "over the limit"),
        (gzip.compress(nifti_bytes(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1])), "ends after 0 % of the voxels"),
        (nifti_bytes(datatype=128, bitpix=24), "RGB colours"),
        (nifti_bytes(datatype=32, bitpix=64), "complex numbers"),
        (nifti_bytes(datatype=7777), "type 7777"),
        (nifti_bytes(bitpix=32), "32 bits a voxel"),
        (nifti_bytes(vox_offset=0), "vox_offset is 0"),
        (nifti_bytes(vox_offset=np.nan), "vox_offset is nan"),
        (nifti_bytes(vox_offset=400), "ends after 0 % of the voxels"),
        (nifti_bytes(pixdim=[1, 0, 1, 1, 1, 1, 1, 1]), "spacing along x is 0"),
        (nifti_bytes(pixdim=[1, 1, -1, 1, 1, 1, 1, 1]), "spacing along y is -1"),
        (nifti_bytes(pixdim=[1, 1, 1, np.nan, 1, 1, 1, 1]), "spacing along z is nan"),
        (nifti_bytes(srow_x=[0, 0, 0, 0]), "axes of length zero"),
        (nifti_bytes(srow_x=[np.nan, 0, 0, 0]), "finite numbers"),
        (nifti_bytes(srow_x=[1e6, 0, 0, 0]), "expected 0.0001 to 1000"),
        (nifti_bytes(sform_code=77), "sform_code is 77"),
        (nifti_bytes(qform_code=1, quatern_b=3.0), "qform is no rotation"),
    ],
)
def test_read_scan_damaged_file_names_file_and_fault(tmp_path: Path, content: bytes, words: str) -> None:
    path = put(tmp_path, content, "bad.nii.gz", pack=False)
    with pytest.raises(ScanFileError, match=words) as caught:
        read_scan(path)
    assert "bad.nii.gz" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)  # no home folders in logs


@pytest.mark.parametrize("position", range(40, len(PACKED) - 8, 97))
def test_read_scan_flipped_byte_anywhere_in_the_data_is_refused(tmp_path: Path, position: int) -> None:
    with pytest.raises(ScanFileError):
        read_scan(put(tmp_path, flipped(PACKED, position), pack=False))


def test_read_scan_bytes_after_the_voxels_warn_and_a_bomb_is_refused(tmp_path: Path) -> None:
    for pack in (True, False):
        scan = read_scan(put(tmp_path, nifti_bytes() + b"rest", pack=pack))
        np.testing.assert_array_equal(scan.array_zyx, SMALL)
        assert "goes on after its last voxel" in scan.warnings[0]
    with pytest.raises(ScanFileError, match="goes on for more than 16 MiB"):
        read_scan(put(tmp_path, nifti_bytes() + bytes(17 << 20)))


def test_read_scan_other_kinds_of_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    (tmp_path / "dangling.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.nii.gz").symlink_to(tmp_path / "circle.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    for name, words in (
        ("folder.nii.gz", "is a folder"),
        ("dangling.nii.gz", "is a link to a file that does not exist"),
        ("circle.nii.gz", "cannot be reached"),
        ("pipe.nii.gz", "is a pipe"),
        ("absent.nii.gz", "does not exist"),
    ):
        with pytest.raises(ScanFileError, match=words):
            read_scan(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a b.nii.gz", "-o.nii.gz", "日本.nii.gz", "two\nlines.nii.gz", os.fsdecode(b"\xff.nii.gz")]
)
def test_odd_file_names_work_and_are_printed_escaped(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_scan(path, SMALL, geometry=ImageGeometry.from_spacing(SMALL.shape, (1, 1, 1)))
    np.testing.assert_array_equal(read_scan(path).array_zyx, SMALL)
    path.write_bytes(b"")
    with pytest.raises(ScanFileError) as caught:
        read_scan(path)
    str(caught.value).encode("utf-8")  # can be printed
    assert "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_read_scan_any_header_bytes_give_a_scan_or_a_typed_error(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(nifti_bytes(qform_code=1))
    for position, value in changes:
        content[position] = value
    path = put(tmp_path, bytes(content), "fuzz.nii", pack=False)
    try:
        scan = read_scan(path)
    except AutosegError:
        return
    assert scan.array_zyx.shape == scan.geometry.shape_zyx
    write_label_map(
        tmp_path / "out.nii", np.zeros(scan.geometry.shape_zyx, dtype=np.uint8), geometry=scan.geometry, names={}
    )
    assert read_header(tmp_path / "out.nii") == scan.geometry


# writing


def assert_same_grid(a: Path, b: Path) -> None:
    """Compare what nibabel and SimpleITK see, to the last bit."""
    by_nibabel = [nib.load(path) for path in (a, b)]
    assert by_nibabel[0].shape == by_nibabel[1].shape
    np.testing.assert_array_equal(by_nibabel[0].affine, by_nibabel[1].affine)
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        np.testing.assert_array_equal(by_nibabel[0].header[field], by_nibabel[1].header[field])
    first, second = (SimpleITK.ReadImage(str(path)) for path in (a, b))
    assert first.GetSize() == second.GetSize()
    assert first.GetSpacing() == second.GetSpacing()
    assert first.GetOrigin() == second.GetOrigin()
    assert first.GetDirection() == second.GetDirection()


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_write_label_map_every_orientation_is_on_the_inputs_exact_grid(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...], rng: np.random.Generator
) -> None:
    labels = rng.integers(0, 4, size=(4, 3, 2))
    affine = oblique(order, signs)
    for codes in ((1, 0), (0, 1), (1, 1), (2, 4)):
        image = nib.Nifti1Image(labels.transpose().astype(np.int16), affine)
        image.set_qform(affine, code=codes[0])
        image.set_sform(affine if codes[1] else None, code=codes[1])
        source, output = tmp_path / "in.nii.gz", tmp_path / "out.nii.gz"
        nib.save(image, source)
        write_label_map(output, labels, geometry=read_scan(source).geometry, names={1: "a"})
        assert_same_grid(source, output)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(output))), labels)


@pytest.mark.parametrize(
    "content",
    [
        nifti_bytes(xyzt_units=1),
        nifti_bytes(SMALL[None]),
        nifti_bytes(SMALL[0]),
        nifti_bytes(SMALL[0], pixdim=[1, 1, 1, 0, 0, 0, 0, 0]),
        nifti_bytes(sform_code=0),
        nifti_bytes(pixdim=[0, 1, 1, 1, 0, 0, 0, 0]),
        nifti_bytes(
            order=">", pixdim=[-1, 2, 3, 4, 0, 0, 0, 0], sform_code=0, qform_code=1, quatern_b=0.6, qoffset_z=9
        ),
    ],
    ids=["metres", "4D", "2D", "2D thin", "no form", "qfac 0", "big-endian qform"],
)
def test_write_label_map_odd_headers_are_repeated(tmp_path: Path, content: bytes) -> None:
    source = put(tmp_path, content, "in.nii.gz")
    scan = read_scan(source)
    write_label_map(tmp_path / "out.nii.gz", np.ones(scan.array_zyx.shape, bool), geometry=scan.geometry, names={})
    assert_same_grid(source, tmp_path / "out.nii.gz")
    assert read_header(tmp_path / "out.nii.gz") == scan.geometry


def test_write_label_map_nifti2_keeps_double_precision(tmp_path: Path) -> None:
    source = put(tmp_path, nifti_bytes(kind=nib.Nifti2Header, srow_x=[1 / 3, 0, 0, 1e-9]), "in.nii.gz")
    write_label_map(tmp_path / "out.nii.gz", SMALL, geometry=read_scan(source).geometry, names={})
    output = nib.load(tmp_path / "out.nii.gz")  # SimpleITK does not read NIfTI-2
    assert isinstance(output.header, nib.Nifti2Header)
    assert output.affine[0].tolist() == [1 / 3, 0, 0, 1e-9]


def test_write_label_map_one_volume_of_several_is_three_dimensional(tmp_path: Path) -> None:
    geometry = read_scan(put(tmp_path, nifti_bytes(np.stack([SMALL] * 3)), "in.nii.gz"), volume=0).geometry
    write_label_map(tmp_path / "out.nii.gz", SMALL, geometry=geometry, names={})
    assert nib.load(tmp_path / "out.nii.gz").shape == (4, 3, 2)


def test_write_label_map_carries_no_text_of_the_input(tmp_path: Path) -> None:
    secret = {"descrip": b"SECRET", "aux_file": b"SECRET", "intent_name": b"SECRET", "db_name": b"SECRET"}
    image = nib.Nifti1Image(SMALL.transpose(), np.eye(4))
    for field, text in secret.items():
        image.header[field] = text
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"SECRET"))
    nib.save(image, tmp_path / "in.nii")
    assert (tmp_path / "in.nii").read_bytes().count(b"SECRET") == 5
    scan = read_scan(tmp_path / "in.nii")
    write_label_map(tmp_path / "out.nii", SMALL, geometry=scan.geometry, names={1: "liver"})
    assert b"SECRET" not in (tmp_path / "out.nii").read_bytes()
    assert b"SECRET" not in scan.geometry.header


def test_write_label_map_names_come_back_and_other_tools_see_the_extension(tmp_path: Path) -> None:
    path, names = tmp_path / "out.nii.gz", {1: "Leber, groß", 2: '<script> "x"', 300: "=cell"}
    write_label_map(path, SMALL, geometry=ImageGeometry.from_spacing(SMALL.shape, (1, 1, 1)), names=names)
    assert read_label_names(path) == names
    extension = nib.load(path).header.extensions[0]
    assert extension.get_code() == 6
    assert read_label_names(put(tmp_path, nifti_bytes(), "other.nii.gz")) == {}
    np.testing.assert_array_equal(read_scan(path).array_zyx, SMALL)


def test_write_label_map_type_and_bytes_follow_the_content_alone(tmp_path: Path) -> None:
    geometry = ImageGeometry.from_spacing(SMALL.shape, (3.0, 2.0, 1.5), (1.0, 2.0, 3.0))
    write_label_map(tmp_path / "a.nii.gz", SMALL, geometry=geometry, names={})
    write_label_map(tmp_path / "b.nii.gz", SMALL.astype(np.int64), geometry=geometry, names={})
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert nib.load(tmp_path / "a.nii.gz").get_data_dtype() == np.uint8
    write_label_map(tmp_path / "c.nii.gz", SMALL.astype(np.int64) * 20, geometry=geometry, names={})
    assert nib.load(tmp_path / "c.nii.gz").get_data_dtype() == np.uint16
    image = SimpleITK.ReadImage(str(tmp_path / "c.nii.gz"))
    assert image.GetSpacing() == (1.5, 2.0, 3.0)
    assert image.GetOrigin() == (-1.0, -2.0, 3.0)  # SimpleITK's points are LPS


def test_write_label_map_wrong_shape_value_or_name_is_refused(tmp_path: Path) -> None:
    geometry = ImageGeometry.from_spacing((2, 3, 4), (1, 1, 1))
    with pytest.raises(GeometryError, match=r"\(3, 2, 4\)"):
        write_label_map(tmp_path / "a.nii.gz", SMALL.reshape(3, 2, 4), geometry=geometry, names={})
    for labels in (SMALL - 1, SMALL.astype(np.int32) * 10000, SMALL.astype(np.float32)):
        with pytest.raises(UsageError, match="expected integers of 0 to 65535"):
            write_label_map(tmp_path / "a.nii.gz", labels, geometry=geometry, names={})
    with pytest.raises(UsageError, match="expected it to end in"):
        write_label_map(tmp_path / "a.png", SMALL, geometry=geometry, names={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("array", "dtype"), [(SMALL.astype(np.int64), np.int16), (SMALL * 2000, np.int16), (SMALL / 7, np.float32)]
)
def test_write_scan_and_back(tmp_path: Path, array: np.ndarray, dtype: type) -> None:
    write_scan(tmp_path / "a.nii.gz", array, geometry=ImageGeometry.from_spacing(array.shape, (1, 1, 1)))
    scan = read_scan(tmp_path / "a.nii.gz")
    assert scan.array_zyx.dtype == dtype
    np.testing.assert_array_equal(scan.array_zyx, array.astype(dtype))


def test_write_scan_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "a.nii.gz"
    write_scan(path, SMALL, geometry=ImageGeometry.from_spacing(SMALL.shape, (1, 1, 1)))
    before = path.read_bytes()
    code = (
        "import numpy as np, pathlib, sys\n"
        "from autoseg.errors import ScanFileError\n"
        "from autoseg.geometry import ImageGeometry\n"
        "from autoseg.image_io import write_scan\n"
        "noise = np.random.default_rng(0).standard_normal((20, 50, 50))\n"
        "geometry = ImageGeometry.from_spacing(noise.shape, (1, 1, 1))\n"
        "try:\n"
        "    write_scan(pathlib.Path(sys.argv[1]), noise, geometry=geometry)\n"
        "except ScanFileError as error:\n"
        "    print(error)\n"
    )

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, preexec_fn=limit, capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii.gz"]


def test_scan_names() -> None:
    assert [is_scan_name(name) for name in ("a.nii", "a.NII.GZ", "._a.nii.gz", "a.nrrd", "a.nii.gz.part")] == [
        True,
        True,
        False,
        False,
        False,
    ]
    assert [scan_stem(name) for name in ("x/a.b.nii.gz", "a.nii", "a.nrrd")] == ["a.b", "a", "a.nrrd"]


@pytest.mark.data
def test_real_scans_equal_nibabel_and_outputs_lie_on_their_grid(real_data: Path, tmp_path: Path) -> None:
    paths = [
        *sorted((real_data / "multi_organ_ct").glob("*.nii.gz")),
        *sorted((real_data / "hippocampus_mri/imagesTr").glob("*.nii.gz"))[:6],
        *sorted((real_data / "left_atrium_mri/imagesTr").glob("*.nii.gz"))[:1],
        *sorted((real_data / "brain_tumour_mri/imagesTr").glob("*.nii.gz"))[:1],
    ]
    assert len(paths) >= 12
    for path in paths:
        scan = read_scan(path)
        image = nib.load(path)
        np.testing.assert_array_equal(
            scan.array_zyx, np.asanyarray(image.dataobj).transpose().astype(scan.array_zyx.dtype)
        )
        np.testing.assert_array_equal(scan.geometry.affine_array, image.affine)
        labels = np.arange(scan.array_zyx.size).reshape(scan.array_zyx.shape) % 3
        write_label_map(tmp_path / "out.nii.gz", labels, geometry=scan.geometry, names={})
        assert_same_grid(path, tmp_path / "out.nii.gz")
