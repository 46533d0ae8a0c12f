"""The conversion on a miniature that is written as the source's authors write theirs."""

import json

import numpy as np
import pytest
from miniatures import described, run_all
from scipy import sparse

from autoseg.errors import DatasetError, ScanFileError, UsageError
from autoseg.io.image import read_labels, read_scan
from dataset_conversion import m3d_seg
from dataset_conversion.m3d_seg import find, main, make_affine

SHAPE = (4, 5, 3)  # x, y, z
IMAGE = np.arange(60, dtype=np.float64).reshape(1, *SHAPE) / 30 - 1
NAMES = ("kidney", "kidney tumor")
MASKS = np.zeros((2, *SHAPE), np.int32)
MASKS[0, 1:4, 2, 1] = 1
MASKS[1, 3, 2, 1] = MASKS[1, 3, 3, 1] = 1  # the first of them inside of the kidney


def add_part(root, code, *, names=NAMES, masks=MASKS, train=("1",), test=("2",)):
    for case in (*train, *test):
        folder = root / code / case
        folder.mkdir(parents=True)
        np.save(folder / "image.npy", IMAGE)
        matrix = sparse.csr_matrix(masks.reshape(len(masks), -1))
        sparse.save_npz(folder / f"mask_{masks.shape}.npz", matrix)
    pair = {
        key: [{"image": f"{code}/{case}/image.npy", "label": f"{code}/{case}/mask_{masks.shape}.npz"} for case in cases]
        for key, cases in (("train", train), ("test", test))
    }
    labels = {"0": "background", **{str(value): name for value, name in enumerate(names, start=1)}}
    content = {"name": f"{code} Dataset", "modality": {"0": "CT"}, "labels": labels, **pair}
    (root / code / f"{code}.json").write_text(json.dumps(content))


@pytest.fixture
def source(tmp_path):
    add_part(tmp_path / "M3D_Seg", "0006")
    add_part(tmp_path / "M3D_Seg", "0008", names=["pancreas"], masks=MASKS[:1], test=())
    return tmp_path / "M3D_Seg"


def test_each_part_becomes_a_dataset(source, tmp_path):
    done = run_all(m3d_seg, source, tmp_path / "out")
    assert [(one.folder.name, one.cases, one.others) for one in done] == [
        ("0006_KiTS19", ("m3d_0006_1",), ("m3d_0006_2",)),
        ("0008_Pancreas-CT", ("m3d_0008_1",), ()),
    ]
    out = tmp_path / "out" / "0006_KiTS19"
    image = read_scan(out / "imagesTr" / "m3d_0006_1_0000.nii.gz")
    np.testing.assert_allclose(image.array_zyx, IMAGE[0].transpose(2, 1, 0), atol=1e-6)
    for place, case in (("labelsTr", "m3d_0006_1"), ("labelsTs", "m3d_0006_2")):
        labels = read_labels(out / place / f"{case}.nii.gz").array_zyx
        found = {tuple(int(axis) for axis in index): int(labels[tuple(index)]) for index in np.argwhere(labels)}
        assert found == {(1, 2, 1): 1, (1, 2, 2): 1, (1, 2, 3): 2, (1, 3, 3): 2}
    content = described(out)
    assert content["labels"] == {"background": 0, "kidney": 1, "kidney tumor": 2}
    assert content["channel_names"] == {"0": "standardised"}
    assert content["assumed"].startswith("units, voxel sizes and directions are not in the files")
    assert any("kidney and kidney tumor (1)" in problem.message for problem in done[0].problems)


def test_one_part_alone_goes_right_into_the_folder(source, tmp_path):
    options = ["--spacing-mm", "0.8", "0.8", "2.5", "--axes", "LPS"]
    assert main([str(source / "0008"), str(tmp_path / "out"), *options]) == 0
    geometry = read_scan(tmp_path / "out" / "imagesTr" / "m3d_0008_1_0000.nii.gz").geometry
    np.testing.assert_allclose(geometry.affine_array, np.diag([-0.8, -0.8, 2.5, 1]), atol=1e-6)


def test_axes_go_where_they_are_said_to_go():
    np.testing.assert_array_equal(
        make_affine((1, 2, 3), "SRP"), [[0, 2, 0, 0], [0, 0, -3, 0], [1, 0, 0, 0], [0, 0, 0, 1]]
    )
    for axes in ("RAR", "RA", "RASS", "XYZ"):
        with pytest.raises(UsageError, match="such as LPS"):
            make_affine((1, 1, 1), axes)
    with pytest.raises(UsageError, match="three sizes above 0"):
        make_affine((1, 0, 1), "RAS")


def test_names_that_stand_there_twice_are_reported_apart(tmp_path):
    add_part(tmp_path / "M3D_Seg", "0014", names=["lumbar spine L1", "lumbar spine L1"])
    (dataset,) = find(tmp_path / "M3D_Seg")
    assert dataset.labels == {"lumbar spine L1": 1, "lumbar spine L1 (2)": 2}


def test_what_is_missing_is_named(source, tmp_path, capsys):
    (source / "0006" / "1" / "image.npy").unlink()
    assert main([str(source), str(tmp_path / "out")]) == 3
    assert "m3d_0006_1  0006/1 lacks image.npy or its one mask. Unpack it again." in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"expected 0000/0000\.json"):
        find(tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"indices": [99, 0, 1, 2, 3]}, "contradicts itself"),
        ({"indices": [-1, 0, 1, 2, 3]}, "contradicts itself"),
        ({"indptr": [0, 5, 3]}, "contradicts itself"),
        ({"indptr": [0, 3, 9]}, "contradicts itself"),
        ({"shape": [2, 61]}, r"is for \[2, 61\] labels and voxels; expected \[2, 60\]"),
        ({"data": [1, 1]}, "contradicts itself"),
    ],
)
def test_a_matrix_that_contradicts_itself_is_refused(source, tmp_path, change, message):
    (path,) = (source / "0006" / "1").glob("*.npz")
    parts = {"indices": [0, 1, 2, 3, 4], "indptr": [0, 3, 5], "data": [1] * 5, "shape": [2, 60]}
    np.savez(path, format=b"csr", **{name: np.array(value) for name, value in {**parts, **change}.items()})
    (dataset, _) = find(source)
    case = next(case for case in dataset.cases if case.case_id == "m3d_0006_1")
    with pytest.raises(ScanFileError, match=message):
        dataset.read(case)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"labels": {"0": "background"}},
        {"labels": {"0": "background", "2": "liver"}},
        {"labels": {"0": "background", "1": "liver"}, "train": [{"image": "../image.npy"}]},
        {"labels": {"0": "background", "1": "liver"}, "train": [3]},
    ],
)
def test_a_list_that_makes_no_sense_is_refused(source, content):
    (source / "0006" / "0006.json").write_text(json.dumps(content))
    with pytest.raises(UsageError, match=r"0006\.json"):
        find(source)
