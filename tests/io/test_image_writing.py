import itertools
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from autoseg.errors import GeometryError, UsageError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import (
    read_all_volumes,
    read_header,
    read_label_names,
    read_scan,
    write_label_map,
    write_scan,
)

Make = Callable[..., Any]
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x; the same as in conftest
ORIENTATIONS = list(itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)))


def oblique(order: tuple[int, ...], signs: tuple[int, ...]) -> np.ndarray:
    turn = nib.eulerangles.euler2mat(0.2, -0.1, 0.3)
    matrix = np.zeros((3, 3))
    for index_axis, (space_axis, sign) in enumerate(zip(order, signs, strict=True)):
        matrix[space_axis, index_axis] = sign * (0.7, 1.3, 4.9)[index_axis]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ matrix, (-91.3, 17.77, 203.001)
    return affine


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
    "fields",
    [
        dict(xyzt_units=1),
        dict(array=SMALL[None]),
        dict(array=SMALL[0]),
        dict(array=SMALL[0], pixdim=[1, 1, 1, 0, 0, 0, 0, 0]),
        dict(sform_code=0),
        dict(pixdim=[0, 1, 1, 1, 0, 0, 0, 0]),
        dict(order=">", pixdim=[-1, 2, 3, 4, 0, 0, 0, 0], sform_code=0, qform_code=1, quatern_b=0.6, qoffset_z=9),
    ],
    ids=["metres", "4D", "2D", "2D thin", "no form", "qfac 0", "big-endian qform"],
)
def test_write_label_map_odd_headers_are_repeated(
    tmp_path: Path, fields: dict[str, Any], nifti_bytes: Make, put: Make
) -> None:
    source = put(nifti_bytes(**fields), "in.nii.gz")
    scan = read_scan(source)
    write_label_map(tmp_path / "out.nii.gz", np.ones(scan.array_zyx.shape, bool), geometry=scan.geometry, names={})
    assert_same_grid(source, tmp_path / "out.nii.gz")
    assert read_header(tmp_path / "out.nii.gz") == scan.geometry


def test_write_label_map_nifti2_keeps_double_precision(tmp_path: Path, nifti_bytes: Make, put: Make) -> None:
    source = put(nifti_bytes(kind=nib.Nifti2Header, srow_x=[1 / 3, 0, 0, 1e-9]), "in.nii.gz")
    write_label_map(tmp_path / "out.nii.gz", SMALL, geometry=read_scan(source).geometry, names={})
    output = nib.load(tmp_path / "out.nii.gz")  # SimpleITK does not read NIfTI-2
    assert isinstance(output.header, nib.Nifti2Header)
    assert output.affine[0].tolist() == [1 / 3, 0, 0, 1e-9]


def test_write_label_map_one_volume_of_several_is_three_dimensional(
    tmp_path: Path, nifti_bytes: Make, put: Make
) -> None:
    geometry = read_all_volumes(put(nifti_bytes(np.stack([SMALL] * 3)), "in.nii.gz"))[0].geometry
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


def test_write_label_map_names_come_back_and_other_tools_see_the_extension(
    tmp_path: Path, nifti_bytes: Make, put: Make
) -> None:
    path, names = tmp_path / "out.nii.gz", {1: "Leber, groß", 2: '<script> "x"', 300: "=cell"}
    write_label_map(path, SMALL, geometry=ImageGeometry.from_spacing(SMALL.shape, (1, 1, 1)), names=names)
    assert read_label_names(path) == names
    extension = nib.load(path).header.extensions[0]
    assert extension.get_code() == 6
    assert nib.load(path).dataobj.offset % 16 == 0  # the standard's alignment
    assert read_label_names(put(nifti_bytes(), "other.nii.gz")) == {}
    np.testing.assert_array_equal(read_scan(path).array_zyx, SMALL)


def test_write_label_map_type_and_bytes_follow_the_content_alone(tmp_path: Path) -> None:
    geometry = ImageGeometry.from_spacing(SMALL.shape, (3.0, 2.0, 1.5), (1.0, 2.0, 3.0))
    write_label_map(tmp_path / "a.nii.gz", SMALL, geometry=geometry, names={})
    write_label_map(tmp_path / "b.nii.gz", SMALL.astype(np.int64), geometry=geometry, names={})
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)  # gzip's time
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
        "from autoseg.io.geometry import ImageGeometry\n"
        "from autoseg.io.image import write_scan\n"
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

    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=root, preexec_fn=limit, capture_output=True, text=True, check=True
    )
    assert "cannot be written: File too large" in done.stdout
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.nii.gz"]


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
