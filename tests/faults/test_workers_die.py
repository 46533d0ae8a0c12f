"""Worker processes that die, and bugs that one case brings to light: the others are finished, and nothing hangs."""

import faulthandler
import json
import os
import signal

import pytest

import autoseg.pipelines.preprocess
import autoseg.planning.fingerprint.extract
from autoseg.inference.predictor import Predictor

pytestmark = pytest.mark.fault("dead-worker")
LONGEST_SECONDS = 60  # a run takes one or two


@pytest.fixture(autouse=True)
def nothing_hangs():
    def too_long(_number, _frame):
        raise TimeoutError("a run hangs")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def exit_with_nine():
    os._exit(9)


def segfault():
    faulthandler.disable()  # which pytest has on, and which would print a page
    os.kill(os.getpid(), signal.SIGSEGV)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def find_no_memory():
    raise MemoryError("8 GiB")


@pytest.fixture
def die(monkeypatch):
    """Let cases end the process that works on them: (step, {case: how}, once=only at the first try in this folder)."""
    modules = {
        "scan_case": autoseg.planning.fingerprint.extract,
        "_preprocess_to_store": autoseg.pipelines.preprocess,
    }

    def let_die(step, deaths, *, once=None):
        real = getattr(modules[step], step)

        def work(case, **more):
            marker = None if once is None else once / case.case_id
            if case.case_id in deaths and not (marker is not None and marker.exists()):
                if marker is not None:
                    marker.touch()
                deaths[case.case_id]()
            return real(case, **more)

        monkeypatch.setattr(modules[step], step, work)

    return let_die


DEATHS = {"good_0": exit_with_nine, "good_2": segfault, "good_3": be_killed, "good_4": find_no_memory}
WORDS = {
    "good_0": "its process ended with exit code 9, twice",
    "good_2": "its process was ended by SIGSEGV, twice",
    "good_3": "its process was ended by SIGKILL, twice. Check the case. Often this means that the memory was full",
    "good_4": "the memory was full (8 GiB). Use fewer workers, or a machine with more memory",
}


@pytest.mark.parametrize(("step", "workers"), [("scan_case", 2), ("_preprocess_to_store", 2), ("scan_case", 1)])
def test_cases_whose_process_dies_are_named_and_the_others_are_planned(
    make_dataset, command, die, tmp_path, step, workers, monkeypatch
):
    monkeypatch.setattr(autoseg.pipelines.preprocess, "BYTES_WORTH_A_PROCESS", 0)
    root, run = make_dataset(6), tmp_path / "run"
    die(step, DEATHS)
    planned = command("plan", root, "-o", run, "--num-workers", workers)
    assert planned.code == 4, planned.text
    assert "4 of 6 cases cannot be used" in planned.text and "--on-bad skip" in planned.text
    skipped = command("plan", root, "-o", run, "--num-workers", workers, "--on-bad", "skip")
    assert skipped.code == 3, skipped.text
    for case, words in WORDS.items():
        assert words in skipped.text and f"{case}: its process died, or found no memory" in planned.text
    used = {name for fold in json.loads((run / "splits.json").read_text()) for part in fold.values() for name in part}
    assert used == {"good_1", "good_5"}
    assert {path.parent.name for path in run.glob("preprocessed/*/case.json")} == used


@pytest.mark.parametrize("step", ["scan_case", "_preprocess_to_store"])
def test_a_case_whose_process_died_once_is_done_at_the_second_try(make_dataset, command, die, tmp_path, step):
    (tmp_path / "died").mkdir()
    die(step, {"good_1": be_killed, "good_0": find_no_memory}, once=tmp_path / "died")
    planned = command("plan", make_dataset(), "-o", tmp_path / "run", "--num-workers", 2)
    assert planned.code == 0, planned.text
    assert "good_1: its process died, or found no memory; it is tried once more, alone." in planned.text
    assert len(list((tmp_path / "run").glob("preprocessed/*/case.json"))) == 3


def test_where_no_process_can_be_started_the_work_is_done_without(make_dataset, command, tmp_path, monkeypatch):
    def refuse(_self):
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr("multiprocessing.context.ForkProcess.start", refuse)
    planned = command("plan", make_dataset(), "-o", tmp_path / "run", "--num-workers", 2)
    assert planned.code == 0, planned.text
    assert "no more than 0 worker processes can be started (Resource temporarily unavailable)" in planned.text


def test_a_bug_in_one_case_is_that_cases_affair_in_prediction(make_dataset, model_file, command, tmp_path, monkeypatch):
    real, calls = Predictor.find_labels, []

    def find_labels(self, channels, **more):
        calls.append(None)
        if len(calls) == 2:
            raise ValueError("shapes do not match")
        if len(calls) == 3:
            raise MemoryError("8 GiB")
        return real(self, channels, **more)

    monkeypatch.setattr(Predictor, "find_labels", find_labels)
    out, scans = tmp_path / "out", make_dataset(4) / "imagesTr"
    predicted = command("predict", "-m", model_file, "-i", scans, "-o", out)
    assert predicted.code == 3, predicted.text
    assert 'raise ValueError("shapes do not match")' in predicted.text  # the traceback, for the report of the bug
    assert "good_1: not predicted: ValueError: shapes do not match (a bug of autoseg" in predicted.text
    assert "good_2: not predicted: the memory was full (8 GiB). Close other programs" in predicted.text
    assert sorted(path.name for path in out.glob("*.nii.gz")) == ["good_0.nii.gz", "good_3.nii.gz"]
    again = command("predict", "-m", model_file, "-i", scans, "-o", out)
    assert again.code == 0 and "4 of 4 cases predicted (2 of them by an earlier run)" in again.text
