"""Defines the part of a plan that may change at prediction without new weights.

Owns: `InferencePlan`, and which small connected components are removed.
Does not own: prediction itself (`inference/`), how a value is chosen (`rules/training.py`).
"""

from typing import Literal

from pydantic import Field

from autoseg.config.data import PlanPart

SliceOrder = Literal["outwards", "similarity", "ascending"]


class ComponentFilter(PlanPart):
    """Which small connected components of an organ are removed from a label map."""

    organ: str = Field(min_length=1, max_length=200, description="name of the organ")
    min_fraction: float = Field(
        0.0, ge=0, le=1, description="components below this fraction of the largest one are removed"
    )
    min_volume_ml: float = Field(
        0.0, ge=0, le=1e6, description="components below this volume in ml are removed, even the largest"
    )


class InferencePlan(PlanPart):
    """Settings that may change at prediction without new weights."""

    window_overlap: float = Field(
        0.5, ge=0, le=0.9, description="overlap of neighboring windows, as a fraction of a window"
    )
    mirror_axes: tuple[Literal["row", "column"], ...] = Field(
        (), description="axes along which predictions are mirrored and averaged"
    )
    slices_per_batch: int = Field(8, ge=1, le=4096, description="slices that are predicted at once")
    slice_order: SliceOrder = Field(
        "outwards", description="with a memory only: the order in which slices are segmented"
    )
    slab_slices: int = Field(
        32, ge=1, le=4096, description="with a memory only: slices per slab, within which slice_order applies"
    )
    component_filter: tuple[ComponentFilter, ...] = Field(
        (), description="organs whose small connected components are removed"
    )
