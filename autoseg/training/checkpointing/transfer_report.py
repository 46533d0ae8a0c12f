"""Reports what a fold took over from a finished model, in its `weights.json` and on the terminal.

Does not own: how the weights were fitted (`weights/transfer.py`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autoseg.config.plans import Plans
from autoseg.errors import CheckpointError, UsageError
from autoseg.network.weights.transfer import FittedWeights, ModelWeights, count_by_part
from autoseg.system.atomic_files import read_json

WEIGHTS_FILE_NAME = "weights.json"
MOST_NAMED = 8
# of the network's plan, what decides which parts there are and their shapes; neighbors and sizes of images adapt
SHAPING = (
    *("backbone", "feature_channels", "interaction_levels", "interaction_image_encoder", "injection_stages"),
    *("point_prompts", "semantic_decoder", "refiner_channels", "refiner_stride"),
)


@dataclass(frozen=True)
class StartReport:
    """What a new network took over from a finished model.

    Attributes:
        file: The name of the model's file.
        sha256: The digest of the file.
        dataset: The dataset that the model was trained on.
        fold: The fold whose model it is, where there were several, or None.
        organs: The name in the model of each organ of the plan, or None.
        channels: The name in the model of each channel of the plan, or None.
        settings: Settings of the model's plan with which more tensors would fit.
        fitted: The tensors that were taken, adapted, and so on.
        parameters: Weights with a learning rate of their own (`optim/pretrained_rates.py`): none of these.
    """

    file: str
    sha256: str
    dataset: str
    fold: int | None
    organs: dict[str, str | None]
    channels: dict[str, str | None]
    settings: tuple[str, ...]
    fitted: FittedWeights
    parameters: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, fitted: FittedWeights, *, file: str, sha256: str, model: ModelWeights, number: int | None, plans: Plans
    ) -> "StartReport":
        """Collect the report of a start; `number` is the model's fold."""
        there, num_organs = model.plans, len(model.plans.data.organs)
        of_first_modality = model.text_rows[: len(plans.data.organs)]
        organs = [None if row is None else row % num_organs for row in of_first_modality]
        return cls(
            file=file,
            sha256=sha256,
            dataset=there.dataset_name,
            fold=number,
            organs=_named(plans.data.organs, there.data.organs, organs),
            channels=_named(plans.data.channels, there.data.channels, model.channels),
            settings=tuple(_settings_that_differ(plans, there)) if fitted.left_over else (),
            fitted=fitted,
        )

    def record(self) -> dict[str, Any]:
        """Return the content of `weights.json`."""
        content = asdict(self)
        return content | content.pop("fitted")

    def describe(self, plans: Plans) -> Iterator[str]:
        """Yield the report in a few lines, the first with the numbers of tensors."""
        fold, fitted = "" if self.fold is None else f", fold {self.fold}", self.fitted
        yield (
            f"beginning from {self.file} ({self.dataset}{fold}): {len(fitted.taken)} tensors taken, "
            f"{len(fitted.adapted)} adapted, {len(fitted.new)} new, {len(fitted.left_over)} left over"
        )
        for what, names in (("adapted", fitted.adapted), ("new", fitted.new), ("left over", fitted.left_over)):
            if names:
                yield f"  {what}: {count_by_part(names)}"
        yield f"  organs: {_tell(self.organs)}"
        if any(name != source for name, source in self.channels.items()):
            yield f"  channels: {_tell(self.channels)}"
        if fitted.words:
            new = fitted.words - fitted.known_words
            yield f"  tokens of the descriptions: {fitted.known_words} known to it, {new} new"
        if plans.network.weights is not None:
            yield f"  network.weights, {plans.network.weights}, is not read: the model takes its place"
        if self.settings:
            yield f"  more would fit if planned with {' '.join(self.settings)}"


def read_start(folder: Path) -> dict[str, Any] | None:
    """Return the record of the weights that a fold began with; None where it began from scratch.

    "parameters" names the weights that came from a checkpoint of SAM2; "sha256" is there for a finished model alone.

    Raises:
        CheckpointError: The record is damaged.
    """
    path = folder / WEIGHTS_FILE_NAME
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = read_json(path)
        if all(isinstance(word, str) for word in (content["file"], content.get("sha256", ""), *content["parameters"])):
            return content
    except (UsageError, KeyError, TypeError, AttributeError):
        pass
    raise CheckpointError(
        f"{path} is damaged: it does not say which weights training began from. Delete the folder {folder} to start "
        "this fold again."
    )


def _named(here: Sequence[Any], there: Sequence[Any], positions: Sequence[int | None]) -> dict[str, str | None]:
    return {
        one.name: None if position is None else there[position].name
        for one, position in zip(here, positions, strict=True)
    }


def _settings_that_differ(here: Plans, there: Plans) -> Iterator[str]:
    """Yield the settings of `autoseg_plan` that would make a network with the model's parts."""
    ours, theirs = here.network.model_dump(mode="json"), there.network.model_dump(mode="json")
    for name in SHAPING:
        if ours[name] != theirs[name] and theirs[name] is not False:  # a part that the model lacks makes nothing fit
            yield f"--set network.{name}={_word(theirs[name])}"
    if ours["text"]["model"] != theirs["text"]["model"]:
        yield f"--set network.text.model={_word(theirs['text']['model'])}"


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _tell(sources: dict[str, str | None]) -> str:
    """Name what the model knows, and under which name where that is another, and what is new to it."""
    known = [name if name == source else f"{name} (its {source})" for name, source in sources.items() if source]
    new = [name for name, source in sources.items() if source is None]
    parts = ((known, "known to it"), (new, "new"))
    return "; ".join(f"{_name_some(names)} {what}" for names, what in parts if names)


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
