"""Write `errors.md` beside this file: every error and warning of autoseg, from the source.

    python docs/make_error_catalogue.py

Owns: how the catalogue is laid out. Does not own: what the messages are (`message_templates.py`).
A test fails where the file is not what this makes, as with a lock file: run it after every change of a message.
"""

import inspect
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from message_templates import PROBLEM, WARNING, Message, find_messages  # noqa: E402

from autoseg import errors  # noqa: E402  (which loads nothing heavy)

CATALOGUE = FOLDER / "errors.md"
HEAD = """# Errors and warnings

What autoseg can say, and what to do about it. Made by `python docs/make_error_catalogue.py` from the source, so do not
edit it. `<Names>` stand for what differs from case to case.

{codes}

| class | exit code | meaning |
|---|---|---|
{classes}
| {problem} | 4, or 3 where others were finished | One case cannot be used, or the dataset; all are shown together. |
| {warning} | 0 | Something is odd, and said; nothing stops. |
"""


def error_classes() -> dict[str, type[errors.AutosegError]]:
    """Return the classes of errors by name, in the order of their definition."""
    members = vars(errors).values()
    return {one.__name__: one for one in members if inspect.isclass(one) and issubclass(one, errors.AutosegError)}


def read_messages() -> list[Message]:
    """Find every message of the package."""
    return find_messages(FOLDER.parent / "autoseg", error_classes())


def make_catalogue() -> str:
    """Return the whole text."""
    classes = error_classes()
    rows = [f"| {name} | {one.exit_code} | {(one.__doc__ or '').splitlines()[0]} |" for name, one in classes.items()]
    codes = f"{errors.EXIT_CODE_HELP[0].upper()}{errors.EXIT_CODE_HELP[1:]}."
    parts = [HEAD.format(codes=codes, classes="\n".join(rows), problem=PROBLEM, warning=WARNING)]
    messages = read_messages()
    for kind in (*classes, PROBLEM, WARNING):
        own = {(message.module, message.template): message for message in messages if message.kind == kind}
        if own:
            lines = [f"| {_code(message.template)} | {message.module} |" for message in own.values()]
            parts.append("\n".join([f"## {kind}\n", "| message | module |", "|---|---|", *lines, ""]))
    return "\n".join(parts)


def _code(template: str) -> str:
    """Write a template as code in a cell of a table."""
    text = " ".join(template.replace("|", "\\|").split())
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    CATALOGUE.write_text(make_catalogue(), encoding="utf-8")
