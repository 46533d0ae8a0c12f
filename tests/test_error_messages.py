"""Every error that autoseg raises on purpose says what to do.

The rule, by the syntax tree: the text of a raised error has more than one sentence or clause, or another error's text
in it. What it says is read by people; `tests/golden/messages.txt` holds some of these texts whole, so that a change of
their form is seen in a review. `python tests/test_error_messages.py` writes that file again.
"""

import ast
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from autoseg import errors

PACKAGE = Path(errors.__file__).parent
GOLDEN = Path(__file__).parent / "golden" / "messages.txt"
EVERY = 12  # one in so many of all messages is kept in the golden file, chosen by its checksum
CLASSES = {name for name in vars(errors) if name.endswith("Error")}
EXCEPTIONS = {
    "{} is {}.": "what it is has the remedy of each kind of file",
    "{} Check its permissions and the disk.": "begins with another error's text",
    "the prediction ended after {} of {} slices.": "of a function that is called with what autoseg made itself",
}
CLAUSES = re.compile(r"[.;:?] |, or |[.?]$")


def text_of(node: ast.expr) -> str | None:
    """Return the text that an expression makes, with {} for what differs; None where it is made elsewhere."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "{}" for one in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [text_of(node.left), text_of(node.right)]
        return "".join(part or "{}" for part in parts)
    return None


def messages() -> Iterator[tuple[str, str]]:
    """Yield the place and the text of every error that is raised with a text of its own."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                name = node.exc.func.id if isinstance(node.exc.func, ast.Name) else ""
                text = text_of(node.exc.args[0])
                if name in CLASSES and text is not None:
                    yield f"{path.relative_to(PACKAGE).as_posix()} {name}", text


def test_every_message_has_a_remedy_after_the_fault():
    found = list(messages())
    assert len(found) > 150
    bare = [
        (place, text)
        for place, text in found
        if len(CLAUSES.findall(text)) < 2 and not text.endswith("{}") and text not in EXCEPTIONS
    ]
    assert bare == [], "say what was expected and what to do, in a sentence of its own"


def golden_text() -> str:
    chosen = sorted({one for one in messages() if zlib.crc32(one[1].encode()) % EVERY == 0})
    return "\n".join(f"{place}\n    {text}" for place, text in chosen) + "\n"


def test_the_golden_messages_are_as_they_were():
    assert golden_text() == GOLDEN.read_text(encoding="utf-8"), "run this file to write the messages again"


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(golden_text(), encoding="utf-8")
