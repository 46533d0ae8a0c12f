"""The examples of docs/guides/extend.md are complete: they run, one after the other, on phantoms."""

import re
from pathlib import Path

import pytest

from autoseg.config.plans import read_plans
from autoseg.errors import CheckpointError
from autoseg.io.image import read_labels
from autoseg.network.weights.model_file import load_model
from autoseg.training.logging.metrics_log import read_metrics

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "extend.md"


def examples() -> list[str]:
    """Return the indented blocks of the guide, unindented."""
    blocks = re.findall(r"(?:^    .*\n(?:\n(?=\n*    ))*)+", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [re.sub(r"^    ", "", block, flags=re.MULTILINE) for block in blocks]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run every example in a folder of its own; return the folder and the names that the examples define."""
    folder, names = tmp_path_factory.mktemp("extend"), {"__name__": "extend"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, code in enumerate(examples(), start=1):
            exec(compile(code, f"{GUIDE.name}, example {number}", "exec"), names)
    return folder, names


def test_the_guide_has_an_example_of_each(done):
    assert len(examples()) == 7
    for name in (
        "tversky_loss",
        "PrintLoss",
        "build_small_network",
        "build_with_convolutions",
        "choose_batch",
        "read_npz",
    ):
        assert name in done[1]


def test_the_loss_of_the_guide_is_trained_with(done):
    [record] = read_metrics(done[0] / "my_run" / "fold_0" / "metrics.jsonl")
    assert {"tversky", "cross_entropy"} <= set(record["losses"])


def test_the_network_of_the_guide_needs_its_function(done):
    file = done[0] / "my_run" / "fold_2" / "model.safetensors"
    network, _ = load_model(file, build_network=done[1]["build_small_network"])
    assert isinstance(network, done[1]["SmallNetwork"])
    with pytest.raises(CheckpointError, match="build_small_network"):
        load_model(file)


def test_the_rule_of_the_guide_decides(done):
    ours = read_plans(done[0] / "other_run" / "plans.json")
    assert ours.training.batch_slices == 8  # of the 16 that small windows have on a CPU
    assert ours.reasons["training.batch_slices"].facts == {"num_cases": 6}


def test_the_reader_of_the_guide_gives_the_same_voxels(done):
    folder = done[0]
    [path] = (folder / "play" / "unseen" / "labels").glob("*.nii.gz")
    before, after = read_labels(path), read_labels(folder / "converted" / "labels" / path.name)
    assert (before.array_zyx == after.array_zyx).all()
    assert done[1]["prediction"].labels.shape == before.array_zyx.T.shape
