"""Packs slices of a case for the viewer in the report: few and small, with the organs as a separate layer.

Owns: `pack_slices`.
Does not own: the page that shows them (`report.py`).
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from autoseg.config.plans import Axis
from autoseg.export.preview import turn
from autoseg.export.slice_pictures import as_grey, encode, fit, grey_range, organ_places, resize
from autoseg.io.geometry import canonical_axis_map, reorient
from autoseg.io.image import Scan

MOST_SLICES = 32
MOST_PX = 256
MARGIN_SHARE = 0.05  # of the slices, shown beyond the organs at both ends
MOST_ORGANS = 255  # that fit into a picture with one byte per pixel; others are not shown


def pack_slices(scan: Scan, labels_zyx: np.ndarray, *, values: Sequence[int], slice_axis: Axis) -> dict[str, Any]:
    """Pack slices of a case, evenly spaced through the part that contains organs.

    Args:
        scan: The first channel of the case.
        labels_zyx: The label map on the scan's grid.
        values: The values of the organs, in the order of their colors.
        slice_axis: The canonical axis across which slices are taken.

    Returns:
        Plain values for JSON: `numbers` of the slices, `height` and `width` of each in pixels, and two pictures with
        all slices below each other, as data URLs: `grey`, and `organs` with the position of the organ, from 1.
    """
    axis_map = canonical_axis_map(scan.geometry)
    axis = "zyx".index(slice_axis)
    image, labels = (np.moveaxis(axis_map.apply(array), axis, 0) for array in (scan.array_zyx, labels_zyx))
    height_mm, width_mm = (
        step for other, step in enumerate(reorient(scan.geometry, axis_map).spacing_zyx_mm) if other != axis
    )
    numbers = choose_slices([bool(plane.any()) for plane in labels])
    size = fit((image.shape[1], image.shape[2]), (height_mm, width_mm), most_px=(MOST_PX, MOST_PX))
    limits = grey_range(scan.array_zyx)
    grey = [resize(as_grey(turn(image[n]), limits), size) for n in numbers]
    places = [organ_places(turn(labels[n]), values[:MOST_ORGANS]) for n in numbers]
    organs = [resize(place, size, is_labels=True).astype(np.uint8) for place in places]
    return {
        "axis": slice_axis,
        "numbers": numbers,
        "height": size[0],
        "width": size[1],
        "grey": _data_url(np.concatenate(grey), form="JPEG"),
        "organs": _data_url(np.concatenate(organs), form="PNG"),
    }


def choose_slices(is_labeled: Sequence[bool]) -> list[int]:
    """Choose at most 32 evenly spaced slices, which cover the slices with organs and a small margin."""
    count = len(is_labeled)
    marked = np.flatnonzero(is_labeled)
    first, last = (int(marked[0]), int(marked[-1])) if len(marked) else (0, count - 1)
    margin = round(MARGIN_SHARE * count)
    first, last = max(0, first - margin), min(count - 1, last + margin)
    return sorted({round(number) for number in np.linspace(first, last, MOST_SLICES).tolist()})


def _data_url(picture: np.ndarray, *, form: str) -> str:
    return f"data:image/{form.lower()};base64,{base64.b64encode(encode(picture, form=form)).decode('ascii')}"
