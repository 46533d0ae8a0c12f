"""Fixtures of small datasets, models and runs to which the tests of this folder do damage."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import TINY_TRAINING, Outcome, call_main
from small_data import write_dataset

from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans, write_plans

SECRET_PLACE, SECRET_USER = "secret_place_of_jane", "user_jane_doe"  # in paths that nobody else may see


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Write an nnU-Net dataset of good cases `good_0`, `good_1`, ..; more is put beside them."""

    def make(num_cases: int = 3, *, name: str = "data", **declared: object) -> Path:
        return write_dataset(tmp_path / name, num_cases=num_cases, **declared)

    return make


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command by its verb: ("plan", argument, ..) -> Outcome."""

    def run(verb: str, *arguments: object) -> Outcome:
        capfd.readouterr()
        code = call_main(verb, *arguments)
        return Outcome(code, "".join(capfd.readouterr()))

    return run


@pytest.fixture(scope="session")
def make_model(tiny_plans: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Give a maker of models with new weights, by the arguments of `tiny_plans`."""
    import torch

    from autoseg.network.build import build_network
    from autoseg.network.weights.model_file import save_model

    def make(num_organs: int, **changes: object) -> Path:
        torch.manual_seed(0)
        plans = tiny_plans(num_organs, **changes)
        path = tmp_path_factory.mktemp("model") / "model.safetensors"
        save_model(build_network(plans).eval(), plans, path)
        return path

    return make


@pytest.fixture(scope="session")
def model_file(make_model: Callable[..., Path]) -> Path:
    """Give a model of two organs and one channel, with new weights: it predicts something."""
    return make_model(2)


@dataclass(frozen=True)
class WholeWay:
    """What `plan_train_predict.py` left behind.

    Attributes:
        folder: With `data`, `dicom`, `run` and `out`.
        codes: Exit code by command.
        text: All that the terminal showed.
        network: All that was asked of the network.
    """

    folder: Path
    codes: dict[str, int]
    text: str
    network: str


@pytest.fixture(scope="session")
def whole_way(tmp_path_factory: pytest.TempPathFactory) -> WholeWay:
    """Take a dataset full of patients' names and markup all the way, once, in a process that may not ask a network."""
    script = Path(__file__).with_name("plan_train_predict.py")
    root = tmp_path_factory.mktemp("way")
    folder, site, log = root / SECRET_PLACE, root / "site", root / "network.txt"
    folder.mkdir()
    site.mkdir()
    spec = importlib.util.spec_from_file_location("plan_train_predict", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (site / "sitecustomize.py").write_text(module.WATCH)
    environment = {**os.environ, "NETWORK_LOG": str(log), "OMP_NUM_THREADS": "1", "USER": SECRET_USER}
    environment |= {"LOGNAME": SECRET_USER, "HOME": str(root / SECRET_USER), "PYTHONIOENCODING": "utf-8"}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), str(script.parents[2])])
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=300,
    )
    text = done.stdout.decode()
    assert done.returncode == 0, text
    return WholeWay(
        folder, json.loads((folder / "codes.json").read_text()), text, log.read_text() if log.exists() else ""
    )


@pytest.fixture(scope="session")
def planned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a dataset of three good cases and its planned run, for copying (`tiny_run`)."""
    import autoseg

    root = tmp_path_factory.mktemp("tiny")
    write_dataset(root / "data", num_cases=3)
    autoseg.plan(root / "data", root / "run", device="cpu", memory_gib=4, settings=TINY_TRAINING, num_workers=1)
    return root


@pytest.fixture
def tiny_run(planned_once: Path, tmp_path: Path) -> Callable[..., Path]:
    """Give a planned run whose training steps take milliseconds: (settings, ..) -> its folder, `data` beside it."""

    def make(*settings: str) -> Path:
        run = tmp_path / "run"
        shutil.copytree(planned_once, tmp_path, dirs_exist_ok=True)
        write_plans(apply_settings(read_plans(run / "plans.json"), settings), run / "plans.json")
        return run

    return make


@pytest.fixture
def no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the picture of the training's progress, which takes as long as a training here."""
    from autoseg.training.checkpointing import checkpoint_policy

    monkeypatch.setattr(checkpoint_policy, "plot_progress", lambda *_: None)
