"""AMOS22 in miniature."""

import json

import pytest

from dataset_conversion import amos22

PARTS = {
    "Tr": ("amos_0001", "amos_0500", "amos_0507"),
    "Va": ("amos_0008", "amos_0578"),
    "Ts": ("amos_0002", "amos_0599"),
}


@pytest.fixture
def source(tmp_path, save_image, save_labels):
    folder = tmp_path / "amos22"
    for part, names in PARTS.items():
        for name in names:
            save_image(folder / f"images{part}" / f"{name}.nii.gz")
            if part != "Ts":
                save_labels(folder / f"labels{part}" / f"{name}.nii.gz", range(16))
    lists = {"training": "Tr", "validation": "Va"}
    content = {
        key: [
            {"image": f"./images{part}/{name}.nii.gz", "label": f"./labels{part}/{name}.nii.gz"} for name in PARTS[part]
        ]
        for key, part in lists.items()
    }
    content["test"] = [{"image": f"./imagesTs/{name}.nii.gz"} for name in PARTS["Ts"]]
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def test_ct_and_mri_become_two_datasets(source, convert_here, read_back, read_values):
    ct, mri = convert_here(amos22, source)
    assert (ct.cases, ct.others, ct.problems) == (("amos_0001", "amos_0500", "amos_0008"), ("amos_0002",), ())
    assert (mri.cases, mri.others, mri.problems) == (("amos_0507", "amos_0578"), ("amos_0599",), ())
    assert [one.folder.name for one in (ct, mri)] == ["amos22_ct", "amos22_mri"]
    assert [read_back(one.folder).channel_names for one in (ct, mri)] == [("CT",), ("MRI",)]
    names = [organ.name for organ in read_back(mri.folder).labels.organs]
    assert (len(names), names[0], names[14]) == (15, "spleen", "prostate or uterus")
    assert read_values(mri.folder / "labelsTr" / "amos_0578.nii.gz", 16) == list(range(16))
    assert (ct.folder / "imagesTr" / "amos_0008_0000.nii.gz").samefile(source / "imagesVa" / "amos_0008.nii.gz")


def test_missing_files_are_named_in_their_dataset(source, convert_here):
    (source / "labelsVa" / "amos_0578.nii.gz").unlink()
    (source / "imagesTr" / "amos_0500.nii.gz").unlink()
    (source / "labelsTr" / "amos_0500.nii.gz").unlink()
    ct, mri = convert_here(amos22, source)
    assert ["1 of 4 cases are missing: amos_0500." in problem.message for problem in ct.problems] == [True]
    assert [problem.message[:35] for problem in mri.problems] == ["labelsVa/amos_0578.nii.gz is missin"]
