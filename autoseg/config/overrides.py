"""Changes of a plan by its user: overlays, which are partial plans in JSON, and `--set` words.

Owns: reading overlays by name or path, and applying them and settings to a plan.
Does not own: the fields and their ranges (`plans.py`), rules that follow a changed value (`planning/resolve.py`).
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from autoseg.config.plans import Plans, parse_plans
from autoseg.errors import PlanError
from autoseg.system.atomic_files import parse_json, read_json


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
    """Return the plan with the values of a partial plan; its "why" is kept in `changes`.

    Raises:
        PlanError: A name does not exist (the nearest one is shown), or a value is out of range.
    """
    content = plans.model_dump(mode="json")
    why = overlay.get("why", "")
    changes = {key: value for key, value in overlay.items() if key not in ("why", "overrides")}  # whose record is ours
    _merge(content, changes, path="", source=source)
    content["overrides"] = [*plans.overrides, f"{source}: {why!s:.1000}" if why else source]
    return parse_plans(content, source=source)


def apply_settings(plans: Plans, settings: Sequence[str]) -> Plans:
    """Return the plan changed by `--set` words such as "network.memory_slices=4"; values are JSON or plain text.

    They are checked together, so their order does not matter where one needs another.
    """
    content = plans.model_dump(mode="json")
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator:
            raise PlanError(f"--set {setting}: expected KEY=VALUE, such as training.batch_slices=4.")
        try:
            value = parse_json(text)
        except ValueError:
            value = text
        for name in reversed(key.split(".")):
            value = {name: value}
        _merge(content, value, path="", source=f"--set {setting}")
    words = [f"--set {setting}" for setting in settings]
    content["overrides"] = [*plans.overrides, *words]
    return parse_plans(content, source=" ".join(words))


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
