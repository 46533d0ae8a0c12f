"""docs/errors.md is what the source says, and every message there is told as users need it."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKER = ROOT / "docs" / "make_error_catalogue.py"
MOST_LETTERS = 400
# What tells a user what to do: a sentence or clause that begins so, or what was expected in the place of a value.
VERBS = (
    *("Add", "Ask", "Check", "Choose", "Connect", "Convert", "Copy", "Correct", "Crop", "Delete", "Did you mean"),
    *("Download", "Expected", "Export", "Fetch", "Free", "Give", "Install", "Keep", "Leave", "Load", "Look", "Mend"),
    *(
        "Move",
        "Name",
        "Pack",
        "Plan",
        "Predict",
        "Preprocess",
        "Put",
        "Remove",
        "Rename",
        "Renumber",
        "Repair",
        "Report",
    ),
    *("Resample", "Run", "Save", "Set", "Start", "Take", "Train", "Try", "Unpack", "Unset", "Use", "Wait", "Write"),
)
REMEDY = re.compile(rf"(^|[.;:>] |, or |\? )(--set |{'|'.join(VERBS)}|{'|'.join(map(str.lower, VERBS))})\b")
# Messages that are as they are, and why: by how they begin.
EXCEPTIONS = {
    "<num usable> of <num cases> cases can be used.": "the head of a table, each line of which has its remedy",
    "the dataset cannot be used: <": "goes on with another message, which has its remedy",
    "--descriptions: <error>": "goes on with another message, which has its remedy",
    "The reference is left out: <error>": "goes on with another message, which has its remedy",
    "working on the CPU: <fault>": "goes on with another message, which has its remedy",
    "no look at the validation cases this time: <error>": "goes on with another message, which has its remedy",
    "the best model so far is not kept: <error>": "goes on with another message, which has its remedy",
    "step <step> is not saved: <error>": "goes on with another message, which has its remedy",
    "--device <name>: <fault> Or use": "the remedy before its `or` is in the fault",
    "a file does not have the SHA-256 in its case.json.": "a line of a table, whose head has the remedy",
    "<fault> Counted as a miss.": "begins with another message, which has its remedy",
    "<case id>: not predicted: <message>": "goes on with another message, which has its remedy",
    "<path> carries no plan that this version can read;": "goes on with another message",
    "<source> is not a valid plan. Mend these fields": "goes on with a line for each field",
    "<subject> is <what>.": "each kind of file has its own remedy, which is a part of what it is",
    "and <number of problems> more in dataset_report.json": "the last line of a table",
    "the prediction ended after": "of a function that is called with what it made itself",
}


@pytest.fixture(scope="module")
def maker():
    """Load the script, which is no part of a package."""
    sys.path.insert(0, str(MAKER.parent))
    spec = importlib.util.spec_from_file_location("make_error_catalogue", MAKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(MAKER.parent))
    return module


def faults_of(template, *, needs_remedy=True):
    text = " ".join(template.split())
    if not text.endswith((".", "?")) and not re.search(r"\.? ?<(hint|remedy|more)>$", text):
        yield "does not end with a full stop"
    if needs_remedy and not REMEDY.search(text) and not text.endswith(("<remedy>", "<hint>")):
        yield "does not say what to do"
    if len(text) > MOST_LETTERS:
        yield f"has {len(text)} letters"


def test_the_catalogue_is_what_the_source_says(maker):
    """Where this fails: python docs/make_error_catalogue.py."""
    assert (ROOT / "docs" / "errors.md").read_text(encoding="utf-8") == maker.make_catalogue()


def test_the_catalogue_is_made_without_torch():
    code = (
        f"import runpy, sys; runpy.run_path({str(MAKER)!r}); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=ROOT, timeout=60).returncode == 0


def test_every_message_is_told_as_users_need_it(maker):
    messages = maker.read_messages()
    assert len(messages) > 300
    found, used = [], set()
    for message in messages:
        faults = list(faults_of(message.template, needs_remedy=message.kind != "Warning"))
        begins = [one for one in EXCEPTIONS if message.template.strip().startswith(one)]
        used.update(begins if faults else ())
        found += [(message.module, message.line, message.template, fault) for fault in faults if not begins]
    assert found == []
    assert sorted(EXCEPTIONS.keys() - used) == [], "an exception that is none any more"


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("<path> is damaged. Copy it again.", None),
        ("--fold <fold>: expected a number.", None),
        ("<path> is damaged, so it cannot be used.", "does not say what to do"),
        ("<path> is damaged. Copy it again", "does not end with a full stop"),
        ("<path> is damaged. Copy it again. " + 60 * "Really. ", "has 513 letters"),
    ],
)
def test_a_message_that_helps_nobody_is_found(template, fault):
    assert list(faults_of(template)) == ([] if fault is None else [fault])


SOURCE = """
MOST = 5
class _Names: ...
def _fault(path: Path) -> str | None:
    if path:
        return f"{path} is empty. Remove it."
    return None
def _error(path, fault):
    return UsageError(f"{path}: {fault}. Mend it.")
def _remedy(path) -> str:
    if path:
        return "Train again."
    return "Copy it again."
def check(path, names, one):
    if one:
        message = f"{len(names)} names, as {', '.join(names)}"
        raise PlanError(message)
    log.warning("%s: %d of %d", path, 1, names)
    problems.append(Problem("", "odd", is_error=False))
    raise _error(path, f"more than {MOST}")
    raise PlanError(_fault(path))
    apart = f"{one} mm apart. Resample it."
    near = "near" if one else "far"
    raise PlanError(f"{path} is {near}; {apart}")
    raise UsageError(f"{path} is damaged. {_remedy(path)}")
    raise PlanError(str(error))
"""


def test_templates_follow_names_helpers_and_constants(maker, tmp_path):
    (tmp_path / "a.py").write_text(SOURCE)
    find = sys.modules["message_templates"].find_messages
    found = {(message.kind, message.template) for message in find(tmp_path, {"UsageError": 1, "PlanError": 1})}
    assert found == {
        ("PlanError", "<number of names> names, as <names, ..>"),
        ("Warning", "<path>: <1> of <names>"),
        ("Warning", "odd"),
        ("UsageError", "<path>: more than 5. Mend it."),
        ("PlanError", "<path> is empty. Remove it."),
        ("PlanError", "<path> is <near>; <one> mm apart. Resample it."),
        ("UsageError", "<path> is damaged. Train again."),
        ("UsageError", "<path> is damaged. Copy it again."),
    }
