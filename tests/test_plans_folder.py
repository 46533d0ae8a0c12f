"""Every shipped overlay fits the plan as it is today."""

import json
from pathlib import Path

import pytest

from autoseg.plans import Plans, apply_overlay

FOLDER = Path(__file__).parents[1] / "plans" / "overlays"
OVERLAYS = sorted(FOLDER.glob("*.json"))


def test_there_are_overlays():
    assert {"fast", "no_semantic_decoder", "no_text_injection"} <= {path.stem for path in OVERLAYS}


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_overlay_says_why_and_changes_the_plan_as_it_says(path: Path, plans: Plans):
    overlay = json.loads(path.read_text(encoding="utf-8"))
    assert len(overlay["why"]) > 20
    changed = apply_overlay(plans, overlay, source=path.name)
    assert changed.changes == (f"{path.name}: {overlay['why']}",)
    assert changed.model_copy(update={"changes": ()}) != plans
    after = changed.model_dump(mode="json")
    assert all(holds(after[part], values) for part, values in overlay.items() if part != "why")


def holds(actual, wanted):
    """Say whether every value of a partial plan stands in the whole one."""
    if isinstance(wanted, dict):
        return all(holds(actual[key], value) for key, value in wanted.items())
    return actual == wanted
