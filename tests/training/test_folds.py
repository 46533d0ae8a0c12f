from pathlib import Path

import pytest

from autoseg.errors import UsageError
from autoseg.system.atomic_files import write_json
from autoseg.training.folds import Fold, read_folds


def test_folds_are_read_as_they_stand(tmp_path: Path):
    write_json(tmp_path / "s.json", [{"train": ["b", "a"], "validation": []}, {"train": [], "validation": ["a"]}])
    assert read_folds(tmp_path / "s.json", stored={"a", "b", "c"}) == (Fold(("b", "a"), ()), Fold((), ("a",)))


@pytest.mark.parametrize("content", [{}, [], [1], [{"train": "ab", "validation": []}], [{"train": ["a"]}], "ab", [[]]])
def test_another_form_is_refused(tmp_path: Path, content):
    write_json(tmp_path / "s.json", content)
    with pytest.raises(UsageError, match=r"s\.json: .* Correct it, or delete it and run autoseg_plan again"):
        read_folds(tmp_path / "s.json", stored={"a", "b"})
