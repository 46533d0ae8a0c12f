"""Writes `report.html`, a page with a table of cases, the worst first, and a viewer of their slices.

Owns: the content of the page, which needs no network. Its layout and scripts are in `report.html` beside this file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from autoseg.errors import printable
from autoseg.export.colors import as_bytes, as_hex, organ_color

MOST_VIEWED = 50  # cases with slices in the page, some 300 KB each


@dataclass(frozen=True)
class ReportedCase:
    """One case on the page.

    Attributes:
        case_id: The name of the case.
        is_done: Whether it has a label map.
        quality: The expected Dice, 0 to 1; None if no organ was found.
        seconds: The time that the case took.
        message: The warnings, or why it failed.
        volumes_ml: (K) volumes of the organs, in the order of their names.
    """

    case_id: str
    is_done: bool
    quality: float | None
    seconds: float
    message: str
    volumes_ml: tuple[float, ...]


def choose_viewed(cases: Sequence[ReportedCase]) -> list[str]:
    """Return the names of the cases whose slices are on the page: the worst that were done, at most 50."""
    done = [case for case in cases if case.is_done]
    worst = sorted(done, key=lambda case: -1.0 if case.quality is None else case.quality)
    return [case.case_id for case in worst[:MOST_VIEWED]]


def format_report(
    cases: Sequence[ReportedCase],
    *,
    names: Sequence[str],
    slices: Mapping[str, Mapping[str, Any]],
    version: str,
    model: str,
) -> str:
    """Return the page.

    Args:
        cases: All cases.
        names: (K) names of the organs, in the order of their colors.
        slices: The results of `pack_slices` by case, for the cases of `choose_viewed`.
        version: The version of autoseg.
        model: The name of the model file or run folder.
    """
    content = {
        "organs": [
            {"name": printable(name), "color": as_hex(organ_color(k)), "rgb": as_bytes(organ_color(k))}
            for k, name in enumerate(names)
        ],
        "cases": [
            {
                "case": printable(case.case_id),
                "is_done": case.is_done,
                "quality": case.quality,
                "seconds": case.seconds,
                "message": printable(case.message),
                "volumes_ml": case.volumes_ml,
                "found": sum(volume > 0 for volume in case.volumes_ml),
                "slices": slices.get(case.case_id),
            }
            for case in cases
        ],
    }
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_template())
    return page.render(
        cases=cases,
        failed=sum(not case.is_done for case in cases),
        version=version,
        model=printable(model),
        data=_script_json(content),
    )


def _script_json(content: Any) -> str:
    """Return JSON that cannot end the script element around it, whatever characters names contain."""
    text = json.dumps(content, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _template() -> str:
    return files("autoseg.export").joinpath("report.html").read_text(encoding="utf-8")
