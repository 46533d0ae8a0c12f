"""Summarizes the metrics of all cases: `Evaluation`, its means with intervals, and its JSON.

Owns: the frozen objects `Evaluation`, `CaseResult`, `MetricSummary`, `OrganSummary`, `OverallSummary`, their values and
their JSON.
Does not own: the metrics of one case (`case.py`), reading folders (`folders.py`), the printed table (`table.py`).

The *overall* value of a metric is the mean over organs of the mean over cases, so that every organ has the same weight;
the mean over cases of the mean over a case's organs is given too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from autoseg.errors import Problem, printable
from autoseg.evaluation.case import EMPTY_MASK_RULES, OrganMetrics, Outcome
from autoseg.evaluation.intervals import Interval, bootstrap_interval, mean_of_organ_means

Metric = Literal["dice", "iou", "nsd", "hd95_mm"]
METRICS: tuple[Metric, ...] = ("dice", "iou", "nsd", "hd95_mm")
BOOTSTRAP_SEED = 0
OVERALL_RULE = "overall: mean over organs of the mean over cases; intervals: 95 % percentile bootstrap over cases."


@dataclass(frozen=True)
class CaseResult:
    """The metrics of one case.

    Attributes:
        case_id: The name of the case.
        organs: The metrics by label value; values in neither label map are left out.
        has_prediction: False for a case without a usable prediction, which counts as a miss.
    """

    case_id: str
    organs: Mapping[int, OrganMetrics]
    has_prediction: bool = True

    def mean(self, metric: Metric) -> float | None:
        """Average a metric over the organs that count in this case; None if none does."""
        return mean_of_organ_means(np.array([[_number(organ, metric) for organ in self.organs.values()]]))


@dataclass(frozen=True)
class MetricSummary:
    """One metric over the cases in which it counts; None if there are none (or, for the interval, only one)."""

    mean: float | None
    median: float | None
    interval: Interval | None
    num_cases: int


@dataclass(frozen=True)
class OrganSummary:
    """One organ over all cases.

    Attributes:
        value: The label value.
        name: The name, or "label 3".
        metrics: A summary per metric.
        outcomes: The number of cases per outcome: found, missed, false positive, absent.
    """

    value: int
    name: str
    metrics: Mapping[Metric, MetricSummary]
    outcomes: Mapping[Outcome, int]


@dataclass(frozen=True)
class OverallSummary:
    """One metric over all organs and cases.

    Attributes:
        mean: The mean over organs of the mean over cases.
        interval: Its 95 % bootstrap interval over cases.
        mean_over_cases: The mean over cases of the mean over the organs of a case.
        num_cases: The number of cases with a value.
        num_organs: The number of organs with a value.
    """

    mean: float | None
    interval: Interval | None
    mean_over_cases: float | None
    num_cases: int
    num_organs: int


@dataclass(frozen=True)
class Evaluation:
    """The comparison of a set of predictions with their references.

    Attributes:
        cases: The metrics of each case with a reference.
        names: The names of all organs by label value.
        tolerance_mm: The tolerance of the NSD.
        problems: The cases that could not be compared (errors), and warnings.
        predictions_without_reference: The predictions without a reference, which are left out.
    """

    cases: tuple[CaseResult, ...]
    names: Mapping[int, str]
    tolerance_mm: float
    problems: tuple[Problem, ...] = ()
    predictions_without_reference: tuple[str, ...] = ()

    @cached_property
    def organs(self) -> tuple[OrganSummary, ...]:
        """Summarize each organ over the cases, in the order of label values."""
        return tuple(self._summarize_organ(value) for value in sorted(self.names))

    @cached_property
    def overall(self) -> dict[Metric, OverallSummary]:
        """Summarize each metric over organs and cases."""
        return {metric: self._summarize_all(metric) for metric in METRICS}

    @property
    def mean_dice(self) -> float | None:
        """Return the mean over organs of the mean Dice over cases."""
        return self.overall["dice"].mean

    @property
    def has_errors(self) -> bool:
        """Return whether any case could not be compared."""
        return any(problem.is_error for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the whole evaluation as JSON without NaN: null where a metric does not count."""
        return {
            "version": 1,
            "rules": [OVERALL_RULE, *EMPTY_MASK_RULES],
            "tolerance_mm": self.tolerance_mm,
            "overall": {metric: asdict(summary) for metric, summary in self.overall.items()},
            "organs": [asdict(organ) | {"name": printable(organ.name)} for organ in self.organs],
            "cases": [self._case_to_json(case) for case in self.cases],
            "problems": [
                {"case_id": printable(p.case_id), "message": printable(p.message), "is_error": p.is_error}
                for p in self.problems
            ],
            "predictions_without_reference": [printable(name) for name in self.predictions_without_reference],
        }

    def _case_to_json(self, case: CaseResult) -> dict[str, Any]:
        return {
            "case_id": printable(case.case_id),
            "has_prediction": case.has_prediction,
            "mean_dice": case.mean("dice"),
            "organs": {
                str(value): {"name": printable(self.names[value]), "outcome": organ.outcome} | asdict(organ)
                for value, organ in case.organs.items()
            },
        }

    def _values(self, metric: Metric) -> np.ndarray:
        """Return a metric as (cases, organs), NaN where it does not count."""
        return np.array(
            [[_number(case.organs.get(value), metric) for value in sorted(self.names)] for case in self.cases],
            dtype=float,
        ).reshape(len(self.cases), len(self.names))

    def _summarize_organ(self, value: int) -> OrganSummary:
        column = sorted(self.names).index(value)
        outcomes: dict[Outcome, int] = {"found": 0, "missed": 0, "false positive": 0, "absent": 0}
        for case in self.cases:
            outcomes[case.organs[value].outcome if value in case.organs else "absent"] += 1
        return OrganSummary(
            value=value,
            name=self.names[value],
            metrics={metric: _summarize(self._tables[metric][:, column]) for metric in METRICS},
            outcomes=outcomes,
        )

    @cached_property
    def _tables(self) -> dict[Metric, np.ndarray]:
        return {metric: self._values(metric) for metric in METRICS}

    def _summarize_all(self, metric: Metric) -> OverallSummary:
        table = self._tables[metric]
        counts = ~np.isnan(table)
        return OverallSummary(
            mean=mean_of_organ_means(table),
            interval=bootstrap_interval(table, rng=_rng()),
            mean_over_cases=mean_of_organ_means(table.T),
            num_cases=int(counts.any(axis=1).sum()),
            num_organs=int(counts.any(axis=0).sum()),
        )


