"""Writes `dataset_report.html`, a page about a dataset with the faulty cases first; no scripts, no network.

Owns: the order of the cases, and the format of figures. The layout is in `dataset_report.html` beside this file.

Names and messages are untrusted text: control characters are made visible here, and the template escapes the rest.
"""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

from autoseg.errors import printable

STATES = ("error", "warning", "good")  # the worst first


def format_page(content: Mapping[str, Any]) -> str:
    """Return the page for the result of `describe_dataset`."""
    from jinja2 import Environment, StrictUndefined  # a tenth of a second, that a check without a report does not need

    states = list(content["cases"].values())
    messages = _messages_by_case(content["problems"])
    volumes_ml = _volumes_by_organ(content["facts"].values())
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_template())
    return page.render(
        dataset=printable(content["dataset"]),
        num_used=content["num_used"],
        counts={state: states.count(state) for state in STATES},
        problems=messages.get("", []),
        organs=[_describe_organ(name, volumes_ml.get(name, [])) for name in content["organs"]],
        cases=[
            {
                "name": printable(case_id),
                "state": state,
                "problems": messages.get(case_id, []),
                "facts": _describe_facts(content["facts"].get(case_id)),
            }
            for case_id, state in sorted(content["cases"].items(), key=lambda item: STATES.index(item[1]))
        ],
    )


def _messages_by_case(problems: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    messages: dict[str, list[dict[str, Any]]] = {}
    for problem in sorted(problems, key=lambda problem: not problem["is_error"]):
        shown = {"text": printable(problem["message"]), "is_error": problem["is_error"]}
        messages.setdefault(problem["case_id"], []).append(shown)
    return messages


def _volumes_by_organ(facts: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    volumes_ml: dict[str, list[float]] = {}
    for case in facts:
        for organ in case["organs"]:
            volumes_ml.setdefault(organ["name"], []).append(organ["volume_ml"])
    return volumes_ml


def _describe_organ(name: str, volumes_ml: Sequence[float]) -> dict[str, Any]:
    return {
        "name": printable(name),
        "num_cases": len(volumes_ml),
        "smallest": _rounded(min(volumes_ml)) if volumes_ml else "",
        "median": _rounded(statistics.median(volumes_ml)) if volumes_ml else "",
        "largest": _rounded(max(volumes_ml)) if volumes_ml else "",
    }


def _describe_facts(case: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if case is None:
        return None
    return {
        "size": " x ".join(str(size) for size in case["size_zyx"]),
        "spacing": " x ".join(_rounded(size) for size in case["spacing_zyx_mm"]),
        "channels": [
            f"{printable(channel['name'])} {_rounded(channel['minimum'])} to {_rounded(channel['maximum'])}"
            for channel in case["channels"]
        ],
        "organs": [
            {
                "name": printable(organ["name"]),
                "volume": _rounded(organ["volume_ml"]),
                "pieces": organ["num_components"],
            }
            for organ in case["organs"]
        ],
    }


def _rounded(value: float) -> str:
    return f"{value:.4g}"


def _template() -> str:
    return files("autoseg.planning").joinpath("dataset_report.html").read_text(encoding="utf-8")
