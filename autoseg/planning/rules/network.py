"""Contains the rules for the network part of a plan: window, image size, backbone, refiner, memory slices.

Owns: one pure function per rule; each returns a `Choice`.
Does not own: the memory model (`gpu_memory.py`), putting the choices together (`planner.py`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from autoseg.config.plans import Backbone, Device
from autoseg.planning.rules.choice import Choice
from autoseg.planning.rules.gpu_memory import BACKBONE_COSTS, MODEL_NOTE

WINDOW_STEP_PX = 16
WIDE_WINDOW_STEP_PX = 32  # so that five stages on blocks of 2 x 2 px fit
CPU_WINDOW_PX = 192
# (memory of at least so many GiB, side of the window)
CUDA_WINDOW_PX = ((24.0, 512), (12.0, 384), (8.0, 320), (0.0, 256))
CUDA_IMAGE_SIZE_PX = ((24.0, 1024), (0.0, 512))
MOST_CASES_RATIO = 1.25
DECODER_STRIDE_PX = 4
SMALL_ORGAN_PX = 4 * DECODER_STRIDE_PX
WIDE_ORGAN_PX = 8 * DECODER_STRIDE_PX
SMALL_VIEW_PX = 256
NARROW_WINDOW_PX = 32
WIDE_WINDOW_PX = 128
TINY_ORGAN_PX = 3
CPU_REFINER_CHANNELS = ((96 * 96, (24, 48, 96, 192)), (math.inf, (16, 32, 64, 128)))  # for windows up to, widths
CUDA_REFINER_CHANNELS = (32, 64, 128, 256)
NANO_IMAGE_SIZE_PX = ((64, 32), (192, 64), (256, 96))  # for windows up to, side
LARGEST_NANO_IMAGE_PX = 128
NEIGHBOUR_REACH_MM = 2.0
MAX_NEIGHBOURS = 2
MEMORY_SLICES_RANGE = (4, 16)
UNRELATED_CORRELATION = 0.5


def choose_window(sizes_px: np.ndarray, *, device: Device) -> Choice[tuple[int, int]]:
    """Choose rows and columns of the in-plane window.

    Args:
        sizes_px: (N, 2), rows and columns of the cropped cases at target spacing.
        device: The device that the plan is made for.
    """
    median = np.median(sizes_px, axis=0)
    most = np.percentile(sizes_px, 95, axis=0)
    fits_most = most <= MOST_CASES_RATIO * median
    wanted = np.where(fits_most, most, median)
    limit = CPU_WINDOW_PX if device.kind == "cpu" else by_memory(CUDA_WINDOW_PX, memory_gib=device.memory_gib)
    rows, columns = (min(limit, _round_up(float(size), _window_step(float(size)))) for size in wanted)
    rule = (
        "The 95th percentile of the in-plane sizes where it is within 1.25x of the median, so that most cases fit into "
        f"one window, otherwise the median; rounded up to a multiple of {WINDOW_STEP_PX}, over {WIDE_WINDOW_PX} px of "
        f"{WIDE_WINDOW_STEP_PX}, at most {limit} px here."
    )
    facts = {
        "median_size_px": _rounded(median),
        "percentile_95_size_px": _rounded(most),
        "limit_px": limit,
        "is_limited": bool(max(wanted) > limit),
    }
    return Choice((rows, columns), rule, facts)


def choose_backbone(device: Device) -> Choice[Backbone]:
    """Choose the size of the Hiera: nano on a CPU, on CUDA the largest that the memory allows."""
    facts = {"device": device.kind, "memory_gib": device.memory_gib}
    if device.kind == "cpu":
        return Choice("nano", "On a CPU only the nano size trains in minutes.", facts)
    fitting = [
        name for name, cost in BACKBONE_COSTS.items() if name != "nano" and device.memory_gib >= cost.least_memory_gib
    ]
    rule = f"The largest that the memory allows (small from 12 GiB, base_plus from 24, large from 48), {MODEL_NOTE}."
    return Choice(fitting[-1], rule, facts)


def choose_image_size(
    window_px: tuple[int, int], *, smallest_width_px: float, backbone: Backbone, device: Device
) -> Choice[int]:
    """Choose the side of the square that the Hiera sees.

    Args:
        window_px: The rows and columns of the window.
        smallest_width_px: The in-plane width of the smallest organ, in pixels of the window.
        backbone: The chosen backbone.
        device: The device that the plan is made for.
    """
    side = max(window_px)
    facts = {"window_px": list(window_px), "smallest_organ_width_px": round(smallest_width_px, 1), "backbone": backbone}
    if backbone == "nano":
        size = next((size for most, size in NANO_IMAGE_SIZE_PX if side <= most), LARGEST_NANO_IMAGE_PX)
        steps = ", ".join(f"{size} px for windows up to {most} px" for most, size in NANO_IMAGE_SIZE_PX)
        rule = (
            "The nano Hiera gives context and the refiner sees every pixel, so a square of a third to a half of the "
            f"window is enough: {steps}, else {LARGEST_NANO_IMAGE_PX}. On hippocampi 64 px gained nothing over 32."
        )
        return Choice(size, rule, facts)
    factor = 2 if side <= SMALL_VIEW_PX and smallest_width_px < SMALL_ORGAN_PX else 1
    limit = by_memory(CUDA_IMAGE_SIZE_PX, memory_gib=device.memory_gib)
    size = min(limit, _round_up(side * factor, 32))
    rule = (
        "The longer side of the window as a multiple of 32, doubled where the window is at most 256 px and the "
        f"smallest organ narrower than 16 px (features live at stride 4); at most {limit} px on this device, "
        f"{MODEL_NOTE}."
    )
    return Choice(size, rule, {**facts, "upsampling": factor, "limit_px": limit})


def choose_feature_channels(backbone: Backbone) -> Choice[int]:
    """Choose the width of prompts and features: SAM2's 256, but 64 for nano."""
    if backbone == "nano":
        return Choice(64, "The nano network has a quarter of SAM2's width.", {"backbone": backbone})
    return Choice(256, "SAM2's own width, so that its weights fit.", {"backbone": backbone})


