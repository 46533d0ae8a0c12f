"""From fingerprint and device to plans, with a reason for every value.

Owns: `make_plans`, which calls the rules in order, and `describe_organs`.
Does not own: the rules (`rules_data.py`, `rules_network.py`, `rules_training.py`), organ knowledge (`descriptions/`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from autoseg.descriptions import describe_organ, find_modality
from autoseg.errors import PlanError, Problem
from autoseg.planning import rules_data, rules_network, rules_training
from autoseg.planning.choice import Choice
from autoseg.planning.fingerprint import AXIS_NUMBER, Fingerprint
from autoseg.plans import (
    AugmentationPlan,
    Axis,
    Backbone,
    DataPlan,
    Device,
    InferencePlan,
    NetworkPlan,
    OrganPlan,
    Plans,
    Reason,
    TextPlan,
    TrainingPlan,
)

TEXT_RULE = (
    "A small text tower trained from scratch, since no pretrained weights were given; --set network.text.model=NAME "
    "and network.text.weights=TAG take one of open_clip's."
)
MAX_SENTENCES = 32  # limits of OrganPlan; a user's own text may be longer
MAX_SENTENCE_LENGTH = 1000


class _Reasons:
    """Collects the reasons while the choices are unwrapped."""

    def __init__(self) -> None:
        self.found: dict[str, Reason] = {}

    def keep(self, field: str, choice: Choice[Any]) -> Any:
        self.found[field] = choice.reason
        return choice.value


@dataclass(frozen=True)
class Given:
    """What stands in place of the rules' own choice, and is an input of the rules after it.

    Attributes:
        data: The whole part.
        backbone: Of the network.
        window_px: Rows and columns of it.
        network: The whole part.
    """

    data: DataPlan | None = None
    backbone: Backbone | None = None
    window_px: tuple[int, int] | None = None
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
    reasons = _Reasons()
    try:
        chosen_data = _plan_data(fingerprint, reasons)
        data = given.data or chosen_data
        chosen_network = _plan_network(fingerprint, data=data, device=device, given=given, reasons=reasons)
        network = given.network or chosen_network
        training = _plan_training(fingerprint, data=data, network=network, device=device, reasons=reasons)
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


def describe_organs(fingerprint: Fingerprint) -> tuple[tuple[OrganPlan, ...], tuple[Problem, ...]]:
    """Look up the description of every organ, and warn of those that nothing is known of or that read alike."""
    modality = find_modality(fingerprint.channel_names)
    organs, problems = [], []
    first_of: dict[tuple[str, ...], str] = {}
    for organ in fingerprint.organs:
        found = describe_organ(organ.name, modality=modality, own_text=organ.description)
        organs.append(OrganPlan(name=organ.name, value=organ.value, sentences=_fit(found.sentences)))
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


def _fit(sentences: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sentence[:MAX_SENTENCE_LENGTH] for sentence in sentences[:MAX_SENTENCES])


def _plan_data(fingerprint: Fingerprint, reasons: _Reasons) -> DataPlan:
    removed = np.array([case.removed_share for case in fingerprint.cases])
    sizes = fingerprint.cropped_sizes_zyx
    channels = tuple(
        reasons.keep(
            f"data.channels.{number}",
            rules_data.choose_normalisation(
                name, foreground=fingerprint.foreground[number], median_removed_share=float(np.median(removed))
            ),
        )
        for number, name in enumerate(fingerprint.channel_names)
    )
    organs, _ = describe_organs(fingerprint)
    modality = find_modality(fingerprint.channel_names)
    is_known = [
        describe_organ(organ.name, modality=modality, own_text=organ.description).is_known
        for organ in fingerprint.organs
    ]
    reasons.found["data.organs"] = Reason(
        rule="All organs of the dataset, each with its own description, the known one, or a template.",
        facts={"modality": modality, "unknown_organs": is_known.count(False)},
    )
    spacing = reasons.keep(
        "data.target_spacing_zyx_mm",
        rules_data.choose_target_spacing(fingerprint.spacings_zyx_mm, cropped_sizes_zyx=sizes),
    )
    return DataPlan(
        channels=channels,
        organs=organs,
        ignore_value=fingerprint.ignore_value,
        target_spacing_zyx_mm=spacing,
        slice_axis=reasons.keep("data.slice_axis", rules_data.choose_slice_axis(spacing, cropped_sizes_zyx=sizes)),
        crop_to_nonzero=reasons.keep("data.crop_to_nonzero", rules_data.choose_crop(removed)),
    )


def _plan_network(
    fingerprint: Fingerprint, *, data: DataPlan, device: Device, given: Given, reasons: _Reasons
) -> NetworkPlan:
    axis = data.slice_axis
    sizes = fingerprint.cropped_sizes_zyx * fingerprint.spacings_zyx_mm / np.array(data.target_spacing_zyx_mm)
    in_plane = rules_data.to_slice_order(sizes, slice_axis=axis)[:, 1:]
    window = reasons.keep("network.window_rows_px", rules_network.choose_window(in_plane, device=device))
    window = given.window_px or window
    reasons.found["network.window_columns_px"] = reasons.found["network.window_rows_px"]
    width_px = _smallest_width_px(fingerprint, data=data)
    slice_spacing_mm = float(data.target_spacing_zyx_mm[AXIS_NUMBER[axis]])
    backbone = reasons.keep("network.backbone", rules_network.choose_backbone(device))
    backbone = given.backbone or backbone
    reasons.found["network.text"] = Reason(rule=TEXT_RULE)
    return NetworkPlan(
        backbone=backbone,
        text=TextPlan(),
        window_rows_px=window[0],
        window_columns_px=window[1],
        image_size_px=reasons.keep(
            "network.image_size_px",
            rules_network.choose_image_size(window, smallest_width_px=width_px, backbone=backbone, device=device),
        ),
        feature_channels=reasons.keep("network.feature_channels", rules_network.choose_feature_channels(backbone)),
        refiner_channels=reasons.keep(
            "network.refiner_channels",
            rules_network.choose_refiner_channels(window, smallest_width_px=width_px, device=device),
        ),
        neighbours=reasons.keep("network.neighbours", rules_network.choose_neighbours(slice_spacing_mm)),
        refiner_stride=reasons.keep(
            "network.refiner_stride",
            rules_network.choose_refiner_stride(window, smallest_width_px=width_px, device=device),
        ),
        memory_slices=reasons.keep("network.memory_slices", _choose_memory_slices(fingerprint, axis=axis, data=data)),
    )


def _smallest_width_px(fingerprint: Fingerprint, *, data: DataPlan) -> float:
    spacing = rules_data.to_slice_order(np.array(data.target_spacing_zyx_mm), slice_axis=data.slice_axis)
    pixel_mm = float(np.sqrt(spacing[1] * spacing[2]))
    widths_mm = fingerprint.organ_widths_mm(data.slice_axis)
    return rules_network.find_smallest_width_px(widths_mm, pixel_mm=pixel_mm)


def _choose_memory_slices(fingerprint: Fingerprint, *, axis: Axis, data: DataPlan) -> Choice[int]:
    number = AXIS_NUMBER[axis]
    thickness_mm = data.target_spacing_zyx_mm[number]
    return rules_network.choose_memory_slices(
        np.array([case.slice_correlation_zyx[number] for case in fingerprint.cases]),
        extents_slices=[extent / thickness_mm for extent in fingerprint.organ_extents_mm(axis).values()],
    )


def _plan_training(
    fingerprint: Fingerprint, *, data: DataPlan, network: NetworkPlan, device: Device, reasons: _Reasons
) -> TrainingPlan:
    names = [organ.name for organ in data.organs]
    organs_per_step = reasons.keep(
        "training.organs_per_step", rules_training.choose_organs_per_step(len(names), device=device)
    )
    mirror_axes = reasons.keep(
        "training.augmentation.mirror_axes",
        rules_training.choose_mirror_axes(names, slice_axis=data.slice_axis),
    )
    num_patients = len(set(fingerprint.patient_groups().values()))
    batch_slices = reasons.keep(
        "training.batch_slices", rules_training.choose_batch(network, organs_per_step=organs_per_step, device=device)
    )
    where = reasons.keep(
        "training.augmentation.where",
        rules_training.choose_augmentation_place(
            network, num_channels=len(data.channels), batch_slices=batch_slices, device=device
        ),
    )
    return TrainingPlan(
        batch_slices=batch_slices,
        learning_rate=reasons.keep("training.learning_rate", rules_training.choose_learning_rate(network.backbone)),
        refiner_optimiser=reasons.keep("training.refiner_optimiser", rules_training.choose_refiner_optimiser()),
        organs_per_step=organs_per_step,
        num_folds=reasons.keep("training.num_folds", rules_training.choose_num_folds(num_patients)),
        augmentation=AugmentationPlan(mirror_axes=mirror_axes, where=where),
    )


def _plan_inference(
    fingerprint: Fingerprint, *, data: DataPlan, training: TrainingPlan, device: Device, reasons: _Reasons
) -> InferencePlan:
    axes = reasons.keep(
        "inference.mirror_axes",
        rules_training.choose_inference_mirror_axes(training.augmentation.mirror_axes),
    )
    slices = reasons.keep(
        "inference.slices_per_batch", rules_training.choose_inference_batch(training.batch_slices, device=device)
    )
    names = {organ.name for organ in data.organs}
    pieces = {name: counts for name, counts in fingerprint.organ_pieces().items() if name in names}
    cleaning = reasons.keep("inference.cleaning", rules_training.choose_cleaning(pieces))
    return InferencePlan(mirror_axes=axes, slices_per_batch=slices, cleaning=cleaning)
