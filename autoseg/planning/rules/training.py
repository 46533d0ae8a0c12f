"""Contains the rules for the training and inference parts of a plan: batch, learning rate, mirroring, organs, folds.

Owns: one pure function per rule; each returns a `Choice`.
Does not own: the memory model (`gpu_memory.py`), putting the choices together (`planner.py`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

from autoseg.config.plans import Axis, Backbone, ComponentFilter, Device, NetworkPlan
from autoseg.organs import mentions_side
from autoseg.planning.rules.choice import Choice
from autoseg.planning.rules.data import AXES
from autoseg.planning.rules.gpu_memory import MODEL_NOTE, estimate_training_gib, usable_gib

PlanAxis = Literal["slice", "row", "column"]
InPlaneAxis = Literal["row", "column"]
SMALL_WINDOW_PX = 96 * 96
CPU_BATCH_SLICES = 8
CUDA_BATCHES = (32, 24, 16, 12, 8, 6, 4, 3, 2, 1)
MAX_ORGANS_PER_STEP = {"cpu": 16, "cuda": 32}
MAX_FOLDS = 5
ONE_PIECE_LEAST_CASES = 8
ONE_PIECE_SHARE = 0.9
SPECK_SHARE = 0.1
# What a core takes to make a batch with its random changes, for each million pixels of slices and neighbors, and the
# shortest step of a GPU (docs/benchmarks.md).
CORE_MS_A_MEGAPIXEL = 35.0
CUDA_STEP_MS = 110.0
UNKNOWN_CORES = 8  # of a machine that the plan is made for from afar
# words whose presence on both sides tells two organs apart along a canonical axis
OPPOSITES: tuple[tuple[Axis, frozenset[str], frozenset[str]], ...] = (
    ("y", frozenset({"anterior", "ventral"}), frozenset({"posterior", "dorsal"})),
    ("z", frozenset({"superior", "upper", "cranial"}), frozenset({"inferior", "lower", "caudal"})),
)


def choose_batch(network: NetworkPlan, *, organs_per_step: int, device: Device) -> Choice[int]:
    """Choose the slices of a training step."""
    window_px = network.window_rows_px * network.window_columns_px
    if device.kind == "cpu":
        is_small = window_px <= SMALL_WINDOW_PX
        rule = (
            f"On a CPU {CPU_BATCH_SLICES} slices, twice as many for windows up to 96 x 96 px, where the fixed cost of "
            "a step is large beside that of a slice."
        )
        return Choice(CPU_BATCH_SLICES * (2 if is_small else 1), rule, {"window_px": window_px})
    estimates = {
        batch: estimate_training_gib(
            network.backbone,
            image_size_px=network.image_size_px,
            window_px=window_px,
            refiner_width=max(network.refiner_channels[:1], default=0),
            batch_slices=batch,
            num_organs=organs_per_step,
        )
        for batch in CUDA_BATCHES
    }
    usable = usable_gib(device.memory_gib)
    value = next((batch for batch in CUDA_BATCHES if estimates[batch] <= usable), 1)
    facts = {
        "estimated_gib": round(estimates[value], 1),
        "usable_gib": round(usable, 1),
        "backbone": network.backbone,
        "image_size_px": network.image_size_px,
        "window_px": window_px,
        "organs_per_step": organs_per_step,
    }
    return Choice(value, f"The largest batch that fits into the device's memory, {MODEL_NOTE}.", facts)


def choose_augmentation_place(
    network: NetworkPlan, *, num_channels: int, batch_slices: int, device: Device
) -> Choice[Literal["cpu", "device"]]:
    """Choose where training slices are augmented: on the CPU, or on the GPU if the CPU has too few cores.

    Args:
        network: The network part of the plan.
        num_channels: The number of channels of the scans.
        batch_slices: The number of slices of a training step.
        device: The device that the plan is made for.
    """
    if device.kind == "cpu":
        return Choice("cpu", "Training on a CPU: there is no other device.", {})
    if network.point_prompts:
        return Choice("cpu", "PointPrompts are drawn on slices that are changed already.", {"point_prompts": True})
    planes = batch_slices * num_channels * (2 * network.context_slices + 1)
    megapixels = planes * network.window_rows_px * network.window_columns_px / 1e6
    needed = CORE_MS_A_MEGAPIXEL * megapixels / CUDA_STEP_MS
    cores = device.cores or UNKNOWN_CORES
    rule = (
        "The processor's cores, all but one, as long as they make a batch in the time of a GPU's step; otherwise the "
        f"GPU, for a batch at once. A core takes {CORE_MS_A_MEGAPIXEL:g} ms for a million pixels, a GPU's step at "
        f"least {CUDA_STEP_MS:g} ms, by measurements on one machine each."
    )
    facts = {
        "megapixels_a_batch": round(megapixels, 1),
        "needed_cores": round(needed, 1),
        "cores": device.cores if device.cores is not None else f"not known, taken for {UNKNOWN_CORES}",
    }
    return Choice("device" if needed > cores - 1 else "cpu", rule, facts)


def choose_learning_rate(backbone: Backbone) -> Choice[float]:
    """Choose the peak learning rate of AdamW."""
    if backbone == "nano":
        return Choice(
            1e-3, "A small network trained from scratch tolerates a high learning rate.", {"backbone": backbone}
        )
    return Choice(3e-4, "A larger Hiera needs a lower learning rate.", {"backbone": backbone})


def choose_refiner_optimizer() -> Choice[Literal["adamw", "muon"]]:
    """Choose the optimizer of the refiner's kernels."""
    rule = (
        "Muon gets further in the same time than AdamW, which moves all other weights: on 20 hippocampi "
        "left out, after 540 s of one core, Dice 0.881 against 0.873."
    )
    return Choice("muon", rule, {})


