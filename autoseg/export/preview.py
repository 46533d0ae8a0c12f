"""Draws a preview of a case: three axial slices, a coronal and a sagittal one, and the organs with their volumes.

Owns: `draw_preview`.
Does not own: how a plane becomes a picture (`slice_pictures.py`).

All planes are in radiological orientation: anterior or superior on top, the patient's right on the left.
"""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from autoseg.errors import printable
from autoseg.export.colors import as_bytes, organ_color
from autoseg.export.slice_pictures import as_grey, encode, fit, grey_range, organ_places, paint, resize
from autoseg.export.statistics import OrganStatistics
from autoseg.io.geometry import canonical_axis_map, reorient
from autoseg.io.image import Scan

PANEL_PX = 300
GAP_PX = 6
LINE_PX = 16
TEXT_PX = 12
NAME_LETTERS = 28
GREY_TEXT = (190, 190, 190)
PLANE_NAMES = ("axial", "coronal", "sagittal")


def draw_preview(scan: Scan, labels_zyx: np.ndarray, organs: Sequence[OrganStatistics]) -> bytes:
    """Draw a case as a PNG of 912 x 606 pixels.

    Args:
        scan: The first channel of the case.
        labels_zyx: The label map on the scan's grid.
        organs: The statistics of the organs, in the order of their colors.
    """
    axis_map = canonical_axis_map(scan.geometry)
    image, labels = axis_map.apply(scan.array_zyx), axis_map.apply(labels_zyx)
    spacing = reorient(scan.geometry, axis_map).spacing_zyx_mm
    limits = grey_range(image)
    values = [organ.value for organ in organs]
    sheet = Image.new("RGB", (3 * PANEL_PX + 2 * GAP_PX, 2 * PANEL_PX + GAP_PX))
    profiles = [or_middle(profile) for profile in count_labeled(labels)]
    low, middle, high = _spread(profiles[0])
    shown = [(0, low), (0, middle), (0, high), (1, int(profiles[1].argmax())), (2, int(profiles[2].argmax()))]
    for number, (axis, index) in enumerate(shown):
        panel = draw_plane(image, labels, axis=axis, index=index, spacing_zyx_mm=spacing, limits=limits, values=values)
        row, column = divmod(number, 3)
        left, top = column * (PANEL_PX + GAP_PX), row * (PANEL_PX + GAP_PX)
        sheet.paste(panel, (left + (PANEL_PX - panel.width) // 2, top + (PANEL_PX - panel.height) // 2))
        _write(sheet, (left + 4, top + 3), f"{PLANE_NAMES[axis]}, {'zyx'[axis]} = {index}", GREY_TEXT)
    _list_organs(sheet, organs, left=2 * (PANEL_PX + GAP_PX) + 8, top=PANEL_PX + GAP_PX + 6)
    return encode(np.asarray(sheet))


def draw_plane(
    image: np.ndarray,
    labels: np.ndarray,
    *,
    axis: int,
    index: int,
    spacing_zyx_mm: Sequence[float],
    limits: tuple[float, float],
    values: Sequence[int],
) -> Image.Image:
    """Draw one plane of arrays on the canonical grid, as large as fits into a panel."""
    grey, organs = (turn(np.take(array, index, axis=axis)) for array in (image, labels))
    height_mm, width_mm = (step for other, step in enumerate(spacing_zyx_mm) if other != axis)
    size = fit((grey.shape[0], grey.shape[1]), (height_mm, width_mm), most_px=(PANEL_PX, PANEL_PX))
    places = resize(organ_places(organs, values), size, is_labels=True)
    return Image.fromarray(paint(resize(as_grey(grey, limits), size), places))


def turn(plane: np.ndarray) -> np.ndarray:
    """Rotate a plane along any canonical axis to radiological orientation; sagittal planes face left."""
    return plane[::-1, ::-1]


def count_labeled(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the labeled voxels of each plane along z, y and x."""
    along_z, along_y, along_x = (np.zeros(size, np.int64) for size in labels.shape)
    for z, plane in enumerate(labels):
        inside = plane > 0
        rows = np.count_nonzero(inside, axis=1)
        along_z[z] = rows.sum()
        along_y += rows
        along_x += np.count_nonzero(inside, axis=0)
    return along_z, along_y, along_x


def or_middle(profile: np.ndarray) -> np.ndarray:
    """Mark the middle plane if none is labeled, so that the picture shows something."""
    if not profile.any():
        profile[len(profile) // 2] = 1
    return profile


def _spread(profile: np.ndarray) -> tuple[int, int, int]:
    """Return three slices that divide the labeled voxels into quarters."""
    share = np.cumsum(profile) / profile.sum()
    low, middle, high = (int(np.searchsorted(share, part)) for part in (0.25, 0.5, 0.75))
    return low, middle, high


def _list_organs(sheet: Image.Image, organs: Sequence[OrganStatistics], *, left: int, top: int) -> None:
    """List the organs that were found with their volumes, as many as fit into the panel."""
    found = [(k, organ) for k, organ in enumerate(organs) if organ.num_voxels]
    room = (PANEL_PX - 12) // LINE_PX
    shown = found if len(found) <= room else found[: room - 1]
    for line, (k, organ) in enumerate(shown):
        name = printable(organ.name)
        name = name if len(name) <= NAME_LETTERS else name[: NAME_LETTERS - 3] + "..."
        _write(sheet, (left, top + line * LINE_PX), f"{name}  {organ.volume_ml:.4g} ml", as_bytes(organ_color(k)))
    if not found:
        _write(sheet, (left, top), "no organ was found", GREY_TEXT)
    elif len(shown) < len(found):
        _write(sheet, (left, top + len(shown) * LINE_PX), f"and {len(found) - len(shown)} more", GREY_TEXT)


def _write(sheet: Image.Image, place: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
    ImageDraw.Draw(sheet).text(place, text, fill=color, font=_font())


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(TEXT_PX)
