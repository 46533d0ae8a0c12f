import json
import subprocess
import sys

import numpy as np
import pytest

from autoseg.cli.evaluate import main
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map

GEOMETRY = ImageGeometry.from_spacing((4, 6, 6), (2.0, 1.0, 1.0))


@pytest.fixture
def folders(tmp_path):
    """Two cases with two organs; the prediction of the second misses the spleen."""
    for case_id, has_spleen in (("a", True), ("b", False)):
        reference = np.zeros((4, 6, 6), dtype=np.uint8)
        reference[:, :2], reference[:, 4:] = 1, 2
        prediction = reference if has_spleen else np.where(reference == 2, 0, reference)
        for folder, array in (("references", reference), ("predictions", prediction)):
            write_label_map(tmp_path / folder / f"{case_id}.nii.gz", array, geometry=GEOMETRY, names={1: "liver"})
    labels = {"labels": {"background": 0, "liver": 1, "spleen": 2}}
    (tmp_path / "dataset.json").write_text(json.dumps(labels))
    return tmp_path


def run(folder, *options):
    return main([str(folder / "predictions"), str(folder / "references"), *map(str, options)])


def test_evaluate_prints_the_table_and_writes_json(folders, capsys):
    output = folders / "new" / "evaluation.json"
    assert run(folders, "--names", folders / "dataset.json", "-o", output) == 0
    printed = capsys.readouterr().out
    assert "spleen" in printed
    assert "NSD 1 mm" in printed
    content = json.loads(output.read_text())
    assert content["overall"]["dice"]["mean"] == pytest.approx((1.0 + 0.5) / 2)
    assert [organ["name"] for organ in content["organs"]] == ["liver", "spleen"]


def test_evaluate_without_names_uses_those_in_the_files(folders, capsys):
    assert run(folders) == 0
    printed = capsys.readouterr().out
    assert "liver" in printed
    assert "label 2" in printed


def test_evaluate_tolerance_is_used(folders, capsys):
    assert run(folders, "--tolerance-mm", "2.5") == 0
    assert "NSD 2.5 mm" in capsys.readouterr().out


def test_evaluate_missing_prediction_exits_3(folders, capsys):
    (folders / "predictions" / "b.nii.gz").unlink()
    assert run(folders) == 3
    assert "Counted as a miss" in capsys.readouterr().out


def test_evaluate_nothing_to_compare_exits_4(folders, capsys):
    for path in (folders / "predictions").iterdir():
        path.unlink()
    assert run(folders) == 4
    assert "nothing to evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-o", "result.txt"], ".json"),
        (["-o", "references/a.nii.gz"], ".json"),
        (["--names", "nowhere.json"], "does not exist"),
        (["--tolerance-mm", "-1"], "tolerance"),
        (["--tolerance-mm", "wide"], "--tolerance-mm"),
    ],
)
def test_evaluate_impossible_arguments_exit_2(folders, capsys, monkeypatch, options, message):
    monkeypatch.chdir(folders)
    before = (folders / "references" / "a.nii.gz").read_bytes()
    assert run(folders, *options) == 2
    assert message in capsys.readouterr().err
    assert (folders / "references" / "a.nii.gz").read_bytes() == before


def test_evaluate_output_that_cannot_be_written_exits_2(folders, capsys):
    (folders / "file").write_text("in the way")
    assert run(folders, "-o", folders / "file" / "evaluation.json") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_evaluate_does_not_import_torch(folders):
    code = (
        "import sys; from autoseg.cli.evaluate import main; code = main(sys.argv[1:]); "
        "sys.exit(9 if 'torch' in sys.modules or 'matplotlib' in sys.modules else code)"
    )
    arguments = [sys.executable, "-c", code, str(folders / "predictions"), str(folders / "references")]
    assert subprocess.run(arguments, capture_output=True).returncode == 0
