"""Writes the files of a whole prediction run: `statistics.csv`, `report.html`, `run.json`.

Owns: `PredictionRun`, the outcome of every case, and which files report it.
Does not own: the formats of the first two (`statistics.py`, `report.py`).
"""

import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from autoseg import __version__
from autoseg.errors import printable
from autoseg.export.case_files import slices_name
from autoseg.export.report import ReportedCase, choose_viewed, format_report
from autoseg.export.statistics import OrganStatistics, format_statistics
from autoseg.inference.predictor import Predictor
from autoseg.system.atomic_files import read_json, write_json, write_text


@dataclass(frozen=True)
class CaseStatus:
    """The outcome of one case.

    Attributes:
        case_id: The name of the case.
        is_done: Whether its label map was written.
        was_done: Whether an earlier run wrote it from the same inputs.
        seconds: The time that the case took.
        message: Why it failed, or its warnings.
        organs: The statistics of its label map.
    """

    case_id: str
    is_done: bool
    was_done: bool = False
    seconds: float = 0.0
    message: str = ""
    organs: tuple[OrganStatistics, ...] = ()

    @property
    def quality(self) -> float | None:
        """Return the mean expected Dice of the organs that were found; None if none was."""
        expected = [organ.expected_dice for organ in self.organs if organ.expected_dice is not None]
        return sum(expected) / len(expected) if expected else None


@dataclass(frozen=True)
class PredictionRun:
    """The outcome of `predict_files`, which `run.json` also contains."""

    output: Path
    cases: tuple[CaseStatus, ...]

    @property
    def failed(self) -> tuple[CaseStatus, ...]:
        """Return the cases without a label map."""
        return tuple(case for case in self.cases if not case.is_done)


def write_run(run: PredictionRun, predictor: Predictor, *, model: str) -> None:
    """Write the files about all cases.

    Args:
        run: The outcome of the run, with the slices for the report in its folder.
        predictor: The model, with names and settings.
        model: The name of the model file or run folder.

    Raises:
        OSError: A file cannot be written.
    """
    write_text(run.output / "statistics.csv", format_statistics((case.case_id, case.organs) for case in run.cases))
    write_text(run.output / "report.html", _report(run, predictor, model=model))
    write_json(run.output / "run.json", _describe(run, predictor, model=model))


def _report(run: PredictionRun, predictor: Predictor, *, model: str) -> str:
    reported = [
        ReportedCase(
            case_id=case.case_id,
            is_done=case.is_done,
            quality=case.quality,
            seconds=case.seconds,
            message=case.message,
            volumes_ml=tuple(organ.volume_ml for organ in case.organs),
        )
        for case in run.cases
    ]
    slices = {case_id: read_json(run.output / slices_name(case_id)) for case_id in choose_viewed(reported)}
    names = [predictor.names[value] for value in sorted(predictor.names)]
    return format_report(reported, names=names, slices=slices, version=__version__, model=model)


def _describe(run: PredictionRun, predictor: Predictor, *, model: str) -> dict[str, object]:
    return {
        "autoseg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "model": printable(model),
        "device": str(predictor.device),
        "labels": {str(value): name for value, name in predictor.names.items()},
        "inference": predictor.plans.inference.model_dump(mode="json"),
        "cases": [
            {
                "case_id": printable(case.case_id),
                "is_done": case.is_done,
                "was_done": case.was_done,
                "seconds": case.seconds,
                "quality": case.quality,
                "message": printable(case.message),
            }
            for case in run.cases
        ],
    }
