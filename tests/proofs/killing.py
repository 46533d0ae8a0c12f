"""Ways to die: `kill -9` at a point of a command that a test names, without a switch inside autoseg.

Owns: `Point` and its kinds, and `arm`, which makes this process kill itself there.
Does not own: which points there are (`kill_matrix.py`).

Every file that autoseg writes takes its name by one rename, so the rename of a name is where a write can be caught:
with the new file half written, whole, or just in place. Files that grow by lines are caught after a line.
"""

import importlib
import os
import pathlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Literal

When = Literal["before", "after"]


@dataclass(frozen=True)
class Renaming:
    """At the nth time that a file or folder takes a name of this pattern.

    Attributes:
        pattern: Of the name, as in a shell, or of the path's last parts where it holds a slash.
        state: "half": half of the new file is written; "whole": all of it is; "renamed": it has its name.
        number: Which time, from 1.
    """

    pattern: str
    state: Literal["half", "whole", "renamed"]
    number: int = 1


@dataclass(frozen=True)
class Calling:
    """At the nth call of a function.

    Attributes:
        function: As "package.module:name", or "package.module:Class.name".
        when: Before it begins, or after it is done.
        number: Which time, from 1.
    """

    function: str
    when: When = "before"
    number: int = 1


@dataclass(frozen=True)
class Appending:
    """In the nth line of a file that grows by lines, half of which has reached the disk.

    Attributes:
        function: That appends a line, as for `Calling`.
        file: Name of the file.
        number: Which time, from 1.
    """

    function: str
    file: str
    number: int = 1


Point = Renaming | Calling | Appending
_command = 0  # process number of the command that was armed; a worker of it reaches some points first


def arm(point: Point, *, folder: pathlib.Path) -> None:
    """Have this process be killed at a point; `folder` is where files that grow by lines are looked for."""
    global _command
    _command = os.getpid()
    match point:
        case Renaming():
            _arm_renaming(point)
        case Calling():
            _wrap(point.function, _dying(point.when, point.number))
        case Appending():
            _wrap(point.function, _tearing(point, folder=folder))


def die() -> None:
    """Send the command the signal that it cannot catch, and if this is a worker of it, then itself."""
    os.kill(_command, signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def _arm_renaming(point: Renaming) -> None:
    rename = pathlib.Path.replace
    seen = 0

    def replace(self: pathlib.Path, target: Any) -> pathlib.Path:
        nonlocal seen
        path = pathlib.Path(target)
        name = "/".join(path.parts[-1 - point.pattern.count("/") :])
        if not fnmatch(name, point.pattern):
            return rename(self, target)
        seen += 1
        if seen == point.number and point.state == "half":
            os.truncate(self, self.stat().st_size // 2)
        if seen == point.number and point.state != "renamed":
            die()
        moved = rename(self, target)
        if seen == point.number:
            die()
        return moved

    pathlib.Path.replace = replace  # type: ignore[method-assign]


def _dying(when: When, number: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    seen = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            is_due = seen == number  # before another thread counts
            if is_due and when == "before":
                die()
            result = function(*arguments, **named)
            if is_due:
                die()
            return result

        return called

    return wrap


def _tearing(point: Appending, *, folder: pathlib.Path) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    seen = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            nonlocal seen
            result = function(*arguments, **named)
            seen += 1
            if seen == point.number:
                (path,) = folder.rglob(point.file)
                content = path.read_bytes()
                last = content.rstrip(b"\n").rpartition(b"\n")[2]
                os.truncate(path, len(content) - len(last) // 2 - 1)
                die()
            return result

        return called

    return wrap


def _wrap(function: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Put a wrapper in the place of a function, wherever a module of autoseg holds it by name."""
    module_name, _, name = function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *classes, name = name.split(".")
    for part in classes:
        owner = getattr(owner, part)
    original = getattr(owner, name)
    setattr(owner, name, wrap(original))
