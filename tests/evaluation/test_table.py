from autoseg.errors import Problem
from autoseg.evaluation.case import EMPTY_MASK_RULES, OrganMetrics
from autoseg.evaluation.report import CaseResult, Evaluation
from autoseg.evaluation.table import table_lines

FOUND = OrganMetrics(dice=0.9, iou=0.8, nsd=0.7, hd95_mm=1.5, prediction_ml=1.0, reference_ml=1.0)
MISSED = OrganMetrics(dice=0.0, iou=0.0, nsd=0.0, hd95_mm=None, prediction_ml=0.0, reference_ml=1.0)
ABSENT = OrganMetrics(dice=None, iou=None, nsd=None, hd95_mm=None, prediction_ml=0.0, reference_ml=0.0)


def lines(*, names=None, **options):
    cases = (CaseResult("good", {1: FOUND, 2: ABSENT}), CaseResult("bad", {1: MISSED}, has_prediction=False))
    return table_lines(Evaluation(cases=cases, names=names or {1: "liver", 2: "spleen"}, tolerance_mm=2.5, **options))


def row(all_lines, name):
    return next(line for line in all_lines if line.startswith(name)).split()


def test_table_lines_organ_row_has_its_numbers():
    liver = row(lines(), "liver")
    assert liver[:3] == ["liver", "2", "0.4500"]
    assert liver[-6:] == ["0.4500", "0.4000", "0.3500", "1.50", "1", "0"]


def test_table_lines_organ_that_never_counts_has_dashes():
    assert row(lines(), "spleen") == ["spleen", "0", "-", "-", "-", "-", "-", "0", "0"]


def test_table_lines_states_tolerance_overall_and_rules():
    text = "\n".join(lines())
    assert "NSD 2.5 mm" in text
    assert row(lines(), "overall")[2] == "0.4500"
    assert all(rule in text for rule in EMPTY_MASK_RULES)


def test_table_lines_lowest_cases_come_first():
    shown = lines()
    start = shown.index("lowest mean Dice of a case:")
    assert shown[start + 1].split() == ["bad", "0.0000", "no", "usable", "prediction"]
    assert shown[start + 2].split() == ["good", "0.9000"]


def test_table_lines_problems_and_strays_are_listed():
    shown = lines(problems=(Problem("bad", "no prediction"),), predictions_without_reference=("stray",))
    assert any("bad" in line and "no prediction" in line for line in shown)
    assert "predictions without a reference, left out: stray" in shown


def test_table_lines_columns_line_up():
    shown = lines(names={1: "a" * 70, 2: "b"})
    header, first, second = shown[:3]
    assert first.startswith("a" * 37 + "...")
    assert len(header) == len(first) == len(second)


def test_table_lines_terminal_escapes_are_shown_not_sent():
    assert "\x1b" not in "\n".join(lines(names={1: "\x1b[2Jliver", 2: "x"}))
