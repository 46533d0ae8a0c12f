"""Formats an evaluation as lines for a terminal.

Owns: `table_lines`.
Does not own: the numbers (`report.py`).
"""

from collections.abc import Sequence

from autoseg.errors import Problem, format_problems, printable
from autoseg.evaluation.case import EMPTY_MASK_RULES
from autoseg.evaluation.intervals import Interval
from autoseg.evaluation.report import OVERALL_RULE, CaseResult, Evaluation, OrganSummary

LOWEST_CASES_SHOWN = 5
PROBLEMS_SHOWN = 20
NAME_WIDTH = 40
ABSENT = "-"


def table_lines(evaluation: Evaluation) -> list[str]:
    """Format an evaluation: one row per organ, the overall row, the lowest cases, problems, and the rules.

    The 95 % interval of the mean Dice over cases is in brackets; "-" stands for a metric that does not count.
    """
    header = [
        "organ",
        "cases",
        "Dice",
        "[95 %]",
        "median",
        "IoU",
        f"NSD {evaluation.tolerance_mm:g} mm",
        "HD95 mm",
        "missed",
        "false pos.",
    ]
    rows = [header, *(_organ_row(organ) for organ in evaluation.organs), _overall_row(evaluation)]
    lines = [*_align(rows), "", f"mean over cases of the mean Dice of a case: {_mean_over_cases(evaluation)}"]
    lines += ["", *_lowest_lines(evaluation.cases)]
    if evaluation.predictions_without_reference:
        names = ", ".join(printable(name) for name in evaluation.predictions_without_reference)
        lines += ["", f"predictions without a reference, left out: {names}"]
    if evaluation.problems:
        lines += ["", "problems:", *_problem_lines(evaluation.problems)]
    return [*lines, "", OVERALL_RULE, *EMPTY_MASK_RULES]


def _organ_row(organ: OrganSummary) -> list[str]:
    dice = organ.metrics["dice"]
    return [
        _short(organ.name),
        str(dice.num_cases),
        _number(dice.mean),
        _interval(dice.interval),
        _number(dice.median),
        _number(organ.metrics["iou"].mean),
        _number(organ.metrics["nsd"].mean),
        _number(organ.metrics["hd95_mm"].mean, digits=2),
        str(organ.outcomes["missed"]),
        str(organ.outcomes["false positive"]),
    ]


def _overall_row(evaluation: Evaluation) -> list[str]:
    overall = evaluation.overall
    return [
        "overall",
        str(overall["dice"].num_cases),
        _number(overall["dice"].mean),
        _interval(overall["dice"].interval),
        "",
        _number(overall["iou"].mean),
        _number(overall["nsd"].mean),
        _number(overall["hd95_mm"].mean, digits=2),
        str(sum(organ.outcomes["missed"] for organ in evaluation.organs)),
        str(sum(organ.outcomes["false positive"] for organ in evaluation.organs)),
    ]


def _mean_over_cases(evaluation: Evaluation) -> str:
    dice = evaluation.overall["dice"]
    return f"{_number(dice.mean_over_cases)} ({dice.num_cases} cases)"


def _lowest_lines(cases: Sequence[CaseResult]) -> list[str]:
    """Name the cases to look at first."""
    scored = [(dice, case) for case in cases if (dice := case.mean("dice")) is not None]
    lowest = sorted(scored, key=lambda item: (item[0], item[1].case_id))[:LOWEST_CASES_SHOWN]
    rows = [
        [_short(case.case_id), _number(dice), "" if case.has_prediction else "no usable prediction"]
        for dice, case in lowest
    ]
    return ["lowest mean Dice of a case:", *(f"  {line}" for line in _align(rows))]


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    """Show errors before warnings, and how many are not shown."""
    ordered = sorted(problems, key=lambda problem: not problem.is_error)
    lines = format_problems(ordered[:PROBLEMS_SHOWN])
    if len(ordered) > PROBLEMS_SHOWN:
        lines.append(f"  ... and {len(ordered) - PROBLEMS_SHOWN} more; the JSON of -o has them all")
    return lines


def _align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns, the first to the left and numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *others in rows:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= NAME_WIDTH else name[: NAME_WIDTH - 3] + "..."


def _number(value: float | None, *, digits: int = 4) -> str:
    return ABSENT if value is None else f"{value:.{digits}f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.low:.4f}, {interval.high:.4f}]"
