"""Adds organs that a model was not trained on, by their descriptions.

Owns: `with_new_organs`, and the warning if a description is unlike all descriptions of the model's training.

Legend: K organs of the model, N new ones, S sentences, D channels.
"""

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from autoseg.config.plans import OrganPlan, Plans
from autoseg.errors import CheckpointError, UsageError
from autoseg.inference.predictor import Predictor
from autoseg.network.text.cached_text import StoredText
from autoseg.network.text.encode_new_text import NewText, read_new_text
from autoseg.organs import describe_organ, find_modality, mentions_side

LARGEST_VALUE = 65535
FEWEST_TO_COMPARE = 3  # organs: fewer do not show how different descriptions usually are
MOST_NEW_WORDS = 0.3  # share

log = logging.getLogger("autoseg")


def with_new_organs(predictor: Predictor, organs: Mapping[str, str], *, offline: bool = False) -> Predictor:
    """Return a predictor that also finds new organs; the given one does not change.

    Args:
        predictor: The result of `load_predictor`.
        organs: Descriptions by name; for an empty one, the built-in description is used.
        offline: Whether to load a pretrained text tower only from the hub's cache.

    Raises:
        UsageError: The model knows an organ already, or there is no description of one.
        CheckpointError: The model file has no text tower, or its pretrained tower cannot be loaded.
    """
    plans = predictor.plans
    known = plans.data.organs
    new = _plan_organs(organs, plans)
    num_modalities = len(plans.data.modalities)
    networks, texts = [], []
    for network in predictor.networks:
        state = _stored(network).reader
        if not state:
            raise CheckpointError(
                "the model kept no text tower, so it cannot read about other organs than its own. "
                "Leave out --new-organ, or train with another network.text."
            )
        sentences = [organ.sentences_of(number) for number in range(num_modalities) for organ in new]
        texts.append(read_new_text(plans.network.text, plans.data.text_rows, sentences, state=state, offline=offline))
        networks.append(_with_text(network, texts[-1], num_modalities=num_modalities))
    _warn_of_unlike(new, texts[0], networks[0], plans=plans)
    data = plans.data.model_copy(update={"organs": (*known, *new)})
    inference = plans.inference
    if inference.mirror_axes and mentions_side([organ.name for organ in new]):
        inference = inference.model_copy(update={"mirror_axes": ()})  # a mirrored image has its sides exchanged
    return replace(
        predictor,
        networks=tuple(networks),
        plans=plans.model_copy(update={"data": data, "inference": inference}),
        organs=(*predictor.organs, *range(len(known), len(known) + len(new))),
    )


def _plan_organs(organs: Mapping[str, str], plans: Plans) -> list[OrganPlan]:
    """Describe each organ and assign it a unique value."""
    names = plans.data.label_names
    used = {organ.value for organ in plans.data.organs} | {plans.data.ignore_value}
    free = (value for value in range(max(value for value in used if value) + 1, LARGEST_VALUE + 1) if value not in used)
    modalities = [find_modality([channel.name for channel in kind.channels]) for kind in plans.data.modalities]
    planned = []
    for name, text in organs.items():
        if name in names:
            raise UsageError(f"--new-organ {name}: the model was trained on it. Ask for it with --organs.")
        found, *more = (describe_organ(name, modality=modality, own_text=text) for modality in modalities)
        if not found.is_known:
            raise UsageError(
                f'--new-organ {name}: autoseg has no description of it. Give one: --new-organ "{name}=It is ...".'
            )
        value = next(free, None)
        if not name or value is None:
            raise UsageError(
                f"--new-organ {name!r:.40}: it needs a name, and a free value up to {LARGEST_VALUE}. Name it."
            )
        try:
            others = tuple(one.sentences for one in more)
            planned.append(OrganPlan(name=name, value=value, sentences=found.sentences, additional_sentences=others))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise UsageError(
                f"--new-organ {name!r:.40}: {reason}. Give a shorter name, or fewer and shorter sentences."
            ) from None
    return planned


def _with_text(network: nn.Module, text: NewText, *, num_modalities: int) -> nn.Module:
    """Return the network with the same weights and more text, which follows the known organs of each modality."""
    stored = _stored(network)
    more = copy.copy(network)

    def add(known: Tensor, new: Tensor) -> Tensor:
        parts = zip(known.chunk(num_modalities), new.to(known).chunk(num_modalities), strict=True)
        return torch.cat([part for pair in parts for part in pair])

    vectors, is_sentence = add(stored.vectors, text.vectors), add(stored.is_sentence, text.is_sentence)
    more._modules = {**network._modules, "text": StoredText(vectors, is_sentence, reader=stored.reader)}
    return more


def _warn_of_unlike(new: Sequence[OrganPlan], text: NewText, network: nn.Module, *, plans: Plans) -> None:
    """Warn of organs whose descriptions are unlike all that the model was trained on."""
    names = [organ.name for organ in plans.data.organs]
    stored, count = _stored(network), len(names) + len(new)  # of the first modality
    similarity = compare_texts(
        stored.vectors[:count].cpu(), stored.is_sentence[:count].cpu(), num_known=len(names)
    )  # (K + N, K)
    for number, organ in enumerate(new):
        reasons = []
        if len(names) < FEWEST_TO_COMPARE:
            reasons.append(f"the model was trained on {len(names)} alone, too few to know more by their descriptions")
        else:
            nearest = similarity[len(names) + number]
            if nearest.max() < similarity[: len(names)].max(dim=1).values.min():
                reasons.append(f"unlike all that it was trained on (the nearest is {names[int(nearest.argmax())]})")
        if text.unknown_share[number] > MOST_NEW_WORDS:
            reasons.append(f"{text.unknown_share[number]:.0%} of its words are new to the model")
        if reasons:
            log.warning("--new-organ %s: %s; what is found of it may be anything.", organ.name, "; ".join(reasons))


def _stored(network: nn.Module) -> StoredText:
    text = getattr(network, "text", None)
    if not isinstance(text, StoredText):
        raise CheckpointError(
            "the model's network was built by a function of its user's and reads no text. Leave out --new-organ."
        )
    return text


def compare_texts(vectors: Tensor, is_sentence: Tensor, *, num_known: int) -> Tensor:
    """Return the cosine similarity of all organs to the known ones, after subtracting the known organs' mean vector.

    Args:
        vectors: (K + N, S, D).
        is_sentence: (K + N, S).
        num_known: K.

    Returns:
        (K + N, K), -1 to 1; -1 for an organ and itself.
    """
    counts = is_sentence.sum(dim=1, keepdim=True).clamp(min=1)
    means = (vectors * is_sentence.unsqueeze(-1)).sum(dim=1) / counts
    directions = F.normalize(means - means[:num_known].mean(dim=0), dim=1)
    similarity = directions @ directions[:num_known].T
    return similarity.masked_fill(torch.eye(*similarity.shape, dtype=torch.bool), -1.0)
