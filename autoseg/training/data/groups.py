"""Groups the cases that one training step may draw from: of one dataset, with slices that one window fits.

Owns: the groups, how often a step draws from each, and which slice of a group is drawn.
Does not own: what is cut from the slice (`sampler.py`), the fractions of the datasets (`rules/datasets.py`).

All slices of a step come from one group. So scans of 40 pixels do not pay for the window of those of 512, a step has
one modality and with it one text, and a dataset's fraction of the steps is well defined.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from autoseg.config.plans import Plans
from autoseg.preprocessing.store import CaseStore


@dataclass(frozen=True)
class CaseGroup:
    """Cases of one dataset and window.

    Attributes:
        case_ids: At least one case.
        window_px: The rows and columns that are cut from their slices.
        modality: The number of their modality in the plan.
        share: The fraction of all steps that draw from this group.
        organ_slices: The slices that contain each index of an organ or region, for each case.
        weights: The sampling weights of indices; 1 for those that are not listed.
    """

    case_ids: tuple[str, ...]
    window_px: tuple[int, int]
    modality: int
    share: float
    organ_slices: Mapping[str, Mapping[int, np.ndarray]] = field(repr=False)
    weights: Mapping[int, float] = field(default_factory=dict)

    @cached_property
    def cases_of_organ(self) -> dict[int, list[str]]:
        """The cases that contain each index that may be drawn."""
        found: dict[int, list[str]] = {}
        for case_id in self.case_ids:
            for index in self.organ_slices[case_id]:
                if self.weights.get(index, 1.0) > 0:
                    found.setdefault(index, []).append(case_id)
        return found

    @cached_property
    def _organ_odds(self) -> np.ndarray:
        odds = np.array([self.weights.get(index, 1.0) for index in self.cases_of_organ])
        return np.asarray(odds.cumsum() / odds.sum())

    def indices_in(self, case_id: str, numbers: np.ndarray) -> set[int]:
        """Return the indices of the organs and regions that any of these slices of a case contains."""
        first, last = int(numbers.min()), int(numbers.max())
        return {
            index
            for index, slices in self.organ_slices[case_id].items()
            if slices[0] <= last and slices[-1] >= first and np.isin(numbers, slices).any()
        }

    def draw_organ_slice(self, rng: np.random.Generator) -> tuple[str, int]:
        """Draw a case and the number of a slice that contains an organ: first an organ by its weight, then a case."""
        cases = self.cases_of_organ
        if self.weights:
            place = int(np.searchsorted(self._organ_odds, rng.random(), side="right"))
        else:
            place = int(rng.integers(len(cases)))
        organ = list(cases)[place]
        case_id = cases[organ][rng.integers(len(cases[organ]))]
        slices = self.organ_slices[case_id][organ]
        return case_id, int(slices[rng.integers(len(slices))])


def group_cases(store: CaseStore, case_ids: Sequence[str], *, plans: Plans) -> tuple[CaseGroup, ...]:
    """Group cases by dataset and window, in their order; without fractions in the plan all cases are equally likely."""
    members: dict[tuple[str | None, tuple[int, int]], list[str]] = {}
    for case_id in case_ids:
        rows, columns = store.open_labels(case_id).shape[-2:]
        key = (store.source(case_id).dataset, plans.network.window_of((rows, columns)))
        members.setdefault(key, []).append(case_id)
    places = {name: index for index, name in enumerate(plans.data.label_names, start=1)}
    shares = _shares([dataset for dataset, _ in members], [len(ids) for ids in members.values()], plans=plans)
    return tuple(
        CaseGroup(
            case_ids=tuple(ids),
            window_px=window,
            modality=plans.data.modality_of(dataset),
            share=share,
            organ_slices={case_id: store.organ_slices(case_id) for case_id in ids},
            weights={places[one.organ]: one.weight for one in plans.training.organ_sampling_weights},
        )
        for ((dataset, window), ids), share in zip(members.items(), shares, strict=True)
    )


def _shares(datasets: Sequence[str | None], num_cases: Sequence[int], *, plans: Plans) -> list[float]:
    """Divide the steps among groups: among datasets as the plan says, within one by the number of cases."""
    planned = {one.dataset: one.fraction for one in plans.training.dataset_sampling_fractions}
    totals: dict[str | None, int] = {}
    for dataset, count in zip(datasets, num_cases, strict=True):
        totals[dataset] = totals.get(dataset, 0) + count
    if not any(planned.get(dataset or "", 0) for dataset in totals):
        planned = {dataset or "": float(count) for dataset, count in totals.items()}
    raw = [
        planned.get(dataset or "", 0.0) * count / totals[dataset]
        for dataset, count in zip(datasets, num_cases, strict=True)
    ]
    return [value / sum(raw) for value in raw]
