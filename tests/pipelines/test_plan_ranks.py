"""Planning by ranks that are threads of this process."""

import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from autoseg.distributed.ranks import Ranks
from autoseg.errors import DatasetError
from autoseg.pipelines import plan as plan_pipeline
from autoseg.pipelines import preprocess as preprocessing
from autoseg.pipelines.plan import PlanRequest, run_plan
from autoseg.planning.fingerprint import extract
from autoseg.system.atomic_files import read_json

FILES = ("dataset_report.json", "fingerprint.json", "plans.json", "splits.json")


@pytest.fixture
def plan_together(run_ranks, monkeypatch):
    """Plan by so many ranks: (request, size) -> outcomes by rank; what each rank read and preprocessed is in `done`."""
    own = threading.local()
    done: dict[str, list[tuple[int, str]]] = {"read": [], "preprocessed": []}

    @contextmanager
    def join_ranks():
        yield own.ranks

    def noting(real, what):
        def note(case, **named):
            done[what].append((own.ranks.rank, case.case_id))
            return real(case, **named)

        return note

    monkeypatch.setattr(plan_pipeline, "join_ranks", join_ranks)
    monkeypatch.setattr(extract, "scan_case", noting(extract.scan_case, "read"))
    work = noting(preprocessing._preprocess_to_store, "preprocessed")
    for module in (extract, preprocessing):  # no process is forked from a thread
        monkeypatch.setattr(module, "map_cases", partial(in_this_process, module.map_cases))
    monkeypatch.setattr(preprocessing, "_preprocess_to_store", work)

    def plan(request, size=2):
        for cases in done.values():
            cases.clear()

        def work(ranks):
            own.ranks = ranks
            return run_plan(request)

        if size == 1:
            return [work(Ranks())]
        return run_ranks(work, size)

    plan.done = done
    return plan


def in_this_process(real, function, items, *, num_workers, what):
    return real(function, items, num_workers=0, what=what)


def request_of(root, run, **more):
    return PlanRequest((root,), run, device="cpu", memory_gib=8, num_workers=1, **more)


def contents(run):
    stored = {str(path.relative_to(run)): path.read_bytes() for path in (run / "preprocessed").rglob("*.*")}
    return {name: (run / name).read_bytes() for name in FILES} | stored


def test_ranks_plan_what_one_plans_and_each_case_is_worked_on_once(make_dataset, tmp_path, plan_together):
    root = make_dataset(5)
    plan_together(request_of(root, tmp_path / "one"), 1)
    outcomes = plan_together(request_of(root, tmp_path / "two"))
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    assert outcomes[0].plans == outcomes[1].plans and outcomes[0].used == outcomes[1].used
    assert outcomes[1].check is None and len(outcomes[0].check.fingerprint.cases) == 5
    for what in ("read", "preprocessed"):
        assert sorted(case for _, case in plan_together.done[what]) == [f"case_{number:03d}" for number in range(5)]
        assert sorted(rank for rank, _ in plan_together.done[what]) == [0, 0, 0, 1, 1]
    assert [path.name for path in (tmp_path / "two").glob("dataset_cache*")] == ["dataset_cache.jsonl"]


def test_ranks_again_read_and_preprocess_nothing(make_dataset, tmp_path, plan_together, caplog):
    root, run = make_dataset(4), tmp_path / "run"
    with caplog.at_level("INFO", logger="autoseg"):
        plan_together(request_of(root, run), 3)
        assert "did not change" not in caplog.text
        before = contents(run)
        plan_together(request_of(root, run), 2)
    assert plan_together.done == {"read": [], "preprocessed": []}
    assert contents(run) == before
    assert "4 of 4 cases did not change; they were not read again." in caplog.text


def test_a_run_that_stops_after_reading_does_not_read_again(make_dataset, tmp_path, plan_together, monkeypatch):
    root, run = make_dataset(4), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), monkeypatch.context() as patch:
        patch.setattr(plan_pipeline, "_check", interrupt)
        plan_together(request_of(root, run))
    assert [path.name for path in run.glob("dataset_cache*")] == ["dataset_cache.jsonl"]
    plan_together(request_of(root, run), 1)
    assert plan_together.done["read"] == []


def interrupt(*_args):
    raise KeyboardInterrupt


def test_a_bad_case_of_another_rank_is_in_the_report_of_the_first(make_dataset, save_nifti, tmp_path, plan_together):
    root = make_dataset(4)
    save_nifti(root / "labelsTr" / "case_001.nii.gz", np.full((6, 10, 12), 9, np.uint8))
    with pytest.raises(DatasetError, match="1 of 4 cases cannot be used"):
        plan_together(request_of(root, tmp_path / "run"))
    outcomes = plan_together(request_of(root, tmp_path / "run", on_bad="skip"))
    assert [outcome.skipped for outcome in outcomes] == [("case_001",)] * 2
    assert read_json(tmp_path / "run" / "dataset_report.json")["num_used"] == 3


def test_a_dataset_that_cannot_be_read_is_told_by_the_first(tmp_path, plan_together):
    (tmp_path / "data").mkdir()
    with pytest.raises(DatasetError):
        plan_together(request_of(tmp_path / "data", tmp_path / "run"))
    assert plan_together.done == {"read": [], "preprocessed": []}
