import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoseg.errors import AutosegError, ScanFileError
from autoseg.io.image import (
    read_header,
    read_scan,
    write_label_map,
)
from autoseg.io.nifti_header import parse_header

Make = Callable[..., Any]
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x; the same as in conftest


@pytest.mark.parametrize(
    ("code", "factor", "num_warnings"), [(0, 1, 0), (1, 1000, 1), (2, 1, 0), (3, 0.001, 1), (2 + 8, 1, 0), (6, 1, 1)]
)
def test_read_header_unit_of_length_becomes_millimeters(
    code: int, factor: float, num_warnings: int, nifti_bytes: Make, put: Make
) -> None:
    scan = read_scan(put(nifti_bytes(xyzt_units=code)))
    assert scan.geometry.spacing_zyx_mm == pytest.approx((factor,) * 3)
    assert len(scan.warnings) == num_warnings


def test_read_scan_without_sform_and_qform_warns_and_takes_nibabels_choice(nifti_bytes: Make, put: Make) -> None:
    path = put(nifti_bytes(sform_code=0))
    scan = read_scan(path)
    np.testing.assert_array_equal(scan.geometry.affine_array, nib.load(path).affine)
    assert "neither sform nor qform" in scan.warnings[0]


def test_read_scan_sform_and_qform_in_conflict_is_refused(nifti_bytes: Make, put: Make) -> None:
    with pytest.raises(ScanFileError, match=r"sform and qform.*0\.6 voxels apart"):
        read_scan(put(nifti_bytes(qform_code=1, qoffset_x=0.6)))
    assert read_scan(put(nifti_bytes(qform_code=1, qoffset_x=0.4))).geometry.origin_xyz_mm == (0, 0, 0)


def test_read_scan_shear_is_accepted_below_half_a_voxel_only(nifti_bytes: Make, put: Make) -> None:
    # z steps also move x. The nearest right-angled grid shares the shear between x and z: the corner moves about
    # sqrt(2) * shear / 2 * (half the slices, 4.5) from the center.
    array = np.zeros((10, 10, 10), dtype=np.uint8)
    slight = read_scan(put(nifti_bytes(array, srow_x=[1, 0, 0.02, 0])))
    assert "right angles" in slight.warnings[0]
    with pytest.raises(ScanFileError, match="axes are not at right angles"):
        read_scan(put(nifti_bytes(array, srow_x=[1, 0, 0.3, 0])))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (dict(magic=b"ni1"), r"\.hdr/\.img pair"),
        (dict(magic=b""), "ANALYZE"),
        (dict(magic=b"n+9"), "magic is"),
        (dict(dim=[3, 0, 3, 2, 1, 1, 1, 1]), "expected at least 1 each"),
        (dict(dim=[3, -4, 3, 2, 1, 1, 1, 1]), "expected at least 1 each"),
        (dict(dim=[0, 4, 3, 2, 1, 1, 1, 1]), "claims 0 dimensions"),
        (dict(dim=[5, 4, 3, 2, 1, 3, 1, 1]), "3 values in each voxel"),
        (dict(dim=[3, 32767, 32767, 32767, 1, 1, 1, 1]), "over the limit"),
        (dict(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1]), "ends after (at most )?0 % of the voxels"),
        (dict(datatype=128, bitpix=24), "RGB colors"),
        (dict(datatype=32, bitpix=64), "complex numbers"),
        (dict(datatype=7777), "type 7777"),
        (dict(bitpix=32), "32 bits a voxel"),
        (dict(vox_offset=0), "vox_offset is 0"),
        (dict(vox_offset=np.nan), "vox_offset is nan"),
        (dict(vox_offset=400), "ends after 0 % of the voxels"),
        (dict(pixdim=[1, 0, 1, 1, 1, 1, 1, 1]), "spacing along x is 0"),
        (dict(pixdim=[1, 1, -1, 1, 1, 1, 1, 1]), "spacing along y is -1"),
        (dict(pixdim=[1, 1, 1, np.nan, 1, 1, 1, 1]), "spacing along z is nan"),
        (dict(srow_x=[0, 0, 0, 0]), "axes of length zero"),
        (dict(srow_x=[np.nan, 0, 0, 0]), "finite numbers"),
        (dict(srow_x=[1e6, 0, 0, 0]), "expected 0.0001 to 1000"),
        (dict(sform_code=77), "sform_code is 77"),
        (dict(qform_code=1, quatern_b=3.0), "qform is not a rotation"),
    ],
)
def test_read_scan_header_that_cannot_be_true_is_refused(
    nifti_bytes: Make, put: Make, fields: dict[str, Any], words: str
) -> None:
    for pack in (True, False):
        with pytest.raises(ScanFileError, match=words) as caught:
            read_scan(put(nifti_bytes(**fields), "bad.nii.gz", pack=pack))
        assert "bad.nii.gz" in str(caught.value)


