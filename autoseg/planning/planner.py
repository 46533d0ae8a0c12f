"""From fingerprint and device to plans, with a reason for every value.

Owns: `make_plans`, which calls the rules in order.
Does not own: the rules (`rules/data.py`, `rules/datasets.py`, `rules/network.py`, `rules/training.py`), the organs'
sentences (`organs/organ_sentences.py`).
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from autoseg.config.plans import (
    AugmentationPlan,
    Axis,
    Backbone,
    DataPlan,
    DatasetSamplingFraction,
    Device,
    InferencePlan,
    NetworkPlan,
    Plans,
    Reason,
    TextPlan,
    TrainingPlan,
)
from autoseg.errors import PlanError
from autoseg.organs.organ_sentences import modality_name
from autoseg.planning.data_planner import plan_data
from autoseg.planning.fingerprint.fingerprint import AXIS_NUMBER, Fingerprint
from autoseg.planning.rules import data as data_rules
from autoseg.planning.rules import network as network_rules
from autoseg.planning.rules import training as training_rules
from autoseg.planning.rules.choice import Choice, Reasons
from autoseg.planning.rules.datasets import (
    choose_dataset_sampling_fractions,
    choose_organ_sampling_weights,
    choose_small_windows,
)

TEXT_RULE = (
    "A small text tower trained from scratch, since no pretrained weights were given; --set network.text.model=NAME "
    "and network.text.weights=TAG take one of open_clip's."
)


@dataclass(frozen=True)
class Given:
    """What stands in place of the rules' own choice, and is an input of the rules after it.

    Attributes:
        data: The whole part.
        backbone: Of the network.
        window_px: Rows and columns of it.
        refiner_step_px: What the sides of its windows must be multiples of.
        network: The whole part.
    """

    data: DataPlan | None = None
    backbone: Backbone | None = None
    window_px: tuple[int, int] | None = None
    refiner_step_px: int | None = None
    network: NetworkPlan | None = None


def make_plans(fingerprint: Fingerprint, *, device: Device, given: Given = Given()) -> Plans:
    """Choose everything that determines a run.

    Args:
        fingerprint: Of a dataset in which at least one case holds an organ.
        device: What the plan is made for.
        given: What is chosen already.

    Raises:
        PlanError: The dataset asks for what a plan cannot hold, such as names that are too long.
    """
    reasons = Reasons()
    try:
        shares = _choose_shares(fingerprint, reasons)
        chosen_data = plan_data(fingerprint, reasons, shares=shares)
        data = given.data or chosen_data
        chosen_network = _plan_network(fingerprint, data=data, device=device, given=given, reasons=reasons)
        network = given.network or chosen_network
        training = _plan_training(fingerprint, data=data, network=network, device=device, reasons=reasons)
        training = training.model_copy(update={"dataset_sampling_fractions": shares})
        return Plans(
            dataset_name=fingerprint.dataset_name,
            device=device,
            data=data,
            network=network,
            training=training,
            inference=_plan_inference(fingerprint, data=data, training=training, device=device, reasons=reasons),
            reasons=reasons.found,
        )
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise PlanError(
            f"dataset {fingerprint.dataset_name} cannot be planned: {place}: {first['msg']:.400}. "
            "Correct its dataset.json or the descriptions."
        ) from error


def _plan_network(
    fingerprint: Fingerprint, *, data: DataPlan, device: Device, given: Given, reasons: Reasons
) -> NetworkPlan:
    axis = data.slice_axis
    sizes = fingerprint.cropped_sizes_zyx * fingerprint.spacings_zyx_mm / np.array(data.target_spacing_zyx_mm)
    in_plane = _by_dataset(fingerprint, data_rules.to_slice_order(sizes, slice_axis=axis)[:, 1:])
    windows = [network_rules.choose_window(one, device=device) for one in in_plane.values()]
    window = reasons.keep("network.window_rows_px", max(windows, key=lambda choice: choice.value[0] * choice.value[1]))
    window = given.window_px or window
    reasons.found["network.window_columns_px"] = reasons.found["network.window_rows_px"]
    width_px = _smallest_width_px(fingerprint, data=data)
    slice_spacing_mm = float(data.target_spacing_zyx_mm[AXIS_NUMBER[axis]])
    backbone = reasons.keep("network.backbone", network_rules.choose_backbone(device))
    backbone = given.backbone or backbone
    reasons.found["network.text"] = Reason(rule=TEXT_RULE)
    refiner_channels = reasons.keep(
        "network.refiner_channels",
        network_rules.choose_refiner_channels(window, smallest_width_px=width_px, device=device),
    )
    refiner_stride = reasons.keep(
        "network.refiner_stride",
        network_rules.choose_refiner_stride(window, smallest_width_px=width_px, device=device),
    )
    step_px = given.refiner_step_px or refiner_stride * 2 ** max(0, len(refiner_channels) - 1)
    small_windows = choose_small_windows(in_plane, window_px=window, step_px=step_px)
    return NetworkPlan(
        backbone=backbone,
        text=TextPlan(),
        window_rows_px=window[0],
        window_columns_px=window[1],
        image_size_px=reasons.keep(
            "network.image_size_px",
            network_rules.choose_image_size(window, smallest_width_px=width_px, backbone=backbone, device=device),
        ),
        feature_channels=reasons.keep("network.feature_channels", network_rules.choose_feature_channels(backbone)),
        refiner_channels=refiner_channels,
        small_windows_px=reasons.keep("network.small_windows_px", small_windows),
        context_slices=reasons.keep("network.context_slices", network_rules.choose_context_slices(slice_spacing_mm)),
        refiner_stride=refiner_stride,
        memory_slices=reasons.keep("network.memory_slices", _choose_memory_slices(fingerprint, axis=axis, data=data)),
    )


def _by_dataset(fingerprint: Fingerprint, values: np.ndarray) -> dict[str, np.ndarray]:
    """Part the rows, one a case, by dataset; all together where there are none."""
    owners = np.array([case.dataset or "" for case in fingerprint.cases])
    return {name: values[owners == name] for name in dict.fromkeys(owners.tolist())}


def _choose_shares(fingerprint: Fingerprint, reasons: Reasons) -> tuple[DatasetSamplingFraction, ...]:
    """Choose how often each dataset is seen; a single one has no share."""
    if not fingerprint.datasets:
        return ()
    counts = Counter(case.dataset or "" for case in fingerprint.cases)
    modality_of = {one.name: modality_name(one.channel_names) for one in fingerprint.datasets}
    choice = choose_dataset_sampling_fractions({name: counts[name] for name in modality_of}, modality_of=modality_of)
    shares: tuple[DatasetSamplingFraction, ...] = reasons.keep("training.dataset_sampling_fractions", choice)
    return shares


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
    fingerprint: Fingerprint, *, data: DataPlan, network: NetworkPlan, device: Device, reasons: Reasons
) -> TrainingPlan:
    names = [organ.name for organ in data.organs]
    organs_per_step = reasons.keep(
        "training.organs_per_step", training_rules.choose_organs_per_step(len(names), device=device)
    )
    mirror_axes = reasons.keep(
        "training.augmentation.mirror_axes",
        training_rules.choose_mirror_axes(names, slice_axis=data.slice_axis),
    )
    num_patients = len(set(fingerprint.patient_groups().values()))
    num_cases = Counter(organ.name for case in fingerprint.cases for organ in case.organs)
    batch_slices = reasons.keep(
        "training.batch_slices", training_rules.choose_batch(network, organs_per_step=organs_per_step, device=device)
    )
    where = reasons.keep(
        "training.augmentation.run_on",
        training_rules.choose_augmentation_place(
            network, num_channels=len(data.channels), batch_slices=batch_slices, device=device
        ),
    )
    return TrainingPlan(
        batch_slices=batch_slices,
        learning_rate=reasons.keep("training.learning_rate", training_rules.choose_learning_rate(network.backbone)),
        refiner_optimizer=reasons.keep("training.refiner_optimizer", training_rules.choose_refiner_optimizer()),
        organs_per_step=organs_per_step,
        organ_sampling_weights=reasons.keep(
            "training.organ_sampling_weights", choose_organ_sampling_weights(num_cases)
        ),
        num_folds=reasons.keep("training.num_folds", training_rules.choose_num_folds(num_patients)),
        augmentation=AugmentationPlan(mirror_axes=mirror_axes, run_on=where),
    )


def _plan_inference(
    fingerprint: Fingerprint, *, data: DataPlan, training: TrainingPlan, device: Device, reasons: Reasons
) -> InferencePlan:
    axes = reasons.keep(
        "inference.mirror_axes",
        training_rules.choose_inference_mirror_axes(training.augmentation.mirror_axes),
    )
    slices = reasons.keep(
        "inference.slices_per_batch", training_rules.choose_inference_batch(training.batch_slices, device=device)
    )
    names = {organ.name for organ in data.organs}
    pieces = {name: counts for name, counts in fingerprint.organ_pieces().items() if name in names}
    component_filter = reasons.keep("inference.component_filter", training_rules.choose_component_filter(pieces))
    return InferencePlan(mirror_axes=axes, slices_per_batch=slices, component_filter=component_filter)
