"""Two runs on one folder, and runs that are stopped from outside; the runs are real processes."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import TINY_OPTIONS, call_main

import autoseg.planning.fingerprint.extract
import autoseg.training.trainer
from autoseg.inference.predictor import Predictor
from autoseg.system.signals import SIGNALS

LONGEST_SECONDS = 20
SETTINGS = ("training.batch_slices=8", "training.steps_per_epoch=2", "training.epochs=20")


@pytest.fixture
def run(tiny_run):
    """Give a planned run whose training takes a moment; its dataset is beside it."""
    return tiny_run(*SETTINGS)


@pytest.fixture
def holder():
    """Give a starter of processes that hold a folder and do nothing else."""
    started = []

    def hold(folder, *, command, is_shared=False):
        folder.mkdir(parents=True, exist_ok=True)
        program = (
            "import sys, time; from pathlib import Path; from autoseg.system.file_lock import hold_folder\n"
            f"with hold_folder(Path(sys.argv[1]), command={command!r}, remedy='', is_shared={is_shared}):\n"
            "    print('held', flush=True); time.sleep(60)"
        )
        process = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.communicate()


def arguments_of(verb, *, run, model, out):
    data = run.parent / "data"
    return {
        "plan": ("plan", data, "-o", run, "--memory-gib", 4, "--num-workers", 1, *TINY_OPTIONS),
        "train": ("train", run, "--epochs", "1"),
        "predict": ("predict", "-m", model, "-i", data / "imagesTr", "-o", out),
    }[verb]


@pytest.mark.fault("locked-folder")
def test_a_folder_that_another_run_has_is_refused_and_taken_at_once_from_a_killed_one(
    run, holder, command, model_file, tmp_path
):
    out = tmp_path / "out"
    folders = {"plan": run, "train": run / "fold_all", "predict": out}
    for verb, folder in folders.items():
        arguments = arguments_of(verb, run=run, model=model_file, out=out)
        process = holder(folder, command=f"autoseg_{verb}")
        refused = command(*arguments)
        assert refused.code == 75, refused.text
        assert f"{folder}: another autoseg_{verb} (process {process.pid} on " in refused.text
        assert "works on it. Wait for it" in refused.text
        process.kill()
        process.wait()
        taken = command(*arguments)
        assert taken.code == 0, taken.text


@pytest.mark.fault("locked-folder")
def test_what_would_hurt_each_other_waits_and_what_would_not_goes_on(run, holder, command, model_file, tmp_path):
    """A plan replaces cases that training reads; a prediction tidies up what a plan is writing in the same folder."""
    training = holder(run, command="autoseg_train", is_shared=True)
    planned = command(*arguments_of("plan", run=run, model=model_file, out=tmp_path))
    assert planned.code == 75 and f"another autoseg_train (process {training.pid}" in planned.text
    trained = command(*arguments_of("train", run=run, model=model_file, out=tmp_path))  # another fold
    assert trained.code == 0, trained.text
    training.kill()
    training.wait()
    holder(run, command="autoseg_plan")
    for verb in ("train", "predict"):
        refused = command(*arguments_of(verb, run=run, model=model_file, out=run))
        assert refused.code == 75 and f"{run}: another autoseg_plan (process" in refused.text, refused.text
    into_the_store = command(*arguments_of("predict", run=run, model=model_file, out=run / "preprocessed"))
    assert into_the_store.code == 2 and "autoseg_plan keeps the cases of a run there" in into_the_store.text


@pytest.mark.fault("locked-folder")
def test_a_file_system_without_locks_is_named(run, command, model_file, tmp_path, monkeypatch):
    def flock(_handle, _kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    for verb in ("plan", "train", "predict"):
        refused = command(*arguments_of(verb, run=run, model=model_file, out=tmp_path / "out"))
        assert refused.code == 2, refused.text
        assert ".lock cannot be locked: No locks available. The file system has no locks; choose" in refused.text


class Forked:
    """A command in a process of its own, with its children in its session."""

    def __init__(self, arguments, *, marker):
        verb, *rest = map(str, arguments)
        self.marker = marker
        self.process = os.fork()
        if self.process == 0:
            os.setsid()
            for number in SIGNALS:  # whatever the tests were started by ignores, as nohup does
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            code = 1
            try:
                code = call_main(verb, *rest)
            finally:
                os._exit(code)

    def wait_until_at_work(self):
        deadline = time.monotonic() + LONGEST_SECONDS
        while not self.marker.exists():
            assert time.monotonic() < deadline, "it never came to work"
            assert os.waitpid(self.process, os.WNOHANG) == (0, 0), "it ended by itself"
            time.sleep(0.01)
        return self.num_processes()

    def stop(self, *signals):
        """Send signals, and return exit code and seconds until the process was gone."""
        start = time.monotonic()
        for number in signals:
            os.kill(self.process, number)
        while (ended := os.waitpid(self.process, os.WNOHANG)) == (0, 0):
            if time.monotonic() - start > LONGEST_SECONDS:
                os.killpg(self.process, signal.SIGKILL)
                pytest.fail("it does not end")
            time.sleep(0.01)
        return os.waitstatus_to_exitcode(ended[1]), time.monotonic() - start

    def num_processes(self):
        """Count the processes of its session that have not ended."""
        count = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                state, _parent, _group, session = path.read_text().rsplit(")", 1)[1].split()[:4]
            except OSError:  # it ended just now
                continue
            count += int(session) == self.process and state != "Z"
        return count


@pytest.fixture
def slow(monkeypatch, tmp_path):
    """Let plan, train and predict mark when they are at work, and take their time."""
    marker = tmp_path / "at_work"

    def slowly(real, *, from_call=0):
        calls = []

        def work(*arguments, **more):
            calls.append(None)
            if len(calls) > from_call:
                marker.touch()
                for _ in range(3000):
                    time.sleep(0.01)
            return real(*arguments, **more)

        return work

    scan_case, train_step = autoseg.planning.fingerprint.extract.scan_case, autoseg.training.trainer.train_step
    monkeypatch.setattr(autoseg.planning.fingerprint.extract, "scan_case", slowly(scan_case))
    monkeypatch.setattr(autoseg.training.trainer, "train_step", slowly(train_step, from_call=1))
    monkeypatch.setattr(Predictor, "find_labels", slowly(Predictor.find_labels, from_call=1))
    return marker


PLAN_STOPS = [
    ((signal.SIGINT,), 130, "stopped by Ctrl-C"),
    ((signal.SIGTERM,), 143, "stopped by SIGTERM"),
    ((signal.SIGHUP,), 129, "stopped by the end of its terminal"),
    ((signal.SIGTERM, signal.SIGTERM), 143, "stopped by SIGTERM"),
    ((signal.SIGINT, signal.SIGINT, signal.SIGTERM), 130, "stopped by Ctrl-C"),
    ((signal.SIGKILL,), -9, ""),
]


@pytest.mark.fault("signals")
@pytest.mark.parametrize(("signals", "code", "words"), PLAN_STOPS)
def test_plan_ends_with_its_workers_and_one_line(make_dataset, command, slow, tmp_path, capfd, signals, code, words):
    root, run = make_dataset(), tmp_path / "run"
    planning = Forked(("plan", root, "-o", run, "--num-workers", "2"), marker=slow)
    assert planning.wait_until_at_work() >= 2  # it and its workers
    ended, seconds = planning.stop(*signals)
    assert ended == code and seconds < 5
    text = capfd.readouterr().err
    assert text.count(words) == 1 if words else not text
    assert "Traceback" not in text and "at_work" not in text
    deadline = time.monotonic() + 2  # the system ends them with their parent, in its own time
    while planning.num_processes() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert planning.num_processes() == 0
    assert not list(run.rglob(".writing-*"))


@pytest.mark.fault("signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_predict_keeps_what_is_finished(make_dataset, command, model_file, slow, tmp_path, monkeypatch, number, code):
    arguments = ("predict", "-m", model_file, "-i", make_dataset() / "imagesTr", "-o", tmp_path / "out")
    predicting = Forked(arguments, marker=slow)
    predicting.wait_until_at_work()
    ended, seconds = predicting.stop(number)
    assert ended == code and seconds < 5 and predicting.num_processes() == 0
    assert [path.name for path in (tmp_path / "out").glob("*.nii.gz")] == ["good_0.nii.gz"]
    monkeypatch.undo()
    again = command(*arguments)
    assert again.code == 0 and "3 of 3 cases predicted (1 of them by an earlier run)" in again.text, again.text


def local_ranks_of(run):
    """Count the ranks that a training started; they have sessions of their own."""
    mark = f"autoseg.cli.train\0{run}\0--fold".encode()
    return sum(mark in read_or_nothing(path) for path in Path("/proc").glob("[0-9]*/cmdline"))


def read_or_nothing(path):
    try:
        return path.read_bytes()
    except OSError:  # it ended just now
        return b""


@pytest.mark.fault("signals")
@pytest.mark.parametrize(("number", "code", "num_processes"), [(signal.SIGINT, 130, 1), (signal.SIGTERM, 143, 2)])
def test_train_saves_its_state_and_ends_its_processes(run, slow, capfd, monkeypatch, number, code, num_processes):
    import torch

    # Asked for, not set: torch's threads do not live on in a fork, which would wait for them.
    monkeypatch.setattr(torch, "get_num_threads", lambda: num_processes)
    monkeypatch.setattr(torch, "set_num_threads", lambda _number: None)
    training = Forked(("train", run, "--epochs", "5"), marker=slow)
    training.wait_until_at_work()
    assert local_ranks_of(run) == num_processes - 1
    ended, seconds = training.stop(number)
    assert ended == code and seconds < 5
    assert training.num_processes() == local_ranks_of(run) == 0
    text = capfd.readouterr().err
    assert "the same command continues" in text and "Traceback" not in text
    if num_processes > 1:
        return  # how it goes on is the same, and takes seconds
    monkeypatch.undo()
    assert call_main("train", run, "--epochs", 1) == 0
    assert "continuing at step 1" in capfd.readouterr().err


@pytest.mark.fault("signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_modules_are_loaded_is_heard(make_dataset, tmp_path, number):
    """Some packages swallow what is raised while they try out what is there."""
    arguments = [sys.executable, "-m", "autoseg.cli.plan", make_dataset(), "-o", tmp_path / "run", "--device", "cpu"]
    program = (
        "import os, sys, threading\nfrom autoseg.cli import plan\n"
        "def work(arguments):\n"
        f"    threading.Timer(0.05, os.kill, (os.getpid(), {int(number)})).start()\n"
        "    return real(arguments)\n"
        "real, plan._work = plan._work, work\nsys.exit(plan.main(sys.argv[1:]))"
    )
    ended = subprocess.run([sys.executable, "-c", program, *arguments[3:]], capture_output=True, text=True, timeout=60)
    assert ended.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number], ended.stderr
    assert "stopped by" in ended.stderr and "Traceback" not in ended.stderr
    assert not (tmp_path / "run" / "splits.json").exists()


@pytest.mark.fault("signals")
def test_output_that_nobody_reads_is_no_bug(make_dataset):
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "autoseg.cli.plan", str(make_dataset(1)), "--check"]
    ended = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert ended.returncode == 141
    assert ended.stderr == ""