@pytest.mark.parametrize("pack", [True, False])
def test_read_scan_more_claimed_than_can_be_there_is_refused_before_memory_is_taken(
    nifti_bytes: Make, put: Make, pack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(nifti_bytes(dim=[3, 1000, 1000, 1000, 1, 1, 1, 1]), pack=pack)
    monkeypatch.setattr(np, "empty", None)
    with pytest.raises(ScanFileError, match="of the voxels"):
        read_scan(path)


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
def test_read_scan_any_header_bytes_give_a_scan_or_a_typed_error(
    tmp_path: Path, changes: list[tuple[int, int]], nifti_bytes: Make, put: Make
) -> None:
    content = bytearray(nifti_bytes(qform_code=1))
    for position, value in changes:
        content[position] = value
    path = put(bytes(content), "fuzz.nii", pack=False)
    try:
        scan = read_scan(path)
    except AutosegError:
        return
    assert scan.array_zyx.shape == scan.geometry.shape_zyx
    write_label_map(
        tmp_path / "out.nii", np.zeros(scan.geometry.shape_zyx, dtype=np.uint8), geometry=scan.geometry, names={}
    )
    assert read_header(tmp_path / "out.nii") == scan.geometry


def test_read_scan_warns_of_two_affines_that_nearly_agree(nifti_bytes: Make, put: Make) -> None:
    assert read_scan(put(nifti_bytes(qform_code=1, qoffset_x=0.09))).warnings == ()
    warnings = read_scan(put(nifti_bytes(qform_code=1, qoffset_x=0.4))).warnings
    assert warnings == ("sform and qform lie 0.4 voxels apart; the sform is used.",)


def test_a_header_that_asks_for_more_than_is_there_gets_no_memory(nifti_bytes: Make, put: Make) -> None:
    noise = np.random.default_rng(0).bytes(100_000)  # gzip could hold a thousand times as much
    whole = nifti_bytes(np.frombuffer(noise, np.uint8).reshape(1, 400, 250))
    for fields in (dict(dim=[3, 100, 800, 1000, 1, 1, 1, 1]), dict(vox_offset=8e7)):
        path = put(nifti_bytes(np.frombuffer(noise, np.uint8).reshape(1, 400, 250), **fields))
        tracemalloc.start()
        with pytest.raises(ScanFileError, match="ends after 0 % of the voxels"):
            read_scan(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 << 20
    assert read_scan(put(whole)).array_zyx.size == 100_000


def test_a_comment_nested_without_end_is_another_programs(nifti_bytes: Make) -> None:
    from autoseg.io.nifti_header import decode_names

    text = b"[" * 200_000
    head = nifti_bytes()[:352]
    extension = np.array([len(text) + 8, 6], "<i4").tobytes() + text
    assert decode_names(head + extension) == {}


def test_fields_that_do_not_count_are_not_kept(nifti_bytes):
    text = np.frombuffer(b"DOE^JANE" * 2, "<f4")
    hidden = {"pixdim": [1, 1, 1, 1, *text], "qform_code": 0, "quatern_b": text[0], "qoffset_x": text[1]}
    kept = parse_header(nifti_bytes(**hidden), name="a").geometry.header
    assert b"DOE^" not in kept and b"JANE" not in kept