def _summarize(values: np.ndarray) -> MetricSummary:
    values = values[~np.isnan(values)]
    return MetricSummary(
        mean=float(values.mean()) if len(values) else None,
        median=float(np.median(values)) if len(values) else None,
        interval=bootstrap_interval(values, rng=_rng()),
        num_cases=len(values),
    )


def _number(organ: OrganMetrics | None, metric: Metric) -> float:
    value = getattr(organ, metric, None)
    return np.nan if value is None else value


def _rng() -> np.random.Generator:
    """Return a generator with a fixed seed, so that an interval depends only on its own values."""
    return np.random.default_rng(BOOTSTRAP_SEED)


def label_name(value: int, names: Mapping[int, str]) -> str:
    """Return the name of a label value, or "label 3" if it has none."""
    return names.get(value) or f"label {value}"


def complete_names(cases: Sequence[CaseResult], names: Mapping[int, str]) -> dict[int, str]:
    """Name every organ of the cases."""
    values = {value for case in cases for value in case.organs}
    return {value: label_name(value, names) for value in sorted(values)}


def merge_names(all_names: Iterable[Mapping[int, str]]) -> tuple[dict[int, str], list[Problem]]:
    """Use the first name of each value; a second one is a warning."""
    merged: dict[int, str] = {}
    conflicts: dict[int, str] = {}
    for names in all_names:
        for value, name in names.items():
            if merged.setdefault(value, name) != name:
                conflicts.setdefault(value, name)
    problems = [
        Problem("", f"The predictions call label {value} both {merged[value]!r} and {other!r}.", is_error=False)
        for value, other in conflicts.items()
    ]
    return merged, problems
