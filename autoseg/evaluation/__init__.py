"""Compares predictions with references: overlap, surface distances, means with intervals. Needs no torch."""

from autoseg.evaluation.case import OrganMetrics, evaluate_case
from autoseg.evaluation.folders import evaluate
from autoseg.evaluation.report import CaseResult, Evaluation

__all__ = ["CaseResult", "Evaluation", "OrganMetrics", "evaluate", "evaluate_case"]
