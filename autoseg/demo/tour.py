"""The tour behind `autoseg_demo`: synthetic scans, a plan, a short training, label maps of unseen scans, pictures.

Owns: `run_tour`, the folder of a demo and the order of its steps.
Does not own: the phantoms (`phantoms.py`), any step itself (the same library calls that a user makes).

    FOLDER/demo.json                  what this demo was made with; marks the folder as ours
    FOLDER/dataset/  FOLDER/unseen/   phantoms to train on, and phantoms that training never sees
    FOLDER/run/                       the plan, the preprocessed cases, the model
    FOLDER/predictions/  FOLDER/evaluation.json  FOLDER/pictures/

The same call on the same folder continues: nothing that is there is made again but predictions and what follows them.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from autoseg.demo.phantoms import PHANTOM_ORGANS, write_phantom_dataset
from autoseg.demo.pictures import draw_pictures
from autoseg.errors import UsageError, printable
from autoseg.evaluation import Evaluation, evaluate
from autoseg.pipelines.plan import plan
from autoseg.system.atomic_files import read_json, write_json
from autoseg.system.progress import track

log = logging.getLogger("autoseg")

TRAINING_MINUTES = 5.0  # leaves one of the six minutes that the demo may take; the rest took half a minute
SYNTHETIC = "All scans here are synthetic: drawn by a program, CT and MRI, no patient was scanned."
NUM_STEPS = 6
# The phantoms all lie on their back. Without bodies turned front to back, Dice on training cases after 600 steps is
# what it otherwise is after 900, and in minutes that counts.
UPRIGHT = ('training.augmentation.mirror_axes=["slice"]', "inference.mirror_axes=[]")


@dataclass(frozen=True)
class TourSettings:
    """How large a demo is.

    Attributes:
        num_train: Phantoms to train on, CT and MRI by turns.
        num_unseen: Phantoms to predict, which training never sees.
        seed: Of the phantoms.
        plan_settings: Changes of the plan, as for `--set`.
    """

    num_train: int = 36
    num_unseen: int = 6
    seed: int = 2024
    plan_settings: tuple[str, ...] = UPRIGHT


@dataclass(frozen=True)
class TourResult:
    """What a demo came to.

    Attributes:
        folder: The demo's folder.
        evaluation: Predictions of the unseen phantoms against the truth.
        pictures: One a case, and last the overview.
        seconds: The whole took, this time.
    """

    folder: Path
    evaluation: Evaluation
    pictures: tuple[Path, ...]
    seconds: float


def run_tour(
    folder: Path,
    *,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    max_minutes: float = TRAINING_MINUTES,
    settings: TourSettings | None = None,
) -> TourResult:
    """Make phantoms, plan, train, predict cases that training has not seen, evaluate and draw.

    Args:
        folder: New, empty, or that of an earlier demo, which is continued.
        device: Where to train and predict; "auto" takes CUDA where there is one.
        max_minutes: Minutes of training, over all restarts; the rest takes about a minute on two cores.
        settings: Size of the demo.

    Raises:
        UsageError: The folder holds something else, or a demo of another size.
        AutosegError: A step cannot be done.
    """
    from autoseg.pipelines.predict import predict_files  # here, not above: torch loads while the user can read already
    from autoseg.pipelines.train import train

    start = time.monotonic()
    settings = settings or TourSettings()
    log.info("%s", SYNTHETIC)
    _claim_folder(folder, settings=settings)
    with _step(1, f"{settings.num_train} phantoms to train on, {settings.num_unseen} that training never sees"):
        _make_phantoms(folder, settings=settings)
    with _step(2, "plan: look at the dataset, choose spacing, network and training, preprocess"):
        plan(folder / "dataset", folder / "run", device=device, settings=settings.plan_settings)
    with _step(3, f"train from scratch for {max_minutes:.2g} minutes"):
        train(folder / "run", fold="all", max_minutes=max_minutes, device=device)
    with _step(4, "predict the unseen phantoms"):
        predict_files(folder / "unseen" / "images", folder / "run", folder / "predictions", device=device)
    with _step(5, "compare with the truth"):
        names = {value: name for name, value in PHANTOM_ORGANS.items()}
        evaluation = evaluate(folder / "predictions", folder / "unseen" / "labels", names=names)
        write_json(folder / "evaluation.json", evaluation.to_json())
    with _step(6, "draw"):
        pictures = _draw(folder, evaluation)
    return TourResult(folder, evaluation, pictures, seconds=time.monotonic() - start)


def _draw(folder: Path, evaluation: Evaluation) -> tuple[Path, ...]:
    return draw_pictures(
        track(sorted((folder / "unseen" / "images").iterdir()), what="pictures"),
        predictions=folder / "predictions",
        references=folder / "unseen" / "labels",
        output=folder / "pictures",
        names=evaluation.names,
    )


def _claim_folder(folder: Path, *, settings: TourSettings) -> None:
    """Mark an empty folder as a demo's, or check that it is one's of these settings."""
    wanted = {"about": SYNTHETIC, **_as_json(settings)}
    marker = folder / "demo.json"
    if marker.exists():
        if read_json(marker) != wanted:
            raise UsageError(f"{printable(str(folder))} holds a demo with other settings. Choose another folder.")
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{printable(str(folder))} holds something else. Choose a new or an empty folder.")
    try:
        write_json(marker, wanted)
    except OSError as error:
        raise UsageError(
            f"{printable(str(folder))} cannot be written: {error.strerror or error}. Choose another."
        ) from error


def _as_json(settings: TourSettings) -> dict[str, Any]:
    return asdict(settings) | {"plan_settings": list(settings.plan_settings)}


def _make_phantoms(folder: Path, *, settings: TourSettings) -> None:
    """Write the phantoms unless they are there; `dataset.json` is the last file of them."""
    if (folder / "dataset" / "dataset.json").exists():
        log.info("  they are there from an earlier run")
        return
    write_phantom_dataset(folder, num_train=settings.num_train, num_test=settings.num_unseen, seed=settings.seed)


@contextmanager
def _step(number: int, what: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    start = time.monotonic()
    log.info("[%d/%d] %s", number, NUM_STEPS, what)
    yield
    log.info("  %.0f s", time.monotonic() - start)
