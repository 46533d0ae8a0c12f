import os

import pytest

from autoseg.errors import UsageError
from autoseg.planning.multi_dataset.dataset_names import name_case, name_datasets, refuse_the_same


def test_name_datasets_takes_the_folders_and_numbers_those_that_are_alike(tmp_path):
    roots = [tmp_path / place for place in ("x/data", "y/data", "z/DATA", "data_2")]
    assert name_datasets(roots) == ("data", "data_2", "DATA_3", "data_2_2")
    assert name_datasets(roots[:2]) == name_datasets(roots)[:2], "one more at the end changes no name"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        (".hidden", "hidden"),
        ("...", "dataset"),
        ("a__b___c_", "a_b_c"),
        ("new\nline\x1b", "new_line"),
        ("bidi\u202etxt", "bidi_txt"),
        (" blank ", "blank"),
        ("x" * 100, "x" * 60),
        ("\u00e4" * 50, "\u00e4" * 30),  # two bytes each
        (os.fsdecode(b"raw\xff"), "raw\ufffd"),
        ("__", "dataset"),
    ],
)
def test_name_datasets_holds_nothing_that_an_id_or_a_terminal_could_not(tmp_path, folder, name):
    assert name_datasets([tmp_path / folder]) == (name,)


def test_name_case_is_the_same_for_no_two_cases_of_any_datasets(tmp_path):
    """The ids of cases may hold the separator, at any place."""
    names = name_datasets([tmp_path / folder for folder in ("a", "a__b", "a_", "b")])
    ids = [name_case(name, case) for name in names for case in ("b__c", "c", "_c", "__c", "b")]
    assert len(set(ids)) == len(ids)
    assert [one.partition("__")[0] for one in ids] == [name for name in names for _ in range(5)]


def test_refuse_the_same_knows_a_folder_by_another_path(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="a dataset is given twice"):
        refuse_the_same([tmp_path / "a", tmp_path / "link"])
    refuse_the_same([tmp_path / "a", tmp_path / "b"])