def choose_refiner_channels(
    window_px: tuple[int, int], *, smallest_width_px: float, device: Device
) -> Choice[tuple[int, ...]]:
    """Choose the number and width of the refiner stages, finest first.

    Args:
        window_px: The rows and columns of the window.
        smallest_width_px: The in-plane width of the smallest organ, in pixels of the window.
        device: The device that the plan is made for.
    """
    area_px = window_px[0] * window_px[1]
    on_cpu = next(widths for most, widths in CPU_REFINER_CHANNELS if area_px <= most)
    widths = on_cpu if device.kind == "cpu" else CUDA_REFINER_CHANNELS
    facts = {
        "smallest_organ_width_px": round(smallest_width_px, 1),
        "decoder_stride_px": DECODER_STRIDE_PX,
        "smallest_organ_width_in_decoder_pixels": round(smallest_width_px / DECODER_STRIDE_PX, 2),
        "window_px": list(window_px),
        "device": device.kind,
    }
    rule = (
        f"Stages of stride 1 (inside blocks of pixels where refiner_stride is more) and 2 give the detail that the "
        f"decoder (stride {DECODER_STRIDE_PX}) lacks; strides 4 and 8 join them to its features and are left out in "
        f"windows under {NARROW_WINDOW_PX} px. On a CPU the first is {CPU_REFINER_CHANNELS[0][1][0]} wide in windows "
        "up to 96 x 96 px, where the time of a step allows it (Dice on hippocampi 0.882 against 0.880, on phantoms "
        f"0.942 against 0.937), and {CPU_REFINER_CHANNELS[1][1][0]} in larger ones (left atria: 0.903 against 0.899). "
    )
    if min(window_px) < NARROW_WINDOW_PX:
        return Choice(widths[:2], rule + "The window is narrower.", facts)
    stride = choose_refiner_stride(window_px, smallest_width_px=smallest_width_px, device=device).value
    has_room = min(window_px) > WIDE_WINDOW_PX and not any(side % (stride * 2 ** len(widths)) for side in window_px)
    if has_room and smallest_width_px >= WIDE_ORGAN_PX:
        rule += (
            f"A fifth stage, since the window is over {WIDE_WINDOW_PX} px and even the smallest organ at least "
            f"{WIDE_ORGAN_PX} px wide: on left atria it gained no less than its time cost."
        )
        return Choice((*widths, 2 * widths[-1]), rule, facts)
    return Choice(widths, rule + "Stages down to stride 8 equalled a U-Net in the first experiments.", facts)


