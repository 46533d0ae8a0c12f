"""A loss, a network and callbacks of a user's own, through the public API alone."""

import numpy as np
import pytest
import torch

import autoseg
from autoseg.config.plans import write_plans
from autoseg.system.atomic_files import write_json


def soft_dice(output, target):
    wanted, is_known = target.of_organs()
    probs = output.logits.softmax(dim=1)[:, 1:] * is_known
    overlap = (probs * wanted).sum(dim=(0, 2, 3))
    return {"dice": 1 - (2 * overlap / (probs.sum(dim=(0, 2, 3)) + wanted.sum(dim=(0, 2, 3)) + 1)).mean()}


class SmallNetwork(torch.nn.Module):
    def __init__(self, plans):
        super().__init__()
        channels = len(plans.data.channels) * (2 * plans.network.context_slices + 1)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(channels, 8, 3, padding=1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(8, 1 + len(plans.data.organs), 3, padding=1),
        )

    def forward(self, images, organs, **_optional):
        logits = self.layers(images)  # (B, 1 + all organs, R, W)
        return autoseg.NetworkOutput(torch.cat([logits[:, :1], logits[:, 1 + organs]], dim=1))


class Losses(autoseg.Callback):
    def __init__(self):
        self.steps, self.records = [], []

    def on_step_end(self, step, losses):
        self.steps.append((step, losses["total"]))

    def on_epoch_end(self, record):
        self.records.append(record)


@pytest.fixture
def run(tiny_plans, make_store, tmp_path):
    plans = tiny_plans(2, training={"steps_per_epoch": 20, "epochs": 2, "batch_slices": 4, "learning_rate": 0.03})
    folder = tmp_path / "run"
    make_store(plans, folder=folder / "preprocessed")
    write_plans(plans, folder / "plans.json")
    write_json(folder / "splits.json", [{"train": ["case_1", "case_2"], "validation": ["case_0"]}])
    return folder


def test_a_loss_a_network_and_a_callback_train_and_predict(run, save_scan, tmp_path):
    losses = Losses()
    result = autoseg.train(run, fold=0, device="cpu", loss=soft_dice, build_network=SmallNetwork, callbacks=[losses])
    assert [step for step, _ in losses.steps] == list(range(1, 41)) and len(losses.records) == 2
    assert set(losses.records[0]["losses"]) == {"dice", "total"}
    assert losses.steps[-1][1] < losses.steps[0][1]
    assert result.dice["organ 0"] is not None  # a bright box; two convolutions see it
    scan = save_scan(tmp_path / "scan.nii.gz", np.zeros((4, 32, 32), np.float32)) or tmp_path / "scan.nii.gz"
    prediction = autoseg.predict(scan, run, device="cpu", build_network=SmallNetwork)
    assert prediction.labels.shape == (32, 32, 4)
