"""`report.html`: one page with a table of cases, the worst first, and a viewer of their slices; needs no network.

Owns: what the page is told. How it looks and moves is in `report.html` beside this file.
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
    """What the page shows of one case.

    Attributes:
        case_id: Its name.
        is_done: Whether it has a label map.
        quality: Dice that the model expects, 0 to 1; None where it found nothing.
        seconds: Time it took.
        message: What was odd, or why it failed.
        volumes_ml: (K) of the organs, in the order of their names.
    """

    case_id: str
    is_done: bool
    quality: float | None
    seconds: float
    message: str
    volumes_ml: tuple[float, ...]


def choose_viewed(cases: Sequence[ReportedCase]) -> list[str]:
    """Return the names of those cases whose slices the page holds: the worst that were done, at most 50."""
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
    """Write the page.

    Args:
        cases: All of them.
        names: (K) of the organs, in the order of their colors.
        slices: By case, what `pack_slices` gave; for the cases of `choose_viewed`.
        version: Of autoseg.
        model: Name of the model file or run folder.
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
    """Write JSON that cannot end the script element it stands in, whatever names hold."""
    text = json.dumps(content, allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _template() -> str:
    return files("autoseg.export").joinpath("report.html").read_text(encoding="utf-8")
