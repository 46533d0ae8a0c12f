"""A user's changes to a plan: overlay files, then `--set`, with the planner's later rules following them.

Owns: `plan_with_changes`, and the reasons of changed values.
Does not own: how one change is applied and checked (`config/plans.py`), the rules (`rules_*.py`).

A changed value is an input of the rules after it: another target spacing gives another window, another backbone another
image size, another network another batch. A value that a user set itself always stays.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from autoseg.config.overrides import apply_overlay, apply_settings, read_overlay
from autoseg.config.plans import SET_BY, Device, Plans, Reason
from autoseg.planning.explain import find_reason, flatten
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.planner import Given, make_plans


def plan_with_changes(
    fingerprint: Fingerprint, *, device: Device, overlays: Sequence[str | Path] = (), settings: Sequence[str] = ()
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
    change = partial(_apply, overlays=overlays, settings=settings)
    sources: dict[str, str] = {}
    given = Given(data=change(_any_window(planned), sources=sources).data)
    network = change(_any_window(make_plans(fingerprint, device=device, given=given)), sources=sources).network
    window_px = (network.window_rows_px, network.window_columns_px)
    given = replace(given, backbone=network.backbone, window_px=window_px)
    following = make_plans(fingerprint, device=device, given=given)
    step_px = change(_with_network(following, small_windows_px=()), sources=sources).network.refiner_step_px
    if step_px != following.network.refiner_step_px:
        given = replace(given, refiner_step_px=step_px)
        following = make_plans(fingerprint, device=device, given=given)
    given = replace(given, network=change(following, sources=sources).network)
    final = change(make_plans(fingerprint, device=device, given=given), sources=sources)
    first = ("backbone", "window_rows_px", "window_columns_px")
    own = _with_network(following, **{name: getattr(planned.network, name) for name in first})
    return _with_reasons(final, planned=own.model_copy(update={"data": planned.data}), sources=sources)


def _any_window(plans: Plans) -> Plans:
    """Return the plan with a refiner that every window fits: which one the user's window needs is not known yet."""
    return _with_network(plans, refiner_channels=(), refiner_stride=1, small_windows_px=())


def _with_network(plans: Plans, **changes: object) -> Plans:
    return plans.model_copy(update={"network": plans.network.model_copy(update=changes)})


def _apply(plans: Plans, *, overlays: Sequence[str | Path], settings: Sequence[str], sources: dict[str, str]) -> Plans:
    """Return the changed plan, and note in `sources` for each changed field what changed it last."""
    for name in overlays:
        source, overlay = read_overlay(name)
        plans = _note(plans, apply_overlay(plans, overlay, source=source), source=source, sources=sources)
    changed = apply_settings(plans, settings) if settings else plans
    for setting in settings:
        key = setting.partition("=")[0]
        _note(plans, changed, source=f"--set {setting}", sources=sources, within=key)
    return changed


def _note(before: Plans, after: Plans, *, source: str, sources: dict[str, str], within: str = "") -> Plans:
    """Note for each field that differs what changed it; only fields at or under `within`, where it is given."""
    old = flatten(before)
    sources.update(
        {
            field: source
            for field, value in flatten(after).items()
            if value != old.get(field) and (not within or f"{field}.".startswith(f"{within}."))
        }
    )
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
        reasons[field] = Reason(rule=f"{SET_BY} {source}, not by the planner."[:2000], facts=facts)
    return plans.model_copy(update={"reasons": reasons})
