"""Plans the data part of a run: channels, organs, regions, datasets, the grid.

Owns: `plan_data`, which calls its rules in order.
Does not own: the rules (`rules/data.py`, `rules/datasets.py`), the other parts (`planner.py`), the organs' sentences
(`organ_texts/organ_sentences.py`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from autoseg.config.plans import (
    ChannelPlan,
    DataPlan,
    DatasetPlan,
    DatasetSamplingFraction,
    LabelPlan,
    ModalityPlan,
    OrganPlan,
    RegionPlan,
)
from autoseg.organs import find_modality
from autoseg.planning.fingerprint.fingerprint import DatasetEntry, Fingerprint
from autoseg.planning.multi_dataset.mapping_file import FILE_NAME as MAPPING_FILE_NAME
from autoseg.planning.organ_texts.organ_sentences import describe_entry, describe_organs, list_modalities, modality_name
from autoseg.planning.resolve import Resolver
from autoseg.planning.rules import data as data_rules
from autoseg.planning.rules.choice import Choice
from autoseg.planning.rules.datasets import pool_intensities, weigh_cases


def plan_data(
    fingerprint: Fingerprint, resolver: Resolver, *, fractions: Sequence[DatasetSamplingFraction]
) -> DataPlan:
    """Choose channels, organs, regions and the grid.

    Args:
        fingerprint: The measurements of one dataset, or of several that were joined.
        resolver: Takes the values and their reasons.
        fractions: How often training sees each of several datasets, by the planner's own rule.
    """
    resolve, cases, sizes = resolver.resolve, fingerprint.cases, fingerprint.cropped_sizes_zyx
    (first, first_channels), *others = (
        (name, _plan_channels(fingerprint, modality=name, names=names, is_first=not number, resolver=resolver))
        for number, (name, names) in enumerate(list_modalities(fingerprint).items())
    )
    fraction_of = {one.dataset: one.fraction for one in fractions}
    weights = weigh_cases([case.dataset for case in cases], fractions=fraction_of)
    spacing = resolve(
        "data.target_spacing_zyx_mm",
        data_rules.choose_target_spacing(fingerprint.spacings_zyx_mm, cropped_sizes_zyx=sizes, weights=weights),
    )
    removed = np.array([case.removed_fraction for case in cases])
    values = {
        "channels": first_channels,
        "modality": first,
        "organs": resolve("data.organs", _choose_organs(fingerprint)),
        "ignore_value": fingerprint.ignore_value,
        "target_spacing_zyx_mm": spacing,
        "slice_axis": resolve("data.slice_axis", data_rules.choose_slice_axis(spacing, cropped_sizes_zyx=sizes)),
        "crop_to_nonzero": resolve("data.crop_to_nonzero", data_rules.choose_crop(removed)),
    }
    modalities = tuple(ModalityPlan(name=name, channels=channels) for name, channels in others)
    for name, choice in _choose_datasets(fingerprint, modalities).items():
        values[name] = resolve(f"data.{name}", choice) if fingerprint.datasets else choice.value
    return resolver.build(DataPlan, "data", values)


def _choose_organs(fingerprint: Fingerprint) -> Choice[tuple[OrganPlan, ...]]:
    kinds = list_modalities(fingerprint)
    organs, _ = describe_organs(fingerprint)
    modality = find_modality(fingerprint.channel_names)
    is_known = [describe_entry(organ, modality=modality).is_known for organ in fingerprint.organs]
    rule = (
        f"What the labels of the datasets mean, as {MAPPING_FILE_NAME} says, each described for each modality."
        if fingerprint.datasets
        else "All organs of the dataset, each with its own description, the known one, or a template."
    )
    facts = {"modality": ", ".join(map(find_modality, kinds.values())), "unknown_organs": is_known.count(False)}
    return Choice(organs, rule, facts)


def _plan_channels(
    fingerprint: Fingerprint, *, modality: str, names: Sequence[str], is_first: bool, resolver: Resolver
) -> tuple[ChannelPlan, ...]:
    """Choose the normalization of one modality."""
    datasets = [one for one in fingerprint.datasets if modality_name(one.channel_names) == modality]
    owners = {one.name for one in datasets}
    removed = [case.removed_fraction for case in fingerprint.cases if case.dataset is None or case.dataset in owners]
    place = "data.channels" if is_first else f"data.additional_modalities.{modality}.channels"
    channels = []
    for number, name in enumerate(names):
        measured = [one.foreground[number] for one in datasets] or [fingerprint.foreground[number]]
        known = [facts for facts in measured if facts is not None]
        choice = data_rules.choose_normalization(
            name,
            foreground=known[0] if len(known) == 1 else pool_intensities(known) if known else None,
            median_removed_fraction=float(np.median(removed)),
        )
        channels.append(resolver.resolve(f"{place}.{number}", choice))
    return tuple(channels)


def _choose_datasets(fingerprint: Fingerprint, modalities: tuple[ModalityPlan, ...]) -> dict[str, Choice[Any]]:
    """Choose datasets, regions and modalities of a joint plan; of a single dataset only regions have values."""
    return {
        "datasets": Choice(
            tuple(map(_plan_dataset, fingerprint.datasets)),
            f"The datasets that were named; {MAPPING_FILE_NAME} says what their labels mean, and can be edited.",
            {"labels": {one.name: len(one.labels) for one in fingerprint.datasets}},
        ),
        "regions": Choice(
            tuple(RegionPlan(name=region.name, organs=region.organs) for region in fingerprint.regions),
            "Unions of organs that a dataset names, or labels as one where others are more detailed.",
            {"regions": len(fingerprint.regions)},
        ),
        "additional_modalities": Choice(
            modalities,
            "The modalities beside the first dataset's: each is normalized and described in its own way.",
            {"channels": {one.name: ", ".join(one.channel_names) for one in fingerprint.datasets}},
        ),
    }


def _plan_dataset(dataset: DatasetEntry) -> DatasetPlan:
    labels = (LabelPlan(value=one.value, name=one.name, maps_to=one.maps_to) for one in dataset.labels)
    return DatasetPlan(
        name=dataset.name,
        modality=modality_name(dataset.channel_names),
        labels=tuple(labels),
        ignore_value=dataset.ignore_value,
    )
