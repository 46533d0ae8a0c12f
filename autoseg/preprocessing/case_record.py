"""Reads and checks `case.json`, the record of a preprocessed case.

Owns: the form of `case.json`.
Does not own: writing and finding it (`store.py`), the arrays (`array_file.py`).

The store is in a run folder, which may come from elsewhere or be damaged. A case whose record is not of this form is
preprocessed again.
"""

import math
from typing import Any

from autoseg.errors import GeometryError
from autoseg.io.nifti_header import MAX_IMAGE_BYTES
from autoseg.preprocessing.transform import AXIS_NUMBER, CaseTransform

STORE_VERSION = 1
IMAGE, LABELS = "image.b2nd", "labels.b2nd"
MOST_VOXELS = MAX_IMAGE_BYTES  # of a scan on its own grid, a byte each


def read_record(content: Any) -> dict[str, Any] | None:
    """Return the content of `case.json` if it has the form that the store writes, else None."""
    try:
        _check(content)
    except (KeyError, TypeError, ValueError, AttributeError, GeometryError):
        return None
    record: dict[str, Any] = content
    return record


def _check(record: Any) -> None:
    """Raise any error if a record does not have the right form."""
    if record["version"] != STORE_VERSION or not isinstance(record["data_hash"], str):
        raise ValueError("of another version")
    shape = record["shape"]
    if len(shape) != 4 or not all(_is_count(size) and size > 0 for size in shape):
        raise ValueError("no shape of an array")
    files = record["bytes"]
    if not {IMAGE} <= set(files) <= {IMAGE, LABELS} or not all(map(_is_count, files.values())):
        raise ValueError("other files than arrays")
    if set(record["sha256"]) != set(files) or not all(isinstance(one, str) for one in record["sha256"].values()):
        raise ValueError("no digests of the arrays")
    transform = CaseTransform.from_json(record["transform"])
    spans = zip(transform.crop_box, transform.axis_map.permutation, strict=True)
    if not all(0 <= start < stop <= transform.original.shape_zyx[axis] for (start, stop), axis in spans):
        raise ValueError("cropped beyond the scan")
    if transform.slice_axis not in AXIS_NUMBER or list(transform.resampled_shape) != shape[1:]:
        raise ValueError("another grid than the arrays")
    if math.prod(transform.original.shape_zyx) > MOST_VOXELS:
        raise ValueError("larger than any scan that is read")
    if not (record["dataset"] is None or isinstance(record["dataset"], str)):
        raise ValueError("no name of a dataset")
    if record["annotated"] is not None and not all(_is_count(index) and index > 0 for index in record["annotated"]):
        raise ValueError("no indices of what was annotated")
    for organ, ranges in record["organ_slices"].items():
        if not organ.isdecimal() or not ranges or not all(_is_range(pair, last=shape[1]) for pair in ranges):
            raise ValueError("slices that the case does not have")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_range(pair: Any, *, last: int) -> bool:
    start, stop = pair
    return _is_count(start) and _is_count(stop) and start < stop <= last
