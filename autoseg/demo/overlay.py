"""Draws slices of a scan with label maps painted over them.

Owns: `save_overlay`.
Does not own: previews of predictions (`export/preview.py`).

Arrays are on the canonical grid (z superior, y anterior, x right) and drawn in radiological orientation: anterior or
superior on top, the patient's right on the left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoseg.errors import GeometryError, printable
from autoseg.export.colors import organ_color
from autoseg.export.slice_pictures import grey_range
from autoseg.system.atomic_files import atomic_path

NEARLY_ISOTROPIC = 1.5  # coarsest over finest spacing up to which axial slices are shown
FILL_OPACITY = 0.3
PANEL_INCHES = 3.2  # height of a row
NAMES_INCHES = 1.8
DOTS_PER_INCH = 100
NAMES_SHOWN = 24
NAME_WIDTH = 32


@dataclass(frozen=True)
class _GreyScale:
    aspect: float  # height of a voxel over its width
    grey_range: tuple[float, float]

    def draw(self, axes: Axes, image: np.ndarray, *, title: str) -> None:
        low, high = self.grey_range
        axes.imshow(image, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=self.aspect)
        axes.set_axis_off()
        axes.set_title(title, fontsize=8)


def save_overlay(
    path: Path,
    image_zyx: np.ndarray,
    *,
    prediction_zyx: np.ndarray,
    names: Mapping[int, str],
    spacing_zyx_mm: Sequence[float],
    reference_zyx: np.ndarray | None = None,
    num_slices: int = 3,
) -> None:
    """Save a picture with one row per slice: the image, with the prediction, and with the reference if there is one.

    The slices are across the coarsest axis (axial if the spacing is nearly isotropic) and are spread over the part of
    the volume that contains organs, or over the whole volume if there are none.

    Args:
        path: The PNG file, written atomically.
        image_zyx: One channel on the canonical grid.
        prediction_zyx: The predicted label map of the same shape.
        names: The names by label value, in the order of the colors. Other values are not drawn.
        spacing_zyx_mm: The voxel size along each array axis.
        reference_zyx: The reference label map of the same shape.
        num_slices: The largest number of rows, at least one.

    Raises:
        GeometryError: The shapes differ.
    """
    maps = {"prediction": prediction_zyx}
    if reference_zyx is not None:
        maps["reference"] = reference_zyx
    for what, labels in maps.items():
        if labels.shape != image_zyx.shape:
            raise GeometryError(
                f"The {what} has shape {labels.shape} and the image {image_zyx.shape}; expected one grid."
            )
    axis = choose_slice_axis(spacing_zyx_mm)
    indices = choose_slices(list(maps.values()), axis=axis, num_slices=num_slices)
    height_mm, width_mm = (spacing for other, spacing in enumerate(spacing_zyx_mm) if other != axis)
    rows, columns = (size for other, size in enumerate(image_zyx.shape) if other != axis)
    panel_inches = PANEL_INCHES * float(np.clip(columns * width_mm / (rows * height_mm), 0.5, 2.0))
    width_inches = panel_inches * (1 + len(maps)) + NAMES_INCHES
    figure = Figure(figsize=(width_inches, PANEL_INCHES * len(indices)))
    figure.set_layout_engine("constrained", rect=(0, 0, 1 - NAMES_INCHES / width_inches, 1))
    grey = _GreyScale(aspect=height_mm / width_mm, grey_range=grey_range(image_zyx))
    for row, index in zip(figure.subplots(len(indices), 1 + len(maps), squeeze=False), indices, strict=True):
        image = _plane(image_zyx, axis=axis, index=index)
        grey.draw(row[0], image, title=f"image, {'zyx'[axis]} = {index}")
        for axes, (what, labels) in zip(row[1:], maps.items(), strict=True):
            grey.draw(axes, image, title=what)
            _draw_labels(axes, _plane(labels, axis=axis, index=index), names=names)
    shown = [np.take(labels, indices, axis=axis) for labels in maps.values()]
    _add_names(figure, left=1 - NAMES_INCHES / width_inches, maps=shown, names=names)
    FigureCanvasAgg(figure)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=DOTS_PER_INCH, metadata={"Software": "autoseg"})


def choose_slice_axis(spacing_zyx_mm: Sequence[float]) -> int:
    """Return the slice axis: the coarsest array axis, or z if the spacing is nearly isotropic."""
    if max(spacing_zyx_mm) <= NEARLY_ISOTROPIC * min(spacing_zyx_mm):
        return 0
    return int(np.argmax(spacing_zyx_mm))


def choose_slices(maps: Sequence[np.ndarray], *, axis: int, num_slices: int) -> list[int]:
    """Return at most `num_slices` indices, spread evenly over the slices with labels.

    The first and last of these slices, where organs are tiny, are left out if there are enough others.
    """
    others = tuple(other for other in range(3) if other != axis)
    marked = np.flatnonzero(np.logical_or.reduce([(labels > 0).any(axis=others) for labels in maps]))
    if not len(marked):
        marked = np.arange(maps[0].shape[axis])
    positions = (np.arange(num_slices) + 0.5) / num_slices * len(marked)
    return sorted({int(marked[int(position)]) for position in positions})


def _plane(array: np.ndarray, *, axis: int, index: int) -> np.ndarray:
    """Return a slice in radiological orientation, with the patient's right on the left (the x axis is flipped)."""
    plane = np.take(array, index, axis=axis)
    return plane if axis == 2 else plane[:, ::-1]


def _draw_labels(axes: Axes, labels: np.ndarray, *, names: Mapping[int, str]) -> None:
    """Fill each organ lightly and draw its outline."""
    fill = np.zeros((*labels.shape, 4))  # (rows, columns, RGBA)
    for order, value in enumerate(names):
        mask = labels == value
        if not mask.any():
            continue
        color = organ_color(order)
        fill[mask] = (*color, FILL_OPACITY)
        if min(mask.shape) > 1:  # an outline needs two voxels along each axis
            axes.contour(mask.astype(np.float32), levels=[0.5], colors=[color], linewidths=1.0)
    axes.imshow(fill, origin="lower", aspect=axes.get_aspect(), interpolation="nearest")


def _add_names(figure: Figure, *, left: float, maps: Sequence[np.ndarray], names: Mapping[int, str]) -> None:
    """List the organs in the drawn slices in their colors, from `left` (a fraction of the width) on."""
    shown = [(order, value) for order, value in enumerate(names) if any((labels == value).any() for labels in maps)]
    top, step = 0.97, min(0.94 / (NAMES_SHOWN + 1), 0.06)
    for line, (order, value) in enumerate(shown[:NAMES_SHOWN]):
        name = printable(names[value])
        name = name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."
        color = organ_color(order)
        figure.text(left, top - line * step, name, color=color, va="top", fontsize=7, parse_math=False)
    if len(shown) > NAMES_SHOWN:
        figure.text(left, top - NAMES_SHOWN * step, f"and {len(shown) - NAMES_SHOWN} more", va="top", fontsize=7)
