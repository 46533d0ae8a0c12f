"""Counts the frames between the command and the network in prediction: few enough to read in a debugger."""

import numpy as np
from call_stack import frames_from_main

from autoseg.cli import predict as predict_command
from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.network.weights.model_file import save_model

MAX_FRAMES = 12


def test_few_frames_lie_between_main_and_the_networks_forward(tiny_plans, save_scan, tmp_path, monkeypatch):
    plans = tiny_plans(2)
    save_model(build_network(plans), plans, tmp_path / "model.safetensors")
    save_scan(tmp_path / "scan.nii.gz", np.random.default_rng(0).normal(size=(4, 32, 32)).astype(np.float32))
    seen, real = [], AutosegNetwork.forward

    def forward(self, *arguments, **named):
        seen.append([*frames_from_main(), "forward"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(AutosegNetwork, "forward", forward)
    words = ["-m", tmp_path / "model.safetensors", "-i", tmp_path / "scan.nii.gz", "-o", tmp_path / "out"]
    assert predict_command.main([*map(str, words), "--device", "cpu"]) == 0
    assert seen and all(names[0] == "main" and len(names) <= MAX_FRAMES for names in seen), seen[0]
