"""The files of a whole run, beside those of its cases.

Owns: `PredictionRun`, what became of every case, and how it is told: `statistics.csv`, `report.html`, `run.json`.
Does not own: the forms of the first two (`statistics.py`, `report.py`).
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
    """What became of one case.

    Attributes:
        case_id: Its name.
        is_done: Whether its label map is written.
        was_done: Whether an earlier run wrote it, and nothing that decides it has changed.
        seconds: Time it took.
        message: Why not, or what was odd.
        organs: What its label map says in numbers.
    """

    case_id: str
    is_done: bool
    was_done: bool = False
    seconds: float = 0.0
    message: str = ""
    organs: tuple[OrganStatistics, ...] = ()

    @property
    def quality(self) -> float | None:
        """Mean of the Dice that the model expects of the organs that it found; None where it found none."""
        expected = [organ.expected_dice for organ in self.organs if organ.expected_dice is not None]
        return sum(expected) / len(expected) if expected else None


@dataclass(frozen=True)
class PredictionRun:
    """What `predict_files` did; also in `run.json`."""

    output: Path
    cases: tuple[CaseStatus, ...]

    @property
    def failed(self) -> tuple[CaseStatus, ...]:
        """The cases without a label map."""
        return tuple(case for case in self.cases if not case.is_done)


def write_run(run: PredictionRun, predictor: Predictor, *, model: str) -> None:
    """Write what is said of all cases together.

    Args:
        run: The cases; the slices of those that the report shows lie in its folder.
        predictor: Gives names and settings.
        model: Name of the model file or run folder.

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
