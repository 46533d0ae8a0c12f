import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from autoseg.errors import OutputError, ScanFileError
from autoseg.system import process_pool
from autoseg.system.process_pool import WorkerFailure, default_num_workers, map_cases


def double(item: int) -> int:
    return 2 * item


def fail_on(item: int, *, bad: int, error: type[Exception]) -> int:
    if item == bad:
        raise error("scan 3 ends early")
    return item


def die_once(item: int, *, bad: int, folder: Path, code: int) -> int:
    """Die on `bad` while its marker file does not exist; note when each item ran."""
    marker = folder / f"died_{item}"
    if item == bad and not marker.exists():
        marker.write_text("")
        os._exit(code)
    return item


def die(item: int, *, bad: int) -> int:
    if item == bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def note_start(item: int, *, folder: Path) -> int:
    (folder / f"{item}_{os.getpid()}").write_text("")
    time.sleep(30 if item == 1 else 0)
    return item


def first_is_slow(item: int) -> int:
    time.sleep(0.2 if item == 0 else 0)
    return item


def unpicklable(item: int) -> object:
    return (lambda: item) if item == 1 else item


@pytest.mark.parametrize("num_workers", [0, 1, 2, 9])
def test_map_cases_gives_each_item_its_result_in_order(num_workers: int) -> None:
    assert list(map_cases(double, [3, 1, 2], num_workers=num_workers, what="doubling")) == [(3, 6), (1, 2), (2, 4)]


def test_map_cases_keeps_order_when_first_item_is_slow() -> None:
    results = list(map_cases(first_is_slow, [0, 1, 2, 3], num_workers=2, what="waiting"))
    assert [item for item, _ in results] == [0, 1, 2, 3]


def test_map_cases_without_items_gives_nothing() -> None:
    assert list(map_cases(double, [], num_workers=4, what="doubling")) == []


@pytest.mark.parametrize("num_workers", [1, 2])
@pytest.mark.parametrize(("error", "is_expected"), [(ScanFileError, True), (OSError, True), (KeyError, False)])
def test_map_cases_with_an_exception_reports_it_and_goes_on(
    num_workers: int, error: type[Exception], is_expected: bool
) -> None:
    function = partial(fail_on, bad=3, error=error)
    results = dict(map_cases(function, [1, 3, 5], num_workers=num_workers, what="reading"))
    failure = results.pop(3)
    assert results == {1: 1, 5: 5}
    assert isinstance(failure, WorkerFailure)
    assert "scan 3 ends early" in failure.message
    assert failure.is_expected is is_expected


def test_map_cases_with_a_worker_that_dies_once_has_all_results(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    function = partial(die_once, bad=2, folder=tmp_path, code=9)
    results = list(map_cases(function, [1, 2, 3, 4, 5], num_workers=2, what="reading"))
    assert results == [(item, item) for item in (1, 2, 3, 4, 5)]
    assert (tmp_path / "died_2").exists()
    assert "2: its process died, or found no memory" in caplog.text


@pytest.mark.parametrize("items", [[1, 2, 3, 4, 5], [2, 2, 2]])
def test_map_cases_with_a_worker_that_always_dies_reports_the_case_alone(items: list[int]) -> None:
    results = list(map_cases(partial(die, bad=2), items, num_workers=2, what="reading"))
    assert [item for item, _ in results] == items
    for item, result in results:
        if item == 2:
            assert isinstance(result, WorkerFailure)
            assert "SIGKILL, twice" in result.message
        else:
            assert result == item


def test_map_cases_with_exit_in_the_worker_names_the_code() -> None:
    function = partial(_exit_with, code=9)
    (_, first), (_, second) = map_cases(function, [1, 2], num_workers=2, what="reading")
    assert isinstance(first, WorkerFailure) and isinstance(second, WorkerFailure)
    assert "exit code 9, twice" in first.message


def _exit_with(item: int, *, code: int) -> int:
    os._exit(code)


def test_map_cases_with_a_result_that_cannot_be_sent_reports_it() -> None:
    (_, first), (_, second) = map_cases(unpicklable, [1, 2], num_workers=2, what="reading")
    assert isinstance(first, WorkerFailure)
    assert second == 2


def test_map_cases_abandoned_ends_its_processes(tmp_path: Path) -> None:
    results = map_cases(partial(note_start, folder=tmp_path), [0, 1, 2], num_workers=2, what="waiting")
    assert next(results) == (0, 0)
    start = time.monotonic()
    results.close()
    assert time.monotonic() - start < 4
    for path in tmp_path.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.name.split("_")[1]), 0)


def test_map_cases_whose_parent_is_killed_leaves_no_process(tmp_path: Path) -> None:
    parent = os.fork()
    if parent == 0:
        list(map_cases(partial(_note_and_work, folder=tmp_path), list(range(1000)), num_workers=2, what="waiting"))
        os._exit(0)
    deadline = time.monotonic() + 10
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    process_pool = [int(path.name) for path in tmp_path.iterdir()]
    assert len(process_pool) == 2
    while any(_is_running(worker) for worker in process_pool) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_is_running(worker) for worker in process_pool)


def _note_and_work(item: int, *, folder: Path) -> int:
    (folder / str(os.getpid())).write_text("")
    time.sleep(0.05)
    return item


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize(("bytes_a_worker", "expected"), [(0, 8), (10, 8), (20, 4), (79, 1), (80, 1), (500, 1)])
def test_default_num_workers_is_one_a_core_or_as_many_as_find_room(
    bytes_a_worker: int, expected: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(process_pool, "find_num_cores", lambda: 8)
    monkeypatch.setattr(process_pool, "find_free_bytes", lambda: 100)  # of which 80 are used
    assert default_num_workers(bytes_a_worker) == expected
    assert (f"{expected} of 8 cores work at once" in caplog.text) is (expected < 8)


def note_process(item: int) -> int:
    return os.getpid()


def test_a_single_worker_is_a_process_too() -> None:
    (_, one), (_, other) = map_cases(note_process, [1, 2], num_workers=1, what="asking")
    assert one == other != os.getpid()
    assert [found for _, found in map_cases(note_process, [1], num_workers=0, what="asking")] == [os.getpid()]


def find_memory_when_alone(item: int, *, folder: Path) -> int:
    marker = folder / str(item)
    if not marker.exists():
        marker.touch()
        raise MemoryError("8 GiB")
    return item


def test_a_case_that_found_no_memory_is_tried_once_more_alone(tmp_path: Path) -> None:
    function = partial(find_memory_when_alone, folder=tmp_path)
    assert list(map_cases(function, [1, 2, 3], num_workers=2, what="reading")) == [(1, 1), (2, 2), (3, 3)]


def fill_disk(item: int) -> int:
    raise OutputError("the disk is full")


def test_what_would_stop_every_case_is_marked() -> None:
    ((_, failure),) = map_cases(fill_disk, [1], num_workers=1, what="writing")
    assert isinstance(failure, WorkerFailure) and failure.is_of_all and failure.is_expected
