"""Applies a user's changes to a plan: overlays, which are partial plans in JSON, and `--set` words.

Owns: reading overlays by name or path, collecting values from them and from settings, applying them to a plan.
Does not own: the fields and their ranges (`plans.py`), rules that follow a changed value (`planning/resolve.py`).
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from autoseg.config.plans import Plans, parse_plans
from autoseg.errors import PlanError
from autoseg.system.atomic_files import parse_json, read_json

NOT_OVERRIDDEN = ("why", "overrides", "reasons")  # keys of an overlay that are no values of a plan


@dataclass(frozen=True)
class Overrides:
    """The values that a user sets in place of the planner's.

    Attributes:
        values: Each field, such as "network.backbone", with its JSON value; it is not validated yet.
        sources: For each of these fields the overlay or setting that set it last.
        records: All overlays and settings, in the order in which they were applied.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    records: tuple[str, ...] = ()


def collect_overrides(overlays: Sequence[str | Path] = (), settings: Sequence[str] = ()) -> Overrides:
    """Collect the values of overlays and then of settings; later ones win.

    Args:
        overlays: Names or paths, as `read_overlay` takes them.
        settings: Words such as "network.memory_slices=4"; values are JSON or plain text.

    Raises:
        PlanError: A name does not exist; the nearest one is shown.
        UsageError: A file cannot be read.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    records = []
    given = [read_overlay(name) for name in overlays]
    given += [(f"--set {setting}", _parse_setting(setting)) for setting in settings]
    for source, content in given:
        wanted = _values_of(content)
        names = _field_names(Plans)
        for part, inside in names.items():
            if isinstance(inside, dict) and not isinstance(wanted.get(part, {}), Mapping):
                raise PlanError(
                    f"{source:.200}: {part} is a part of the plan. Set one of its fields: {', '.join(inside)}."
                )
        found = dict(_flatten(wanted, names))
        _merge(names, wanted, path="", source=source)
        values.update(found)
        sources.update(dict.fromkeys(found, source))
        records.append(_record(source, content))
    return Overrides(values, sources, tuple(records))


def read_overlay(name: str | Path) -> tuple[str, dict[str, Any]]:
    """Read an overlay.

    Args:
        name: The name of an overlay that comes with autoseg, such as "fast", or the path of a JSON file.

    Returns:
        The name under which the plan records it, and its content.

    Raises:
        PlanError: There is no such overlay (the nearest name is shown), or it is not a JSON object.
        UsageError: The file cannot be read.
    """
    folder = Path(str(files("autoseg").joinpath("overlays")))
    known = sorted(path.stem for path in folder.glob("*.json"))
    path = folder / f"{name}.json" if str(name) in known else Path(name)
    if path.suffix != ".json" and not path.is_file():
        near = difflib.get_close_matches(str(name)[:200], known, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"Give the path of a JSON file, or one of {', '.join(known)}."
        raise PlanError(f"There is no overlay {str(name)[:200]!r}. {hint}")
    content = read_json(path)
    if not isinstance(content, dict):
        raise PlanError(
            f"{path} contains a {type(content).__name__}; expected an object such as {{'training': {{...}}}}."
        )
    return path.stem if path.parent == folder else path.name, content


def apply_overlay(plans: Plans, overlay: Mapping[str, Any], *, source: str) -> Plans:
    """Return a finished plan with the values of a partial plan; its "why" is kept in `overrides`.

    Raises:
        PlanError: A name does not exist (the nearest one is shown), or a value is out of range.
    """
    content = plans.model_dump(mode="json")
    _merge(content, _values_of(overlay), path="", source=source)
    content["overrides"] = [*plans.overrides, _record(source, overlay)]
    return parse_plans(content, source=source)


def apply_settings(plans: Plans, settings: Sequence[str]) -> Plans:
    """Return a finished plan changed by words such as "network.memory_slices=4"; values are JSON or plain text.

    They are checked together, so their order does not matter where one needs another.
    """
    content = plans.model_dump(mode="json")
    for setting in settings:
        _merge(content, _parse_setting(setting), path="", source=f"--set {setting}")
    words = [f"--set {setting}" for setting in settings]
    content["overrides"] = [*plans.overrides, *words]
    return parse_plans(content, source=" ".join(words))


def _parse_setting(setting: str) -> dict[str, Any]:
    key, separator, text = setting.partition("=")
    if not separator:
        raise PlanError(f"--set {setting}: expected KEY=VALUE, such as training.batch_slices=4.")
    try:
        value = parse_json(text)
    except ValueError:
        value = text
    for name in reversed(key.split(".")):
        value = {name: value}
    return dict(value)


def _values_of(overlay: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in overlay.items() if key not in NOT_OVERRIDDEN}


def _record(source: str, overlay: Mapping[str, Any]) -> str:
    why = overlay.get("why", "")
    return f"{source}: {why!s:.1000}" if why else source


def _field_names(model: Any) -> dict[str, Any]:
    """Return the names of all fields of a part, nested; the fields of parts inside lists are not named."""
    return {
        name: _field_names(info.annotation) if is_part(info.annotation) else None
        for name, info in model.model_fields.items()
    }


def is_part(annotation: Any) -> bool:
    """Return whether a field holds a part of a plan with fields of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _flatten(values: Mapping[str, Any], names: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        inside = names.get(name)
        if isinstance(inside, dict) and isinstance(value, Mapping):
            yield from _flatten(value, inside, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _merge(content: dict[str, Any], changes: Mapping[str, Any], *, path: str, source: str) -> None:
    for key, value in changes.items():
        if key not in content:
            near = difflib.get_close_matches(key[:200], content, n=1)
            hint = f" Did you mean {path}{near[0]}?" if near else f" Known here: {', '.join(content)[:400]}."
            raise PlanError(f"{source:.200}: there is no field {path:.200}{key:.200} in the plan.{hint}")
        if isinstance(value, Mapping) and isinstance(content[key], dict):
            _merge(content[key], value, path=f"{path}{key}.", source=source)
        else:
            content[key] = value
