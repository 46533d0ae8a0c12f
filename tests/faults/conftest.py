"""The commands in this process on small datasets, so that a fault costs a fraction of a second."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from autoseg.cli import evaluate, plan, predict, train
from autoseg.config.overrides import apply_settings
from autoseg.config.plans import read_plans, write_plans

SHAPE_ZYX = (6, 20, 24)
ORGANS = {"background": 0, "liver": 1, "spleen": 2}
SECRET_PLACE, SECRET_USER = "secret_place_of_jane", "user_jane_doe"  # in paths that nobody else may see


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: Its exit code.
        text: All that it printed.
    """

    code: int
    text: str


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def draw_case(number: int, *, shape_zyx: tuple[int, int, int] = SHAPE_ZYX) -> tuple[np.ndarray, np.ndarray]:
    """Draw an MRI of noise with two boxes, float32, and its label map, uint8."""
    rng = np.random.default_rng(number)
    labels = np.zeros(shape_zyx, np.uint8)
    labels[1:4, 3:11, 3 : 11 + number % 3] = 1
    labels[2:5, 12:18, 13:20] = 2
    image = rng.normal(100, 10, shape_zyx) + 60 * (labels == 1) - 60 * (labels == 2)
    return image.astype(np.float32), labels


@pytest.fixture
def make_dataset(tmp_path: Path, save_scan: Callable[..., Path]) -> Callable[..., Path]:
    """Write an nnU-Net dataset of good cases `good_0`, `good_1`, ..; more is put beside them."""

    def make(num_cases: int = 3, *, name: str = "data", **declared: object) -> Path:
        root = tmp_path / name
        for number in range(num_cases):
            image, labels = draw_case(number)
            save_scan(root / "imagesTr" / f"good_{number}_0000.nii.gz", image)
            save_scan(root / "labelsTr" / f"good_{number}.nii.gz", labels)
        content = {"channel_names": {"0": "MRI"}, "labels": ORGANS, "file_ending": ".nii.gz", **declared}
        (root / "dataset.json").write_text(json.dumps(content))
        return root

    return make


@pytest.fixture(scope="session")
def model_file(tiny_plans: Callable[..., object], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a model of two organs and one channel, with new weights: it predicts something."""
    import torch

    from autoseg.network.build import build_network
    from autoseg.network.weights.model_file import save_model

    torch.manual_seed(0)
    plans = tiny_plans(2)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(build_network(plans).eval(), plans, path)
    return path


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run `autoseg_plan`, `autoseg_train` or `autoseg_predict` by its verb: ("plan", argument, ..) -> Outcome."""
    mains = {"plan": plan.main, "train": train.main, "predict": predict.main}

    def run(verb: str, *arguments: object) -> Outcome:
        capfd.readouterr()
        code = mains[verb]([*map(str, arguments), "--device", "cpu"])
        logging.getLogger("autoseg").handlers.clear()
        out, err = capfd.readouterr()
        return Outcome(code, out + err)

    return run


@pytest.fixture(scope="module")
def run_once() -> Callable[..., Outcome]:
    """Run a command as `command` does, for fixtures of a module that plan or predict many faults at once."""
    import contextlib
    import io

    import torch

    mains = {"plan": plan.main, "train": train.main, "predict": predict.main, "evaluate": evaluate.main}

    def run(verb: str, *arguments: object) -> Outcome:
        threads, text = torch.get_num_threads(), io.StringIO()
        torch.set_num_threads(1)
        device = () if verb == "evaluate" else ("--device", "cpu")
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            code = mains[verb]([*map(str, arguments), *device])
        logging.getLogger("autoseg").handlers.clear()
        torch.set_num_threads(threads)
        return Outcome(code, text.getvalue())

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


@dataclass(frozen=True)
class WholeWay:
    """What `whole_way.py` left behind.

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
    script = Path(__file__).with_name("whole_way.py")
    root = tmp_path_factory.mktemp("way")
    folder, site, log = root / SECRET_PLACE, root / "site", root / "network.txt"
    folder.mkdir()
    site.mkdir()
    spec = importlib.util.spec_from_file_location("whole_way", script)
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


TINY_TRAINING = (
    "network.image_size_px=32",
    "network.feature_channels=16",
    "network.refiner_channels=[4,8]",
    "network.semantic_decoder=false",
    "network.interaction_levels=0",
    "network.injection_stages=[]",
    "network.text.model=learned",
    "training.steps_per_epoch=10",
    "training.batch_slices=2",
)


@pytest.fixture(scope="session")
def planned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with a dataset of three good cases and its planned run, for copying (`tiny_run`)."""
    import nibabel as nib

    import autoseg

    root = tmp_path_factory.mktemp("tiny")
    for number in range(3):
        for folder, name, array in zip(("images", "labels"), ("_0000", ""), draw_case(number), strict=True):
            path = root / "data" / f"{folder}Tr" / f"good_{number}{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array.transpose(), np.eye(4)), path)
    content = {"channel_names": {"0": "MRI"}, "labels": ORGANS, "file_ending": ".nii.gz"}
    (root / "data" / "dataset.json").write_text(json.dumps(content))
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
