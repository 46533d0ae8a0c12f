import os
from pathlib import Path

import pytest

from autoseg.planning.user_cache import find_folder, open_user_cache


def test_folder_is_that_of_the_standard(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in ((str(tmp_path / "x"), "x"), ("", ".cache"), ("relative", ".cache")):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert find_folder() == tmp_path / expected / "autoseg" / "datasets"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_folder() == tmp_path / ".cache" / "autoseg" / "datasets"


def test_without_a_home_nothing_is_kept(tmp_path, monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    assert find_folder() is None
    open_user_cache(tmp_path).save()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "autoseg" / "datasets"


def test_a_dataset_has_a_file_of_its_own_by_its_real_path(folder, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    paths = [open_user_cache(tmp_path / name)._path for name in ("a", "b", "link")]
    assert paths[0] == paths[2] != paths[1] and paths[0].parent == folder


def test_nothing_is_kept_inside_the_dataset(folder, tmp_path):
    assert open_user_cache(tmp_path)._path is None
    assert open_user_cache(folder)._path is None


def test_files_that_nothing_used_for_long_are_removed_and_others_stay(folder, tmp_path):
    (tmp_path / "data").mkdir()
    folder.mkdir(parents=True)
    own = open_user_cache(tmp_path / "data")._path
    for path in (own, folder / "old.jsonl", folder / "new.jsonl", folder / "old.txt"):
        path.write_bytes(b"")
        if "new" not in path.name:
            os.utime(path, (1, 1))
    open_user_cache(tmp_path / "data")
    assert {path.name for path in folder.iterdir()} == {own.name, "new.jsonl", "old.txt"}
