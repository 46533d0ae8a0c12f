"""Explains in lines of text why a plan has its values.

Owns: `explain`, `find_reason`, `flatten`.
Does not own: the rules and their reasons (`rules/`), reasons of changed values (`overrides.py`), printing.
"""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from autoseg.config.plans import Plans, Reason
from autoseg.errors import PlanError

NOT_EXPLAINED = {"reasons", "overrides"}


def explain(plans: Plans, field: str) -> list[str]:
    """Explain one field, or every field of a part.

    Args:
        plans: A plan.
        field: A name such as "network.backbone", "network" or "data.channels.0.clip_low".

    Returns:
        Value, meaning and limits, rule and facts, one a line; then the changes of the plan.

    Raises:
        PlanError: There is no such field; the nearest name is shown.
    """
    return _explain_field(plans, field) + [f"plan changed by: {change}" for change in plans.overrides]


def _explain_field(plans: Plans, field: str) -> list[str]:
    value, info = _find(plans, field)
    if isinstance(value, BaseModel):
        return [line for name in type(value).model_fields for line in _explain_field(plans, f"{field}.{name}")]
    lines = [f"{field} = {_show(value)}"]
    if info is not None:
        lines += [f"  meaning: {text}" for text in [_meaning(info)] if text]
    owner = find_reason(plans.reasons, field)
    if owner is None:
        lines.append("  rule: the default of every plan; no fact of the dataset was looked at")
    else:
        reason = plans.reasons[owner]
        lines.append(f"  rule: {reason.rule}" + ("" if owner == field else f" (for {owner})"))
        lines += [f"  fact: {name} = {_show(fact)}" for name, fact in reason.facts.items()]
    return lines


def find_reason(reasons: Mapping[str, Reason], field: str) -> str | None:
    """Return the field, or the nearest part above it, that has a reason."""
    parts = field.split(".")
    for length in range(len(parts), 0, -1):
        name = ".".join(parts[:length])
        if name in reasons:
            return name
    return None


def flatten(plans: Plans) -> dict[str, Any]:
    """Return every field with its full name and JSON value; tuples are one value; reasons and changes are left out."""

    def walk(content: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
        for name, value in content.items():
            if isinstance(value, Mapping):
                yield from walk(value, f"{path}{name}.")
            else:
                yield f"{path}{name}", value

    return dict(walk(plans.model_dump(mode="json", exclude=NOT_EXPLAINED), ""))


def _find(plans: Plans, field: str) -> tuple[Any, FieldInfo | None]:
    value: Any = plans
    info: FieldInfo | None = None
    for part in field.split("."):
        if isinstance(value, tuple) and re.fullmatch("[0-9]{1,5}", part) and int(part) < len(value):
            value, info = value[int(part)], None
        elif isinstance(value, BaseModel) and part in type(value).model_fields and part not in NOT_EXPLAINED:
            info = type(value).model_fields[part]
            value = getattr(value, part)
        else:
            raise PlanError(f"There is no field {field} in the plan. {_hint(plans, field)}")
    return value, info


def _hint(plans: Plans, field: str) -> str:
    names = list(flatten(plans))
    by_last_part = [name for name in names if name.split(".")[-1] == field.split(".")[-1]]
    near = by_last_part or difflib.get_close_matches(field, names, n=1, cutoff=0.5)
    if near:
        return f"Did you mean {near[0]}?"
    return "Its parts are data, network, training and inference; --explain network shows all of one part."


def _meaning(info: FieldInfo) -> str:
    limits = [
        f"{word} {getattr(item, name)}"
        for item in info.metadata
        for name, word in (
            ("ge", "at least"),
            ("gt", "over"),
            ("le", "at most"),
            ("lt", "under"),
            ("multiple_of", "in steps of"),
        )
        if getattr(item, name, None) is not None
    ]
    return "; ".join(text for text in (info.description or "", ", ".join(limits)) if text)


def _show(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    elif isinstance(value, tuple):
        value = [item.model_dump(mode="json") if isinstance(item, BaseModel) else item for item in value]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
