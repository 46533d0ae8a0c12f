import pytest

from autoseg import errors
from autoseg.errors import AutosegError, DatasetError, Problem, format_problems, printable


def test_dataset_error_shows_all_problems_as_a_table():
    error = DatasetError(
        "2 of 40 cases cannot be used.",
        problems=[Problem("case_7", "too short."), Problem("case_031", "unusual.", is_error=False)],
    )
    assert str(error) == ("2 of 40 cases cannot be used.\n  case_7    too short.\n  case_031  (warning) unusual.")


def test_format_problems_none_gives_no_line():
    assert format_problems([]) == []


def test_format_problems_makes_control_characters_visible():
    assert format_problems([Problem("a\x1b[2J", "b\nc")]) == ["  a\\x1b[2J  b\\nc"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("Niere ü", "Niere ü"), ("a\tb", "a\\tb"), ("\x1b]0;x\x07", "\\x1b]0;x\\x07"), ("\u202eexe", "\\u202eexe")],
)
def test_printable(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("UsageError", 2),
        ("PlanError", 2),
        ("CheckpointError", 2),
        ("ScanFileError", 4),
        ("GeometryError", 4),
        ("DatasetError", 4),
        ("LockedError", 75),
    ],
)
def test_exit_code_of_each_error_is_in_the_help(name, code):
    kind = getattr(errors, name)
    assert issubclass(kind, AutosegError)
    assert kind.exit_code == code
    assert f"{code} " in errors.EXIT_CODE_HELP
