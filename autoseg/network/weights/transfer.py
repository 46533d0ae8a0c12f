"""Copies weights of a finished autoseg model into a new network, whose plan may differ.

Owns: which of a model's tensors mean the same in the new network, and the report.
Does not own: layers that read channels (`adapt_input_layers.py`) or text (`adapt_text_rows.py`), the model's file
(`model_file.py`), which model it is (`checkpointing/init_from_model.py`).

A tensor is copied where its part has the same meaning and shape, adapted where one axis can be matched by name
(channels, neighbors, words, organs) or interpolated (positions), and otherwise left out. The image encoder is copied as
a whole or not at all, as SAM2's is: half of another size's weights would fit and be useless.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.config.plans import Plans
from autoseg.errors import CheckpointError
from autoseg.network.model import AutosegNetwork
from autoseg.network.weights.adapt_input_layers import Channels, fit_refiner_input, fit_stem, fold_stem
from autoseg.network.weights.adapt_text_rows import ROWS, FittedText, fit_rows, fit_text, is_same_tower
from autoseg.network.weights.load_errors import explain_load_failure

READER = "reader."  # begins the names of a text tower's tensors in a model file
NO_WEIGHTS = ("image_tower.config", "text.is_sentence", "text.frozen_vectors")  # what a tower is or has said
ENCODER, PATCHES = "image_encoder.", "image_encoder.hiera.patch_embed.proj."
STEM = ("stem.weight", "stem.bias")
REFINER_INPUT = "refiner.down.0.layers.0.weight"
QUERIES = ("prompt_projector.queries.weight", "prompt_projector.queries.bias")
TOWER_PATCHES, TOWER_PLACES = "image_tower.visual.conv1.weight", "image_tower.visual.positional_embedding"
POSITION = "position.positional_encoding_gaussian_matrix"
PROMPT_POSITION = f"point_prompt_encoder.encoder.pe_layer.{POSITION.removeprefix('position.')}"  # the same tensor


@dataclass(frozen=True)
class ModelWeights:
    """A finished model, and what a new plan has in common with it.

    Attributes:
        tensors: The tensors as in its file.
        plans: The model's own plan.
        text_rows: For each row of the new network's text (`DataPlan.text_rows`) the model's row, or None.
        channels: For each channel of the new plan its position in the model's, or None.
    """

    tensors: Mapping[str, Tensor]
    plans: Plans
    text_rows: Sequence[int | None]
    channels: Sequence[int | None]


@dataclass(frozen=True)
class FittedWeights:
    """How the weights of a network were made from a model's, by the network's names.

    Attributes:
        taken: Tensors that were copied.
        adapted: Tensors copied in part, or adapted to the new plan's channels, words, organs or positions.
        new: Untrained tensors of the network: the model has no such part, or one of another shape.
        left_over: Tensors of the model that the network has no place for.
        words: The number of tokens in the plan's descriptions, where its small text encoder reads them, else 0.
        known_words: The number of these that the model knows.
    """

    taken: tuple[str, ...]
    adapted: tuple[str, ...]
    new: tuple[str, ...]
    left_over: tuple[str, ...]
    words: int = 0
    known_words: int = 0


@torch.no_grad()
def load_model_weights(network: AutosegNetwork, model: ModelWeights, plans: Plans) -> FittedWeights:
    """Overwrite the weights of a new network on the CPU with those of a finished model that fit.

    Raises:
        CheckpointError: The model's weights are not those of its own plan.
    """
    everything = _by_our_names(model)
    offered = {name: value for name, value in everything.items() if _means_the_same(name, plans, model.plans)}
    wanted = {name: value for name, value in network.state_dict().items() if name not in NO_WEIGHTS}
    if PROMPT_POSITION in wanted and POSITION in offered:
        offered |= {PROMPT_POSITION: offered[POSITION]}
    try:
        text = fit_text(network.text, offered, there=model.plans, rows=model.text_rows)
        fitted = {name: value for name, value in offered.items() if name not in ROWS} | text.tensors
        fitted |= _fit_inputs(wanted, offered, model, plans) | _fit_places(wanted, offered)
        fitting = {name: fitted[name] for name, value in wanted.items() if _fits(fitted.get(name), value)}
    except (RuntimeError, IndexError) as error:  # of sizes that contradict the plan
        raise CheckpointError(
            f"the model's weights do not fit the plan inside it: {explain_load_failure(error)}. Copy the model again."
        ) from error
    for name, value in fitting.items():
        wanted[name].copy_(value)
    return _report(fitting, wanted=wanted, everything=everything, text=text)


def _by_our_names(model: ModelWeights) -> dict[str, Tensor]:
    """Give a file's weights the names that the network has for them; stored text vectors are left out."""
    is_learned = model.plans.network.text.model == "learned"
    named = {}
    for key, value in model.tensors.items():
        name = "text." + key.removeprefix(READER) if key.startswith(READER) else key
        if name not in NO_WEIGHTS and (name != "text.vectors" or is_learned):
            named[name] = value
    return named


