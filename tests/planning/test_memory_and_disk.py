import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from autoseg.datasets.dataset import CaseFiles
from autoseg.planning import memory_and_disk
from autoseg.planning.memory_and_disk import bytes_to_preprocess, bytes_to_scan, warn_if_disk_is_short

PLAN = SimpleNamespace(target_spacing_zyx_mm=(2.0, 1.0, 1.0))
USAGE = namedtuple("USAGE", "total used free")


def facts(case_id, size_zyx, *, channels=1, cropped=None):
    return SimpleNamespace(
        case_id=case_id,
        channels=(None,) * channels,
        size_zyx=size_zyx,
        cropped_size_zyx=cropped or size_zyx,
        spacing_zyx_mm=(1.0, 1.0, 1.0),
    )


def test_scanning_takes_memory_by_the_largest_case_and_all_its_channels(save_scan, tmp_path):
    small, large = (save_scan(tmp_path / f"{n}.nii", np.zeros((n, 10, 10), np.int16)) for n in (1, 20))
    broken = tmp_path / "broken.nii"
    broken.write_bytes(bytes(10_000))
    cases = [
        CaseFiles("a", (small,), None, "a"),
        CaseFiles("b", (large, large), None, "b"),
        CaseFiles("c", (broken,), None, "c"),
        CaseFiles("d", (tmp_path / "absent.nii",), None, "d"),
    ]
    assert bytes_to_scan(cases) == memory_and_disk.BYTES_A_WORKER + 20 * 2 * 20 * 10 * 10
    assert bytes_to_scan([]) == memory_and_disk.BYTES_A_WORKER


def test_preprocessing_takes_memory_by_the_voxels_of_the_file_and_of_the_result():
    cases = [facts("a", (4, 10, 10)), facts("b", (4, 20, 20), cropped=(4, 10, 10), channels=2)]
    result = 2 * 4 * 10 * 10 / 2  # slices half as many
    expected = memory_and_disk.BYTES_A_WORKER + 10 * 2 * 4 * 20 * 20 + 13 * result
    assert bytes_to_preprocess(cases, PLAN) == pytest.approx(expected)


@pytest.mark.parametrize(("free", "is_short"), [(239, True), (241, False)])
def test_cases_that_are_not_there_yet_need_room(tmp_path, monkeypatch, caplog, free, is_short):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(0, 0, free) if Path(path).exists() else 1 / 0)
    (tmp_path / "there").mkdir()
    cases = [facts("there", (400, 10, 10)), facts("due", (4, 10, 10))]  # 200 voxels of the result, 1.2 bytes each
    warn_if_disk_is_short(tmp_path, cases, PLAN)
    assert ("preprocessing 1 cases takes at least" in caplog.text) is is_short
    warn_if_disk_is_short(tmp_path / "absent", [cases[1]], PLAN)  # is asked of the folder above


def test_a_disk_that_does_not_tell_is_passed_over(tmp_path, monkeypatch, caplog):
    def refuse(_path):
        raise OSError("not supported")

    monkeypatch.setattr(shutil, "disk_usage", refuse)
    warn_if_disk_is_short(tmp_path, [facts("due", (4, 10, 10))], PLAN)
    assert not caplog.text
