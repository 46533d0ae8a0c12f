"""Chooses the sentences of each organ in a plan, for each modality of its scans.

Owns: `describe_organs`, `list_modalities`.
Does not own: what is known about organs, and its lookup (`organs/`), own texts (`custom_texts.py`,
`organ_texts/describe_unknown_organs.py`).
"""

from autoseg.config.plans import OrganPlan
from autoseg.errors import Problem
from autoseg.organs import describe_organ, find_modality
from autoseg.organs.lookup import Description
from autoseg.organs.modality import Modality
from autoseg.planning.fingerprint.fingerprint import Fingerprint, OrganEntry

MAX_SENTENCES = 32  # limits of OrganPlan; a user's own text may be longer
MAX_SENTENCE_LENGTH = 1000


def modality_name(channel_names: tuple[str, ...]) -> str:
    """Return the name of a modality: ct, mri, or the channels if they are neither."""
    modality = find_modality(channel_names)
    return modality if modality != "unknown" else ", ".join(channel_names)[:200]


def list_modalities(fingerprint: Fingerprint) -> dict[str, tuple[str, ...]]:
    """Return the channels of each modality, that of the first dataset first."""
    channels = [dataset.channel_names for dataset in fingerprint.datasets] or [fingerprint.channel_names]
    found: dict[str, tuple[str, ...]] = {}
    for names in channels:
        found.setdefault(modality_name(names), names)
    return found


def describe_organs(fingerprint: Fingerprint) -> tuple[tuple[OrganPlan, ...], tuple[Problem, ...]]:
    """Look up the description of every organ, and warn of unknown organs and of equal descriptions."""
    modalities = [find_modality(names) for names in list_modalities(fingerprint).values()]
    organs, problems = [], []
    first_of: dict[tuple[str, ...], str] = {}
    for organ in fingerprint.organs:
        found, *more = (describe_entry(organ, modality=modality) for modality in modalities)
        organs.append(
            OrganPlan(
                name=organ.name,
                value=organ.value,
                sentences=_fit(found.sentences),
                additional_sentences=tuple(_fit(one.sentences) for one in more),
            )
        )
        if not found.is_known:
            text = (
                f"organ {organ.name} is not among the known organs: a template describes it. Give it a description in "
                "dataset.json or with --descriptions, or a usual anatomical name."
            )
            problems.append(Problem("", text, is_error=False))
        first = first_of.setdefault(found.sentences, organ.name)
        if first != organ.name:
            text = (
                f"organs {first} and {organ.name} have the same description, so the text cannot tell them apart. If "
                "they are one organ, give them one value; else give one a description of its own."
            )
            problems.append(Problem("", text, is_error=False))
    return tuple(organs), tuple(problems)


def describe_entry(organ: OrganEntry, *, modality: Modality) -> Description:
    """Describe an organ; one without a name of its own is described by its regions."""
    found = describe_organ(organ.name, modality=modality, own_text=organ.description)
    if found.is_known or not organ.part_of:
        return found
    regions = [describe_organ(name, modality=modality) for name in organ.part_of]
    sentences = tuple(sentence for region in regions for sentence in region.sentences)
    is_known = all(region.is_known for region in regions)
    return Description(organ.name, (f"The {organ.name}.", *sentences), is_known=is_known)


def _fit(sentences: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sentence[:MAX_SENTENCE_LENGTH] for sentence in sentences[:MAX_SENTENCES])
