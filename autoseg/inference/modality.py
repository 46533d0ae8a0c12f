"""Chooses the modality of a case among those of the model: the user's choice, or by the intensities.

Owns: `find_modality_number`, `choose_modality`, `list_alike`.
Does not own: normalization (`preprocessing/`) and text (the rows of `plans.data.organs`), which depend on it.
"""

import re
from collections.abc import Sequence

from autoseg.config.plans import DataPlan
from autoseg.errors import UsageError
from autoseg.io.image import Scan
from autoseg.organs import find_modality

AIR_HU = -500.0  # a CT scan of a body holds air around it or in it; other scans hold no such values


def find_modality_number(plan: DataPlan, name: str | None) -> int | None:
    """Return the position in the plan's modalities of a name, such as "MR" for mri; None for no name.

    Raises:
        UsageError: The model knows no such modality.
    """
    if name is None:
        return None
    names = [modality.name for modality in plan.modalities]
    wanted = name.strip().casefold()
    for number, known in enumerate(names):
        if known.casefold() == wanted:
            return number
    kind = find_modality([name])
    if kind != "unknown" and kind in names:
        return names.index(kind)
    raise UsageError(f"--modality {name!r:.80}: the model knows {', '.join(names)}. Name one of them, or leave it out.")


def choose_modality(channels: Sequence[Scan], *, plan: DataPlan, given: int | None = None) -> int:
    """Choose the modality of a case: the given one, the only one, or by the intensities.

    Args:
        channels: The scans of the case.
        plan: The data part of the plan.
        given: The user's choice.

    Returns:
        The position in `plan.modalities`.
    """
    if given is not None:
        return given
    kinds = [_is_ct(modality.name) for modality in plan.modalities]
    if len(set(kinds)) == 1:
        return 0  # intensities cannot distinguish them, and are not measured
    has_air = min(float(scan.array_zyx.min()) for scan in channels) <= AIR_HU
    return kinds.index(has_air)


def list_alike(plan: DataPlan, modality: int) -> list[str]:
    """Return the names of the modalities that intensities cannot distinguish from this one, in the plan's order."""
    names = [one.name for one in plan.modalities]
    return [name for name in names if _is_ct(name) == _is_ct(names[modality])]


def _is_ct(name: str) -> bool:
    return "ct" in re.findall(r"[a-z0-9]+", name.casefold())
