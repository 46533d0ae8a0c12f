"""JSON for people who read it and its differences in git: what fits stands on one line.

Owns: `lay_out`, `round_floats`.
Does not own: what is written (`reference_plans.py`, `reference_fingerprints.py`), how it reaches the disk
(`autoseg.system.atomic_files`).
"""

import json
from typing import Any

STEP = 2  # spaces


def lay_out(content: Any, *, width: int, fills_objects: bool = False) -> str:
    """Return JSON in which an object or a list takes one line where it fits.

    A list that does not fit has as many plain values on a line as fit, and other elements on lines of their own.

    Args:
        content: JSON values.
        width: Letters of a line. Only a single key with its value that is longer goes beyond it.
        fills_objects: Whether lines hold as many keys of an object, or short objects of a list, as fit. Otherwise
            each has a line, so that a difference shows the one value that changed.
    """
    return _Layout(width, fills_objects).lay(content, indent=0, used=0) + "\n"


def round_floats(content: Any, *, digits: int) -> Any:
    """Round every float to some significant digits, so that a last bit is no difference."""
    if isinstance(content, dict):
        return {key: round_floats(value, digits=digits) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [round_floats(value, digits=digits) for value in content]
    return float(f"{content:.{digits}g}") if isinstance(content, float) else content


class _Layout:
    def __init__(self, width: int, fills_objects: bool) -> None:
        self.width, self.fills_objects = width, fills_objects

    def lay(self, value: Any, *, indent: int, used: int) -> str:
        """Lay a value out that begins after `used` letters of a line; a comma may follow it."""
        line = _dump(value)
        if used + len(line) + 1 <= self.width or not value or not isinstance(value, (dict, list)):
            return line
        inside = indent + STEP
        is_object = isinstance(value, dict)
        if is_object:
            keys = [f"{_dump(key)}: " for key in value]
            laid = zip(keys, value.values(), strict=True)
            parts = [key + self.lay(item, indent=inside, used=inside + len(key)) for key, item in laid]
        else:
            parts = [self.lay(item, indent=inside, used=inside) for item in value]
        if self.fills_objects or not (is_object or any(isinstance(item, (dict, list)) for item in value)):
            parts = _fill(parts, room=self.width - inside)
        opening, closing = "{}" if is_object else "[]"
        lines = [f"{' ' * inside}{part}" for part in parts]
        return "\n".join([opening, ",\n".join(lines), f"{' ' * indent}{closing}"])


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _fill(parts: list[str], *, room: int) -> list[str]:
    """Join neighbors to lines of at most `room` letters with the comma after them; broken ones stay alone."""
    lines = parts[:1]
    for part in parts[1:]:
        fits = len(lines[-1]) + len(part) + 3 <= room and "\n" not in lines[-1] + part
        if fits:
            lines[-1] += f", {part}"
        else:
            lines.append(part)
    return lines
