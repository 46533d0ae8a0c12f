"""The table in docs/faults.md and the tests in this folder name the same faults."""

import ast
import re
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent
TABLE = FOLDER.parents[1] / "docs" / "faults.md"


def rows_of_table():
    """Give the first column of all its tables, without their heads."""
    found = re.findall(r"^\| ([a-z0-9-]+) \|", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [row for row in found if row != "row"]


def marks_of(source):
    """Give the row of each `fault(..)` mark, by decorator, module mark or `pytest.param`."""
    return [
        node.args[0].value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.fault")
    ]


def test_marks_are_found_wherever_they_stand():
    source = "pytestmark = pytest.mark.fault('a')\n@pytest.mark.fault('b')\ndef test(): ...\n"
    assert marks_of(source) == ["a", "b"]


def test_every_row_has_a_test_and_every_mark_a_row():
    rows = rows_of_table()
    assert len(rows) > 40
    assert [row for row, count in Counter(rows).items() if count > 1] == []
    marked = {mark for path in FOLDER.glob("test_*.py") for mark in marks_of(path.read_text(encoding="utf-8"))}
    assert sorted(set(rows) - marked) == []
    assert sorted(marked - set(rows)) == []
