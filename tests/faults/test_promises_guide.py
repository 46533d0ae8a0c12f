"""The guide of promises: each sentence links to existing files, and to tests that can be run."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "promises_and_exit_codes.md"
SENTENCES = (
    "Every output is complete or absent.",
    "Any run can be killed at any moment and repeated with the same command.",
    "No bad scan stops the others.",
    "Every refusal names the file, the fault and the remedy.",
    "No data or model file can run code.",
    "No patient text in outputs or logs.",
    "Nothing leaves the machine unasked.",
)


def rows():
    section = GUIDE.read_text(encoding="utf-8").split("## What it promises")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([A-Z][^|]+?\.) \| (.+) \|$", section, flags=re.MULTILINE))


def test_the_promise_stands_word_by_word_and_each_sentence_is_linked_to_its_tests():
    found = rows()
    assert tuple(found) == SENTENCES
    for sentence, held_by in found.items():
        links = re.findall(r"\]\(([^)]+)\)", held_by)
        assert [link for link in links if not (GUIDE.parent / link).is_file()] == []
        tests = [
            node.name
            for link in links
            if link.endswith(".py")
            for node in ast.walk(ast.parse((GUIDE.parent / link).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        assert tests, sentence
