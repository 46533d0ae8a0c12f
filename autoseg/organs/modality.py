"""Finds the modality of scans by the names of their channels; it selects the sentences about an organ's appearance.

Owns: `Modality` and `find_modality`.
"""

import re
from collections.abc import Sequence
from typing import Literal

Modality = Literal["ct", "mri", "unknown"]
MRI_WORDS = {
    "mr",
    "mri",
    "t1",
    "t2",
    "t1w",
    "t2w",
    "t1c",
    "t1ce",
    "t1gd",
    "flair",
    "adc",
    "dwi",
    "swi",
    "pd",
    "dixon",
    "cine",
}


def find_modality(channel_names: Sequence[str]) -> Modality:
    """Return "ct" or "mri" by the names of all channels; "unknown" for a mixture or an unknown name."""
    found: set[Modality] = {_modality_of(name) for name in channel_names}
    return found.pop() if len(found) == 1 else "unknown"


def _modality_of(channel_name: str) -> Modality:
    words = set(re.findall(r"[a-z0-9]+", channel_name.lower()))
    if "pet" in words:
        return "unknown"
    is_ct = bool(words & {"ct", "cect", "ldct", "cbct"}) or {"computed", "tomography"} <= words
    is_mri = bool(words & MRI_WORDS) or "magnetic" in words
    if is_ct == is_mri:  # neither, or "CT/MRI": scans of both kinds in one channel
        return "unknown"
    return "ct" if is_ct else "mri"
