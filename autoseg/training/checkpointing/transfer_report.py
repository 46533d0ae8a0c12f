"""Reports what a fold took over from a finished model, in its `weights.json` and on the terminal.

Does not own: how the weights were fitted (`weights/transfer.py`).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
    """What became of a finished model's weights; tensors have the network's own names.

    Attributes:
        file: Name of the model's file.
        sha256: Of the file.
        dataset: That the model was trained on.
        fold: Whose model it is, where there were several, or None.
        organs: Of the plan, to their names in the model or None.
        channels: The same of the channels.
        words: Tokens of the plan's descriptions, where its small text tower reads them, else 0.
        known_words: Of these, those that the model knows.
        taken: As they were.
        adapted: In part, or changed to the plan's channels, words, organs or places.
        new: Drawn: the model has no such part, or one of another shape.
        left_over: Of the model: the plan has no such part, or one of another shape.
        settings: Of the model's plan that would make more fit.
        parameters: Weights that move at a rate of their own (`optim/pretrained_rates.py`): none of these.
    """

    file: str
    sha256: str
    dataset: str
    fold: int | None
    organs: dict[str, str | None]
    channels: dict[str, str | None]
    words: int
    known_words: int
    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    new: tuple[str, ...]
    left_over: tuple[str, ...]
    settings: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    @classmethod
    def make(
        cls,
        fitted: FittedWeights,
        *,
        file: str,
        sha256: str,
        model: ModelWeights,
        number: int | None,
        plans: Plans,
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
            **vars(fitted),
            settings=tuple(_settings_that_differ(plans, there)) if fitted.left_over else (),
        )

    def describe(self, plans: Plans) -> Iterator[str]:
        """Yield the report in a few lines, the first with the numbers of tensors."""
        fold = "" if self.fold is None else f", fold {self.fold}"
        yield (
            f"beginning from {self.file} ({self.dataset}{fold}): {len(self.taken)} tensors taken, "
            f"{len(self.adapted)} adapted, {len(self.new)} new, {len(self.left_over)} left over"
        )
        for what, names in (("adapted", self.adapted), ("new", self.new), ("left over", self.left_over)):
            if names:
                yield f"  {what}: {count_by_part(names)}"
        yield f"  organs: {_tell(self.organs)}"
        if any(name != source for name, source in self.channels.items()):
            yield f"  channels: {_tell(self.channels)}"
        if self.words:
            yield f"  tokens of the descriptions: {self.known_words} known to it, {self.words - self.known_words} new"
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