def _means_the_same(name: str, here: Plans, there: Plans) -> bool:
    """Say whether a part of the network does the same in two plans, whatever its shape."""
    ours, theirs = here.network, there.network
    if name.startswith("text."):
        return is_same_tower(ours.text, theirs.text)
    if name.startswith((ENCODER, "stem.")):
        return ours.backbone == theirs.backbone
    if name.startswith(("image_tower.", "interaction.image_in.")):
        is_same = ours.interaction_image_encoder == theirs.interaction_image_encoder
        reads_clip = ours.interaction_image_encoder == "clip"
        return is_same and (is_same_tower(ours.text, theirs.text) if reads_clip else ours.backbone == theirs.backbone)
    if name == REFINER_INPUT:  # blocks of pixels enter as channels: of another size, they are others
        return ours.refiner_stride == theirs.refiner_stride
    return True


def _fit_inputs(
    wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor], model: ModelWeights, plans: Plans
) -> dict[str, Tensor]:
    """Fit the layers that read the slices' channels."""
    channels = Channels(
        sources=model.channels,
        num_there=len(model.plans.data.channels),
        reach_here=plans.network.context_slices,
        reach_there=model.plans.network.context_slices,
    )
    stem, stem_bias = (offered.get(name) for name in STEM)
    weight, bias = PATCHES + "weight", PATCHES + "bias"
    fitted: dict[str, Tensor] = {}
    if weight in offered and bias in offered:  # an encoder that is new learns its stem as well
        if STEM[0] in wanted:
            fitted |= zip(STEM, fit_stem(channels, stem, stem_bias), strict=True)
        elif not channels.is_same:
            folded = fold_stem(
                channels, patches=offered[weight], patch_bias=offered[bias], stem=stem, stem_bias=stem_bias
            )
            fitted |= zip((weight, bias), folded, strict=True)
    if REFINER_INPUT in offered:
        fitted[REFINER_INPUT] = fit_refiner_input(channels, offered[REFINER_INPUT], stride=plans.network.refiner_stride)
    return fitted


def _fit_places(wanted: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fit the weights with a row per prompt token, and the small CLIP's code of positions, with a row per patch."""
    fitted = {name: fit_rows(wanted[name], offered[name]) for name in QUERIES if name in wanted and name in offered}
    has_places = TOWER_PLACES in wanted and TOWER_PLACES in offered
    if has_places and _fits(offered.get(TOWER_PATCHES), wanted[TOWER_PATCHES]):
        fitted[TOWER_PLACES] = _resize_places(offered[TOWER_PLACES], num_rows=len(wanted[TOWER_PLACES]))
    return fitted


def _resize_places(code: Tensor, *, num_rows: int) -> Tensor:
    """Interpolate (1 + g * g, C) codes, the class token's first, to another square of patches."""
    if len(code) == num_rows:
        return code
    old, new = round((len(code) - 1) ** 0.5), round((num_rows - 1) ** 0.5)
    grid = code[1:].T.reshape(1, -1, old, old)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([code[:1], grid[0].flatten(1).T])


def _fits(value: Tensor | None, wanted: Tensor) -> bool:
    return value is not None and value.shape == wanted.shape


def _report(
    fitting: Mapping[str, Tensor], *, wanted: Mapping[str, Tensor], everything: Mapping[str, Tensor], text: FittedText
) -> FittedWeights:
    same = {name for name, value in fitting.items() if name in everything and torch.equal(value, everything[name])}
    if PROMPT_POSITION in fitting:
        same.add(PROMPT_POSITION)
    used = set(fitting)
    if PATCHES + "weight" in used - same:  # the stem is in it now
        used |= set(STEM)
    return FittedWeights(
        taken=tuple(sorted(same)),
        adapted=tuple(sorted(fitting.keys() - same)),
        new=tuple(sorted(wanted.keys() - fitting.keys())),
        left_over=tuple(sorted(everything.keys() - used)),
        words=text.words,
        known_words=text.known_words,
    )


def count_by_part(names: Iterable[str]) -> str:
    """Return how many of these tensors each part of the network has, as text."""
    counts = Counter(name.split(".")[0].replace("_", " ") for name in names)
    return ", ".join(f"{part} {count}" for part, count in counts.items())