def choose_refiner_stride(
    window_px: tuple[int, int], *, smallest_width_px: float, device: Device
) -> Choice[Literal[1, 2, 4]]:
    """Choose the stride of the finest refiner stage.

    Args:
        window_px: The rows and columns of the window.
        smallest_width_px: The in-plane width of the smallest organ, in pixels of the window.
        device: The device that the plan is made for.
    """
    facts = {
        "smallest_organ_width_px": round(smallest_width_px, 1),
        "window_px": list(window_px),
        "device": device.kind,
    }
    rule = (
        "On a CPU, where convolutions at full resolution are most of a step, the finest stage works on blocks of 2 x 2 "
        f"pixels in windows over {WIDE_WINDOW_PX} px, unless the smallest organ is under {TINY_ORGAN_PX} px wide; "
        "elsewhere on single pixels."
    )
    is_coarse = device.kind == "cpu" and max(window_px) > WIDE_WINDOW_PX and smallest_width_px >= TINY_ORGAN_PX
    return Choice(2 if is_coarse else 1, rule, facts)


def choose_context_slices(slice_spacing_mm: float) -> Choice[int]:
    """Choose how many slices on each side the refiner sees.

    Args:
        slice_spacing_mm: The distance between neighboring slices at target spacing.
    """
    rule = f"The slices within {NEIGHBOUR_REACH_MM:g} mm, at least one and at most {MAX_NEIGHBOURS}."
    value = int(np.clip(round(NEIGHBOUR_REACH_MM / slice_spacing_mm), 1, MAX_NEIGHBOURS))
    return Choice(value, rule, {"slice_spacing_mm": round(slice_spacing_mm, 3)})


def choose_memory_slices(slice_correlations: np.ndarray, *, extents_slices: Sequence[float]) -> Choice[int]:
    """Choose the number of slices in the memory bank.

    Args:
        slice_correlations: (N,), mean correlation of neighboring slices along the slice axis, at their own spacing.
        extents_slices: The median extent of each organ in slices.
    """
    correlation = float(np.clip(np.median(slice_correlations), 0.0, 0.999))
    related = math.log(UNRELATED_CORRELATION) / math.log(correlation) if correlation > 0 else 0.0
    extent = float(np.median(extents_slices))
    low, high = MEMORY_SLICES_RANGE
    value = int(np.clip(round(min(related, extent)), low, high))
    rule = (
        "None: it gained nothing beyond chance (mean Dice of three seeds with it and without: 0.902 "
        "and 0.901 on phantoms, 0.875 and 0.874 on hippocampi), and prediction with it works on one core. --set "
        "network.memory_slices=N turns it on, best with as many as stay similar (correlation over "
        f"{UNRELATED_CORRELATION}, decaying by the same factor a slice) and as an organ spans, {low} to {high}."
    )
    facts = {
        "median_neighbor_correlation": round(correlation, 4),
        "similar_slices": round(related, 1),
        "median_organ_extent_slices": round(extent, 1),
        "best_memory_slices": value,
    }
    return Choice(0, rule, facts)


def find_smallest_width_px(widths_mm: Mapping[str, float], *, pixel_mm: float) -> float:
    """Return the in-plane width of the smallest organ, in pixels; widths must not be empty."""
    return min(widths_mm.values()) / pixel_mm


def by_memory(steps: Sequence[tuple[float, int]], *, memory_gib: float) -> int:
    """Return the value of the first step for which the device has enough memory; the last step is for all devices."""
    return next(value for least, value in steps if memory_gib >= least)


def _window_step(size: float) -> int:
    return WIDE_WINDOW_STEP_PX if size > WIDE_WINDOW_PX else WINDOW_STEP_PX


def _round_up(size: float, step: int) -> int:
    return max(step, step * math.ceil(size / step - 1e-6))


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in values]
