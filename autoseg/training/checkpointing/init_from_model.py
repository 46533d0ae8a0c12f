"""Reads the finished model that a new fold begins from, where the user names one (`--from`).

Owns: the choice among several folds' models, the matching of its organs and channels with those of the new plan, and
the check that a fold that has begun already began from this model.
Does not own: which tensors fit (`weights/transfer.py`), the report (`transfer_report.py`), SAM2's checkpoints
(`weights/sam2_checkpoint.py`).
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.config.plans import Plans
from autoseg.errors import CheckpointError, UsageError
from autoseg.inference.model_loading import find_model_files
from autoseg.network.model import AutosegNetwork
from autoseg.network.weights.model_file import read_model_tensors
from autoseg.network.weights.transfer import ModelWeights, load_model_weights
from autoseg.organs.lookup import structure_name
from autoseg.organs.names import name_tokens
from autoseg.system.atomic_files import file_sha256
from autoseg.training.checkpointing.transfer_report import StartReport, read_start

ENDING = ".safetensors"
LETTERS_OF_DIGEST = 12  # enough to tell two models apart in a message

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class StartingModel:
    """A model to begin from, which has been read and checked.

    Attributes:
        path: The model's file.
        sha256: The digest of the file.
        number: The number of the fold whose model it is, where there are several.
        weights: Its tensors, and what the new plan has in common with it.
    """

    path: Path
    sha256: str
    number: int | None
    weights: ModelWeights

    def fill(self, network: AutosegNetwork, plans: Plans) -> StartReport:
        """Fill a new network with the weights that fit, and log the report."""
        report = StartReport.make(
            load_model_weights(network, self.weights, plans),
            file=self.path.name,
            sha256=self.sha256,
            model=self.weights,
            number=self.number,
            plans=plans,
        )
        for line in report.describe(plans):
            log.info("%s", line)
        return report


def find_start(
    model: Path | str | None, folder: Path, *, plans: Plans, fold: str, has_begun: bool
) -> StartingModel | None:
    """Read the model that a fold begins from; None where none is named, or the fold has begun from it already.

    Args:
        model: What the user named: a model file, or a folder as for prediction.
        folder: The fold's folder.
        plans: The plan of the run.
        fold: The fold's name: "all", "0", ..
        has_begun: Whether there is a training state in the folder.

    Raises:
        CheckpointError: There is no such model, or it is damaged, of another version, or its weights are not finite.
        UsageError: It is not a model of autoseg, or the fold began from something else.
    """
    if model is None:
        return None
    model = Path(model)
    if has_begun:
        _refuse_another(model, folder, fold=fold)
        return None
    path, number, num_models = _choose_file(model, fold=fold)
    parts, there = read_model_tensors(path)
    if len(parts) > 1:
        number, num_models = _choose(range(len(parts)), fold=fold), len(parts)
    tensors = parts[number] if len(parts) > 1 and number is not None else parts[0]
    bad = next((name for name, value in tensors.items() if not bool(value.isfinite().all())), None)
    if bad is not None:
        raise CheckpointError(f"--from {path}: its weights {bad!r:.80} are not finite. Give another model.")
    if num_models > 1:
        log.info("%s: %d folds have a model there; beginning from that of fold %s.", model, num_models, number)
    channels, their_channels = ([one.name for one in side.data.channels] for side in (plans, there))
    weights = ModelWeights(
        tensors,
        there,
        text_rows=match_text_rows(plans, there),
        channels=match_channels(channels, their_channels),
    )
    return StartingModel(path=path, sha256=file_sha256(path), number=number, weights=weights)


def _choose_file(model: Path, *, fold: str) -> tuple[Path, int | None, int]:
    """Return the file that a path stands for, and of several folds' files the number of that one, and how many."""
    if model.is_file() and model.suffix != ENDING:
        raise UsageError(
            f"--from {model}: expected a model{ENDING} that autoseg_train wrote. A checkpoint of SAM2 is named to "
            "autoseg_plan: --set network.weights=FILE."
        )
    paths = find_model_files(model)
    if len(paths) == 1:
        return paths[0], None, 1
    numbered = {int(found.group(1)): path for path in paths if (found := re.search(r"(\d+)$", path.parent.name))}
    number = _choose(sorted(numbered), fold=fold)
    return numbered[number], number, len(numbered)


def _choose(numbers: Sequence[int], *, fold: str) -> int:
    """Choose the model of the same fold, which has not seen its validation if the folds are the same; or the first."""
    return int(fold) if fold.isdecimal() and int(fold) in numbers else numbers[0]


def _refuse_another(model: Path, folder: Path, *, fold: str) -> None:
    """Check that a fold that has begun began from this model."""
    began = read_start(folder)
    ways = f"Leave out --from to go on, or delete the folder {folder} to start again."
    if began is None or "sha256" not in began:
        raise UsageError(f"--from {model}: {folder} has begun already, and not from a model. {ways}")
    try:
        sha256 = file_sha256(_choose_file(model, fold=fold)[0])
    except (CheckpointError, OSError):
        log.warning("--from %s cannot be read; it is not needed, since %s has begun already.", model, folder)
        return
    file, recorded = began["file"], began["sha256"]
    if sha256 != recorded:
        there, here = recorded[:LETTERS_OF_DIGEST], sha256[:LETTERS_OF_DIGEST]
        raise UsageError(
            f"--from {model}: {folder} has begun from another model, {file} with the SHA-256 {there}.. "
            f"and not {here}... {ways}"
        )


def name_start(start: StartingModel | None, begun: Path | None, plans: Plans) -> str:
    """Name the weights that a fold begins with, or began with if its folder is given, for a line on the terminal."""
    began = read_start(begun) if start is None and begun is not None else None
    if start is not None:
        return f"from {start.path.name}"
    if began is not None and "sha256" in began:
        return f"from {began['file']}"
    return plans.network.weights or "no pretrained weights, from scratch"


def match_organs(here: Plans, there: Plans) -> tuple[int | None, ...]:
    """Return for each organ its position in the other plan, by name or else by synonym; None where it has none."""
    names = {organ.name: position for position, organ in reversed(list(enumerate(there.data.organs)))}
    keys = {_organ_key(name): position for name, position in names.items()}
    return tuple(names.get(organ.name, keys.get(_organ_key(organ.name))) for organ in here.data.organs)


def match_text_rows(here: Plans, there: Plans) -> tuple[int | None, ...]:
    """Return for each row of the network's text, an organ in scans of a modality, its row in the other plan, or None.

    Of a modality that the other plan does not have, its first one is taken.
    """
    names = [modality.name for modality in there.data.modalities]
    organs = match_organs(here, there)
    return tuple(
        None if organ is None else there.data.text_row(organ, names.index(one.name) if one.name in names else 0)
        for one in here.data.modalities
        for organ in organs
    )


def _organ_key(name: str) -> tuple[str, ...]:
    """Return what all names, synonyms and spellings of one structure share, and no other structure has."""
    return name_tokens(structure_name(name) or name) or (name,)


def match_channels(here: Sequence[str], there: Sequence[str]) -> tuple[int | None, ...]:
    """Return for each channel its position among the other names; those with other names follow in their order."""
    keys = [name_tokens(name) or (name,) for name in there]
    wanted = [name_tokens(name) or (name,) for name in here]
    found = [keys.index(key) if key in keys else None for key in wanted]
    left = iter(sorted(set(range(len(there))) - set(found)))
    return tuple(next(left, None) if position is None else position for position in found)
