"""Where nothing is wrong, nothing is said: what the other tests of this folder are measured against."""


def test_a_good_dataset_is_planned_and_a_good_scan_predicted_without_a_word(
    make_dataset, model_file, command, tmp_path
):
    root = make_dataset()
    planned = command("plan", root, "-o", tmp_path / "run", "--num-workers", 1)
    assert planned.code == 0, planned.text
    assert "good_0" not in planned.text
    predicted = command("predict", "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.text
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == [
        "good_0.nii.gz",
        "good_1.nii.gz",
        "good_2.nii.gz",
    ]
