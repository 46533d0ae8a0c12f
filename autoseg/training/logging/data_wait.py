"""Measures the fraction of training time spent waiting for data, and advises where it is large.

Does not own: the clock (`trainer.py`), what makes batches (`data/loader.py`).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from autoseg.config.plans import Plans
from autoseg.system.resources import find_num_cores

LARGE_SHARE = 0.2
LEAST_SECONDS = 60.0  # of training; before, the wait for the first batch counts too much


def measure_waiting(records: Iterable[Mapping[str, Any]]) -> float | None:
    """Return the fraction over the whole training, from the lines of `metrics.jsonl`; None without usable records.

    Each record has the fraction of its own epoch, and `seconds` since the beginning.
    """
    before = waited = total = 0.0
    for record in records:
        share, seconds = record.get("fraction_waiting_for_data"), record.get("seconds")
        if not isinstance(share, int | float) or not isinstance(seconds, int | float):
            continue
        waited += share * (seconds - before)
        total += seconds - before
        before = seconds
    return waited / total if total > 0 else None


def advise(share: float | None, *, seconds: float, plans: Plans, device_type: str) -> str | None:
    """Say in a sentence how to shorten the wait; None where it is short or unknown, or the training was."""
    if share is None or share <= LARGE_SHARE or seconds < LEAST_SECONDS:
        return None
    begin = f"{share:.0%} of the time was spent waiting for data. "
    cores = find_num_cores()
    if device_type == "cpu":
        return (
            f"{begin}Other programs may hold the {cores} cores, or the preprocessed cases do not fit into memory and "
            "their disk is slow: free the one, or put the run folder on a faster disk."
        )
    can_change = plans.training.augmentation.run_on == "cpu" and not plans.network.point_prompts
    if can_change:
        return (
            f"{begin}Plan with --set training.augmentation.run_on=device and train again: the GPU then makes the "
            f"changes of the slices; or give training more than the {cores} cores that it has here."
        )
    return (
        f"{begin}Give training more than the {cores} cores that it has here, or more memory for the preprocessed "
        "cases, or put the run folder on a faster disk."
    )
