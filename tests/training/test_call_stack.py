"""Counts the frames between the command and the network in training: few enough to read in a debugger."""

from call_stack import frames_from_main

from autoseg.cli import train as train_command
from autoseg.config.plans import write_plans
from autoseg.network.model import AutosegNetwork
from autoseg.system.atomic_files import write_json

MAX_FRAMES = 10


def test_few_frames_lie_between_main_and_the_networks_forward(tiny_plans, make_store, tmp_path, monkeypatch):
    plans = tiny_plans(2, training={"steps_per_epoch": 1, "epochs": 1})
    make_store(plans, folder=tmp_path / "preprocessed")
    write_plans(plans, tmp_path / "plans.json")
    write_json(tmp_path / "splits.json", [{"train": ["case_1", "case_2"], "validation": ["case_0"]}])
    seen, real = [], AutosegNetwork.forward

    def forward(self, *arguments, **named):
        if self.training:
            seen.append([*frames_from_main(), "forward"])
        return real(self, *arguments, **named)

    monkeypatch.setattr(AutosegNetwork, "forward", forward)
    assert train_command.main([str(tmp_path), "--device", "cpu"]) == 0
    assert seen and all(names[0] == "main" and len(names) <= MAX_FRAMES for names in seen), seen[:1]
