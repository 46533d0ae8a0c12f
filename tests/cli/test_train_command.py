import json
import os
import re
import shutil
import signal

import filelock
import nibabel as nib
import numpy as np
import pytest
import torch

from autoseg.cli.plan import main as plan
from autoseg.cli.train import main
from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans, write_plans
from autoseg.network.sam2_modules import build_hiera, build_neck
from autoseg.planning.pin_weights import pin_weights
from autoseg.training import trainer
from autoseg.training.checkpointing import checkpoint_policy

TINY = (
    "network.image_size_px=32",
    "network.feature_channels=16",
    "network.refiner_channels=[4,8,8]",
    "training.steps_per_epoch=2",
    "training.batch_slices=2",
)
CPU = ("--device", "cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Plan a run over four small scans with one organ."""
    root, run = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("planned") / "run"
    for number in range(4):
        rng = np.random.default_rng(number)
        label = np.zeros((16, 16, 5), np.uint8)
        label[4:10, 4:10, 1:4] = 1
        image = rng.normal(100, 10, label.shape).astype(np.float32) + 60 * label
        for folder, name, array in (("imagesTr", f"case_{number}_0000", image), ("labelsTr", f"case_{number}", label)):
            (root / folder).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(array, np.eye(4)), root / folder / f"{name}.nii.gz")
    content = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    settings = [word for setting in TINY for word in ("--set", setting)]
    assert plan([str(root), "-o", str(run), *CPU, "--memory-gib", "4", "--num-workers", "1", *settings]) == 0
    return run


@pytest.fixture
def run(planned, tmp_path):
    return shutil.copytree(planned, tmp_path / "run")


@pytest.fixture
def no_picture(monkeypatch):
    monkeypatch.setattr(checkpoint_policy, "plot_progress", lambda *_: None)


def test_train_a_fold_prints_where_the_model_is_its_dice_and_the_next_command(run, capsys):
    assert main([str(run), "--fold", "0", "--epochs", "1", *CPU]) == 0
    out, err = capsys.readouterr()
    assert "2 steps in" in out and f"the model is {run / 'fold_0' / 'model.safetensors'}" in out
    assert "validation Dice" in out and "liver" in out
    assert re.search(r"^\d+\.\d % of the time was spent waiting for data$", out, flags=re.MULTILINE)
    assert f"next: autoseg_predict -m {run}" in out
    assert "fold_0: 3 cases, 1 organs, nano backbone (no pretrained weights, from scratch), 2 steps on cpu" in err
    assert (run / "fold_0" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fold", "7"], "--fold 7: this run has the folds 0, 1, 2, 3, and all"),
        (["--epochs", "1", "--max-minutes", "1"], "give one of them"),
        (["--epochs", "0"], "above 0"),
        (["--epochs", "two"], "invalid int value"),
        (["--max-minutes", "nan"], "above 0"),
        (["--device", "tpu"], "expected auto, cpu, cuda"),
        (["--device", "cuda:x"], "--device cuda:x"),
        (["--steps", "3"], "unrecognized arguments"),
    ],
)
def test_wrong_usage_exits_2_and_says_why(run, words, message, capsys):
    device = [] if "--device" in words else CPU
    assert main([str(run), *words, *device]) == 2
    assert message in capsys.readouterr().err
    assert not list(run.glob("fold_*"))


def test_a_folder_that_was_not_planned_exits_2(tmp_path, capsys):
    assert main([str(tmp_path / "none"), *CPU]) == 2
    assert "plans.json does not exist" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_fold_in_training_exits_75(run, capsys):
    (run / "fold_all").mkdir()
    with filelock.FileLock(run / "fold_all" / ".lock"):
        assert main([str(run), "--epochs", "1", *CPU]) == 75
    assert "fold_all: another run works on it. Wait" in capsys.readouterr().err


@pytest.mark.usefixtures("no_picture")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_its_state_saved_and_the_same_command_continues(
    run, number, code, capsys, monkeypatch
):
    real, old = trainer.train_step, {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what it starts in the background ignore it

    def step_then_signal(state, *rest, **named):
        if state.step == 1:
            os.kill(os.getpid(), number)
        return real(state, *rest, **named)

    words = [str(run), "--epochs", "1", *CPU]
    try:
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "train_step", step_then_signal)
            assert main(words) == code
        assert "the same command continues" in capsys.readouterr().err
        assert not (run / "fold_all" / "model.safetensors").exists()
        assert main(words) == 0
        assert "continuing at step 1" in capsys.readouterr().err
    finally:
        for one, handler in old.items():
            signal.signal(one, handler)


def test_a_damaged_state_exits_2_and_a_bug_exits_1(run, capsys, monkeypatch):
    (run / "fold_all").mkdir()
    (run / "fold_all" / "resume.pt").write_bytes(b"damaged")
    assert main([str(run), "--epochs", "1", *CPU]) == 2
    assert "to start this fold again" in capsys.readouterr().err
    (run / "fold_all" / "resume.pt").unlink()
    monkeypatch.setattr(trainer, "train_step", lambda *_args, **_named: 1 / 0)
    assert main([str(run), "--epochs", "1", *CPU]) == 1
    assert "this is a bug of autoseg" in capsys.readouterr().err


@pytest.mark.usefixtures("no_picture")
def test_weights_of_the_hub_are_fetched_at_their_pin_and_offline_from_the_cache(run, hub, capsys, tmp_path):
    parts = {
        "image_encoder.trunk.": build_hiera("nano"),
        "image_encoder.neck.": build_neck("nano", feature_channels=16),
    }
    weights = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    torch.save({"model": weights}, tmp_path / "weights.pt")
    hub.files["owner/repo", "weights.pt"] = (tmp_path / "weights.pt").read_bytes()
    plans = apply_settings(read_plans(run / "plans.json"), ["network.weights=hf://owner/repo/weights.pt"])
    write_plans(pin_weights(plans), run / "plans.json")
    words = [str(run), "--epochs", "1", *CPU]
    assert main([*words, "--offline"]) == 2
    assert "weights.pt is not in the hub's cache" in capsys.readouterr().err
    assert {method for method, _ in hub.asked} == {"HEAD"}  # planning's
    assert main(words) == 0
    assert f"nano backbone (hf://owner/repo@{hub.revisions['main']}/weights.pt)" in capsys.readouterr().err
    assert ("GET", f"/owner/repo/resolve/{hub.revisions['main']}/weights.pt") in hub.asked
    shutil.rmtree(run / "fold_all")
    hub.asked.clear()
    assert main([*words, "--offline"]) == 0
    assert hub.asked == []
    shutil.rmtree(run / "fold_all")
    [blob] = (path for path in (hub.cache / "models--owner--repo" / "blobs").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1])
    assert main(words) == 2
    assert "autoseg_train: CheckpointError: hf://owner/repo@" in capsys.readouterr().err