def choose_mirror_axes(organ_names: Sequence[str], *, slice_axis: Axis) -> Choice[tuple[PlanAxis, ...]]:
    """Choose the axes of the preprocessed grid that may be mirrored.

    Axes along which names distinguish organs are left out: x if a name has left or right, y if names have both anterior
    and posterior, z if they have both superior and inferior. Mirroring the slice axis swaps a slice's two neighbors.
    """
    order = [slice_axis, *(axis for axis in AXES if axis != slice_axis)]
    places: tuple[PlanAxis, ...] = ("slice", "row", "column")
    kept_whole = _axes_with_meaning(organ_names)
    value = tuple(place for place, axis in zip(places, order, strict=True) if axis not in kept_whole)
    left_out = {place: axis for place, axis in zip(places, order, strict=True) if axis in kept_whole}
    facts = {"canonical_axes": dict(zip(places, order, strict=True)), "left_out": left_out}
    if not left_out:
        return Choice(value, "No organ's name tells two sides apart, so every axis may be mirrored.", facts)
    rule = (
        "The organs' names tell sides apart (left/right, anterior/posterior, superior/inferior): not along those axes."
    )
    return Choice(value, rule, facts)


def _axes_with_meaning(organ_names: Sequence[str]) -> set[Axis]:
    words = {word for name in organ_names for word in re.findall(r"[a-z]+", name.lower())}
    axes = {axis for axis, one, other in OPPOSITES if words & one and words & other}
    return axes | {"x"} if mentions_side(organ_names) else axes


def choose_organs_per_step(num_organs: int, *, device: Device) -> Choice[int]:
    """Choose how many organs one training step asks for."""
    limit = MAX_ORGANS_PER_STEP[device.kind]
    rule = f"All organs, at most {limit} on this device; the others are drawn in other steps."
    return Choice(min(num_organs, limit), rule, {"organs": num_organs, "device": device.kind})


def choose_num_folds(num_patients: int) -> Choice[int]:
    """Choose the number of folds: five, or as many as there are patients."""
    facts = {"patients": num_patients}
    if num_patients == 1:
        return Choice(1, "A single patient: one fold that trains on it, without validation.", facts)
    return Choice(min(MAX_FOLDS, num_patients), f"{MAX_FOLDS} folds, or as many as there are patients.", facts)


def choose_inference_mirror_axes(training_axes: tuple[PlanAxis, ...]) -> Choice[tuple[InPlaneAxis, ...]]:
    """Choose the axes that prediction mirrors and averages: the in-plane axes that training mirrors."""
    value: tuple[InPlaneAxis, ...] = tuple(axis for axis in training_axes if axis != "slice")
    rule = (
        "The in-plane axes that training mirrors. Slices in the other order gained nothing: Dice +0.0002 on 40 "
        "hippocampi left out, for twice the time."
    )
    return Choice(value, rule, {"training_mirror_axes": list(training_axes)})


def choose_component_filter(pieces: Mapping[str, Sequence[int]]) -> Choice[tuple[ComponentFilter, ...]]:
    """Choose the organs whose small connected components are removed, until a validation replaces this choice.

    Args:
        pieces: The number of connected components of each organ in every case that contains it.
    """
    shares = {
        name: sum(count == 1 for count in counts) / len(counts)
        for name, counts in pieces.items()
        if len(counts) >= ONE_PIECE_LEAST_CASES
    }
    value = tuple(
        ComponentFilter(organ=name, min_fraction=SPECK_SHARE)
        for name, share in shares.items()
        if share >= ONE_PIECE_SHARE
    )
    rule = (
        f"Pieces under {SPECK_SHARE:.0%} of the largest one, of organs that are in one piece in at least "
        f"{ONE_PIECE_SHARE:.0%} of their reference label maps, of which there are at least {ONE_PIECE_LEAST_CASES}. "
        "Validation after training replaces it by what raises its Dice, if anything does."
    )
    facts = {"fraction_in_one_piece": {name: round(share, 3) for name, share in shares.items()}}
    return Choice(value, rule, facts)


def choose_inference_batch(batch_slices: int, *, device: Device) -> Choice[int]:
    """Choose the number of slices that are predicted at once, each with all organs."""
    facts = {"batch_slices": batch_slices}
    if device.kind == "cpu":
        return Choice(CPU_BATCH_SLICES, "On a CPU more at once is not faster.", facts)
    rule = "Twice the slices of a training step, since nothing is kept for a backward pass."
    return Choice(2 * batch_slices, rule, facts)
