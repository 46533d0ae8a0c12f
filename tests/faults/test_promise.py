"""README's promise: each sentence is linked to files that are there, and to tests that can be run."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.split("## What it promises")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| ([A-Z][^|]+?\.) \| (.+) \|$", section, flags=re.MULTILINE))


def test_the_promise_stands_word_by_word_and_each_sentence_is_linked_to_its_tests():
    found = rows()
    assert tuple(found) == SENTENCES
    for sentence, held_by in found.items():
        links = re.findall(r"\]\(([^)]+)\)", held_by)
        assert [link for link in links if not (ROOT / link).is_file()] == []
        tests = [
            node.name
            for link in links
            if link.endswith(".py")
            for node in ast.walk(ast.parse((ROOT / link).read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
        ]
        assert tests, sentence
