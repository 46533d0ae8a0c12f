"""Makes a plan from a fingerprint and a device, with a reason for every value.

Owns: `make_plans`, which resolves every value in the order in which they depend on each other.
Does not own: the rules (`rules/`), the user's value in place of a rule's (`resolve.py`), the data part
(`data_planner.py`), the organs' sentences (`organ_texts/organ_sentences.py`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from pydantic import ValidationError

from autoseg.config.overrides import collect_overrides
from autoseg.config.plans import (
    Axis,
    DataPlan,
    DatasetSamplingFraction,
    Device,
    InferencePlan,
    NetworkPlan,
    Plans,
    TextPlan,
    TrainingPlan,
)
from autoseg.planning.data_planner import plan_data
from autoseg.planning.fingerprint.fingerprint import AXIS_NUMBER, Fingerprint
from autoseg.planning.organ_texts.organ_sentences import modality_name
from autoseg.planning.resolve import Resolver, Rule
from autoseg.planning.rules import data as data_rules
from autoseg.planning.rules import network as network_rules
from autoseg.planning.rules import training as training_rules
from autoseg.planning.rules.choice import Choice
from autoseg.planning.rules.datasets import (
    choose_dataset_sampling_fractions,
    choose_organ_sampling_weights,
    choose_small_windows,
)

NO_RULES: Mapping[str, Rule] = MappingProxyType({})
TEXT_RULE = (
    "A small text tower trained from scratch, since no pretrained weights were given; --set network.text.model=NAME "
    "and network.text.weights=TAG take one of open_clip's."
)


def make_plans(
    fingerprint: Fingerprint,
    *,
    device: Device,
    overlays: Sequence[str | Path] = (),
    settings: Sequence[str] = (),
    rules: Mapping[str, Rule] = NO_RULES,
) -> Plans:
    """Choose everything that determines a run; a value that the user sets stays, and later rules follow it.

    Args:
        fingerprint: The measurements of a dataset in which at least one case contains an organ.
        device: The device that the plan is made for.
        overlays: Parts of plans, by name or path, applied in order.
        settings: Words such as "network.memory_slices=4", applied after the overlays.
        rules: Rules that replace autoseg's own, by the field that they choose.

    Raises:
        PlanError: An override names an unknown field or an impossible value, or the dataset asks for something that
            a plan cannot hold, such as names that are too long.
    """
    overrides = collect_overrides(overlays, settings)
    resolver = Resolver(fingerprint, device=device, overrides=overrides, rules=rules)
    try:
        device = resolver.build(Device, "device", device.model_dump())
        fractions = _choose_fractions(fingerprint)
        data = plan_data(fingerprint, resolver, fractions=fractions.value)
        network = _plan_network(fingerprint, data=data, device=device, resolver=resolver)
        training = _plan_training(
            fingerprint, data=data, network=network, device=device, fractions=fractions, resolver=resolver
        )
        inference = _plan_inference(fingerprint, data=data, training=training, device=device, resolver=resolver)
        resolver.refuse_unknown_rules()
        content = {"dataset_name": fingerprint.dataset_name, "device": device}
        content |= {"data": data, "network": network, "training": training, "inference": inference}
        content |= {field: value for field, value in overrides.values.items() if "." not in field}
        return Plans(**content, reasons=resolver.reasons, overrides=overrides.records)
    except ValidationError as error:
        raise resolver.explain(error) from error


def _plan_network(fingerprint: Fingerprint, *, data: DataPlan, device: Device, resolver: Resolver) -> NetworkPlan:
    resolve, axis = resolver.resolve, data.slice_axis
    sizes = fingerprint.cropped_sizes_zyx * fingerprint.spacings_zyx_mm / np.array(data.target_spacing_zyx_mm)
    in_plane = _by_dataset(fingerprint, data_rules.to_slice_order(sizes, slice_axis=axis)[:, 1:])
    windows = [network_rules.choose_window(one, device=device) for one in in_plane.values()]
    largest = max(windows, key=lambda choice: choice.value[0] * choice.value[1])
    rows, columns = (Choice(side, largest.rule, largest.facts) for side in largest.value)
    window_px = (resolve("network.window_rows_px", rows), resolve("network.window_columns_px", columns))
    width_px = _smallest_width_px(fingerprint, data=data)
    slice_spacing_mm = float(data.target_spacing_zyx_mm[AXIS_NUMBER[axis]])
    backbone = resolve("network.backbone", network_rules.choose_backbone(device))
    refiner_channels = network_rules.choose_refiner_channels(window_px, smallest_width_px=width_px, device=device)
    refiner_stride = network_rules.choose_refiner_stride(window_px, smallest_width_px=width_px, device=device)
    image_size = network_rules.choose_image_size(
        window_px, smallest_width_px=width_px, backbone=backbone, device=device
    )
    values = {
        "backbone": backbone,
        "text": resolve("network.text", Choice(TextPlan(), TEXT_RULE)),
        "window_rows_px": window_px[0],
        "window_columns_px": window_px[1],
        "image_size_px": resolve("network.image_size_px", image_size),
        "feature_channels": resolve("network.feature_channels", network_rules.choose_feature_channels(backbone)),
        "refiner_channels": resolve("network.refiner_channels", refiner_channels),
        "refiner_stride": resolve("network.refiner_stride", refiner_stride),
        "context_slices": resolve("network.context_slices", network_rules.choose_context_slices(slice_spacing_mm)),
        "memory_slices": resolve("network.memory_slices", _choose_memory_slices(fingerprint, axis=axis, data=data)),
    }
    step_px = values["refiner_stride"] * 2 ** max(0, len(values["refiner_channels"]) - 1)
    small_windows = choose_small_windows(in_plane, window_px=window_px, step_px=step_px)
    values["small_windows_px"] = resolve("network.small_windows_px", small_windows)
    return resolver.build(NetworkPlan, "network", values)


def _by_dataset(fingerprint: Fingerprint, values: np.ndarray) -> dict[str, np.ndarray]:
    """Divide the rows, one per case, by dataset; all stay together where there are none."""
    owners = np.array([case.dataset or "" for case in fingerprint.cases])
    return {name: values[owners == name] for name in dict.fromkeys(owners.tolist())}


def _choose_fractions(fingerprint: Fingerprint) -> Choice[tuple[DatasetSamplingFraction, ...]]:
    """Choose how often each of several datasets is seen."""
    counts = Counter(case.dataset or "" for case in fingerprint.cases)
    modality_of = {one.name: modality_name(one.channel_names) for one in fingerprint.datasets}
    return choose_dataset_sampling_fractions({name: counts[name] for name in modality_of}, modality_of=modality_of)


def _smallest_width_px(fingerprint: Fingerprint, *, data: DataPlan) -> float:
    spacing = data_rules.to_slice_order(np.array(data.target_spacing_zyx_mm), slice_axis=data.slice_axis)
    pixel_mm = float(np.sqrt(spacing[1] * spacing[2]))
    widths_mm = fingerprint.organ_widths_mm(data.slice_axis)
    return network_rules.find_smallest_width_px(widths_mm, pixel_mm=pixel_mm)


def _choose_memory_slices(fingerprint: Fingerprint, *, axis: Axis, data: DataPlan) -> Choice[int]:
    number = AXIS_NUMBER[axis]
    thickness_mm = data.target_spacing_zyx_mm[number]
    return network_rules.choose_memory_slices(
        np.array([case.slice_correlation_zyx[number] for case in fingerprint.cases]),
        extents_slices=[extent / thickness_mm for extent in fingerprint.organ_extents_mm(axis).values()],
    )


def _plan_training(
    fingerprint: Fingerprint,
    *,
    data: DataPlan,
    network: NetworkPlan,
    device: Device,
    fractions: Choice[tuple[DatasetSamplingFraction, ...]],
    resolver: Resolver,
) -> TrainingPlan:
    resolve = resolver.resolve
    names = [organ.name for organ in data.organs]
    num_patients = len(set(fingerprint.patient_groups().values()))
    num_cases = Counter(organ.name for case in fingerprint.cases for organ in case.organs)
    organs_per_step = resolve(
        "training.organs_per_step", training_rules.choose_organs_per_step(len(names), device=device)
    )
    batch = training_rules.choose_batch(network, organs_per_step=organs_per_step, device=device)
    batch_slices = resolve("training.batch_slices", batch)
    mirror_axes = training_rules.choose_mirror_axes(names, slice_axis=data.slice_axis)
    run_on = training_rules.choose_augmentation_place(
        network, num_channels=len(data.channels), batch_slices=batch_slices, device=device
    )
    weights = choose_organ_sampling_weights(num_cases)
    values = {
        "organs_per_step": organs_per_step,
        "batch_slices": batch_slices,
        "learning_rate": resolve("training.learning_rate", training_rules.choose_learning_rate(network.backbone)),
        "refiner_optimizer": resolve("training.refiner_optimizer", training_rules.choose_refiner_optimizer()),
        "organ_sampling_weights": resolve("training.organ_sampling_weights", weights),
        "num_folds": resolve("training.num_folds", training_rules.choose_num_folds(num_patients)),
        "augmentation": {
            "mirror_axes": resolve("training.augmentation.mirror_axes", mirror_axes),
            "run_on": resolve("training.augmentation.run_on", run_on),
        },
    }
    if fingerprint.datasets:
        values["dataset_sampling_fractions"] = resolve("training.dataset_sampling_fractions", fractions)
    return resolver.build(TrainingPlan, "training", values)


def _plan_inference(
    fingerprint: Fingerprint, *, data: DataPlan, training: TrainingPlan, device: Device, resolver: Resolver
) -> InferencePlan:
    resolve = resolver.resolve
    names = {organ.name for organ in data.organs}
    pieces = {name: counts for name, counts in fingerprint.organ_components().items() if name in names}
    mirror_axes = training_rules.choose_inference_mirror_axes(training.augmentation.mirror_axes)
    batch = training_rules.choose_inference_batch(training.batch_slices, device=device)
    component_filter = training_rules.choose_component_filter(pieces)
    values = {
        "mirror_axes": resolve("inference.mirror_axes", mirror_axes),
        "slices_per_batch": resolve("inference.slices_per_batch", batch),
        "component_filter": resolve("inference.component_filter", component_filter),
    }
    return resolver.build(InferencePlan, "inference", values)
