"""A user's changes to a plan: overlay files, then `--set`, with the planner's later rules following them.

Owns: `plan_with_changes`, and the reasons of changed values.
Does not own: how one change is applied and checked (`plans.py`), the rules (`rules_*.py`).

A changed part is an input of the rules after it: another target spacing gives another window, another image
size another batch. A value that a user set itself always stays.
"""

from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import PlanError
from autoseg.files import read_json
from autoseg.planning.explain import find_reason, flatten
from autoseg.planning.fingerprint import Fingerprint
from autoseg.planning.planner import make_plans
from autoseg.plans import Device, Plans, Reason, apply_overlay, apply_settings


def plan_with_changes(
    fingerprint: Fingerprint, *, device: Device, overlays: Sequence[Path] = (), settings: Sequence[str] = ()
) -> Plans:
    """Make plans and apply a user's changes to them.

    Args:
        fingerprint: Of the dataset.
        device: What the plan is made for.
        overlays: JSON files with partial plans, applied in order.
        settings: Words such as "network.memory_slices=4", applied after the overlays.

    Raises:
        PlanError: A change names an unknown field or an impossible value.
    """
    planned = make_plans(fingerprint, device=device)
    if not overlays and not settings:
        return planned
    final, sources = _apply(planned, overlays=overlays, settings=settings)
    if final.data != planned.data:
        rest = make_plans(fingerprint, device=device, data=final.data)
        final, more = _apply(rest, overlays=overlays, settings=settings)
        sources |= more
        planned = rest.model_copy(update={"data": planned.data})
    if final.network != planned.network:
        rest = make_plans(fingerprint, device=device, data=final.data, network=final.network)
        final, more = _apply(rest, overlays=overlays, settings=settings)
        sources |= more
        planned = rest.model_copy(update={"data": planned.data, "network": planned.network})
    return _with_reasons(final, planned=planned, sources=sources)


def _apply(plans: Plans, *, overlays: Sequence[Path], settings: Sequence[str]) -> tuple[Plans, dict[str, str]]:
    """Return the changed plan, and for each changed field what changed it last."""
    sources: dict[str, str] = {}
    for path in overlays:
        overlay = read_json(path)
        if not isinstance(overlay, dict):
            raise PlanError(
                f"{path} holds {type(overlay).__name__}; expected an object such as {{'training': {{...}}}}."
            )
        plans = _note(plans, apply_overlay(plans, overlay, source=path.name), source=path.name, sources=sources)
    for setting in settings:
        plans = _note(plans, apply_settings(plans, [setting]), source=f"--set {setting}", sources=sources)
    return plans, sources


def _note(before: Plans, after: Plans, *, source: str, sources: dict[str, str]) -> Plans:
    old = flatten(before)
    sources.update({field: source for field, value in flatten(after).items() if value != old.get(field)})
    return after


def _with_reasons(plans: Plans, *, planned: Plans, sources: dict[str, str]) -> Plans:
    """Replace the reasons of changed fields: who set them, and what the planner had chosen and why."""
    reasons = dict(plans.reasons)
    values = flatten(planned)
    for field, source in sources.items():
        owner = find_reason(planned.reasons, field)
        facts = {"planned": values.get(field)}
        if owner is not None:
            facts["planned_because"] = planned.reasons[owner].rule
        reasons[field] = Reason(rule=f"Set by {source}, not by the planner."[:2000], facts=facts)
    return plans.model_copy(update={"reasons": reasons})
