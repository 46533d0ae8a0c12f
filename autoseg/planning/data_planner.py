"""The data part of a plan: channels, organs, regions, datasets, the grid.

Owns: `plan_data`, which calls its rules in order.
Does not own: the rules (`rules/data.py`, `rules/datasets.py`), the other parts (`planner.py`), the organs' sentences
(`organs/organ_sentences.py`).
"""

from collections.abc import Sequence

import numpy as np

from autoseg.config.plans import (
    ChannelPlan,
    DataPlan,
    DatasetPlan,
    DatasetSamplingFraction,
    LabelPlan,
    ModalityPlan,
    Reason,
    RegionPlan,
)
from autoseg.organs import find_modality
from autoseg.organs.organ_sentences import describe_entry, describe_organs, list_modalities, modality_name
from autoseg.planning.fingerprint.fingerprint import DatasetEntry, Fingerprint
from autoseg.planning.multi_dataset.mapping_file import FILE_NAME as MAPPING_FILE_NAME
from autoseg.planning.rules import data as data_rules
from autoseg.planning.rules.choice import Reasons
from autoseg.planning.rules.datasets import pool_intensities, weigh_cases


def plan_data(fingerprint: Fingerprint, reasons: Reasons, *, shares: Sequence[DatasetSamplingFraction]) -> DataPlan:
    """Choose channels, organs, regions and the grid.

    Args:
        fingerprint: Of one dataset, or of several that were joined.
        reasons: Grows.
        shares: How often each of several datasets is seen.
    """
    cases, sizes = fingerprint.cases, fingerprint.cropped_sizes_zyx
    kinds = list_modalities(fingerprint)
    (first, first_channels), *others = (
        (name, _plan_channels(fingerprint, modality=name, names=names, is_first=not number, reasons=reasons))
        for number, (name, names) in enumerate(kinds.items())
    )
    organs, _ = describe_organs(fingerprint)
    is_known = [
        describe_entry(organ, modality=find_modality(fingerprint.channel_names)).is_known
        for organ in fingerprint.organs
    ]
    reasons.found["data.organs"] = Reason(
        rule="All organs of the dataset, each with its own description, the known one, or a template."
        if not fingerprint.datasets
        else f"What the labels of the datasets mean, as {MAPPING_FILE_NAME} says, each described for each modality.",
        facts={"modality": ", ".join(map(find_modality, kinds.values())), "unknown_organs": is_known.count(False)},
    )
    if fingerprint.datasets:
        reasons.found |= _explain_datasets(fingerprint)
    weights = weigh_cases([case.dataset for case in cases], shares={one.dataset: one.fraction for one in shares})
    spacing = reasons.keep(
        "data.target_spacing_zyx_mm",
        data_rules.choose_target_spacing(fingerprint.spacings_zyx_mm, cropped_sizes_zyx=sizes, weights=weights),
    )
    removed = np.array([case.removed_share for case in cases])
    return DataPlan(
        channels=first_channels,
        modality=first,
        additional_modalities=tuple(ModalityPlan(name=name, channels=channels) for name, channels in others),
        organs=organs,
        regions=tuple(RegionPlan(name=region.name, organs=region.organs) for region in fingerprint.regions),
        datasets=tuple(_plan_dataset(dataset) for dataset in fingerprint.datasets),
        ignore_value=fingerprint.ignore_value,
        target_spacing_zyx_mm=spacing,
        slice_axis=reasons.keep("data.slice_axis", data_rules.choose_slice_axis(spacing, cropped_sizes_zyx=sizes)),
        crop_to_nonzero=reasons.keep("data.crop_to_nonzero", data_rules.choose_crop(removed)),
    )


def _plan_channels(
    fingerprint: Fingerprint, *, modality: str, names: Sequence[str], is_first: bool, reasons: Reasons
) -> tuple[ChannelPlan, ...]:
    """Choose the normalization of one kind of scans."""
    datasets = [one for one in fingerprint.datasets if modality_name(one.channel_names) == modality]
    owners = {one.name for one in datasets}
    removed = [case.removed_share for case in fingerprint.cases if case.dataset is None or case.dataset in owners]
    place = "data.channels" if is_first else f"data.additional_modalities.{modality}.channels"
    channels = []
    for number, name in enumerate(names):
        measured = [one.foreground[number] for one in datasets] or [fingerprint.foreground[number]]
        known = [facts for facts in measured if facts is not None]
        choice = data_rules.choose_normalization(
            name,
            foreground=known[0] if len(known) == 1 else pool_intensities(known) if known else None,
            median_removed_share=float(np.median(removed)),
        )
        channels.append(reasons.keep(f"{place}.{number}", choice))
    return tuple(channels)


def _explain_datasets(fingerprint: Fingerprint) -> dict[str, Reason]:
    """Say where datasets, regions and modalities of a joint plan come from."""
    channels = {one.name: ", ".join(one.channel_names) for one in fingerprint.datasets}
    return {
        "data.datasets": Reason(
            rule=f"Those that were named; what their labels mean stands in {MAPPING_FILE_NAME}; edit it there.",
            facts={"labels": {one.name: len(one.labels) for one in fingerprint.datasets}},
        ),
        "data.regions": Reason(
            rule="Unions of organs that a dataset names, or labels as one where others look closer.",
            facts={"regions": len(fingerprint.regions)},
        ),
        "data.additional_modalities": Reason(
            rule="The kinds of scans beside the first dataset's: each is normalized and described in its own way.",
            facts={"channels": channels},
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
