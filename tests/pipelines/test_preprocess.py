import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg.config.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.datasets.dataset import CaseFiles
from autoseg.distributed.ranks import Ranks
from autoseg.errors import Problem
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import write_label_map, write_scan
from autoseg.pipelines import preprocess as preprocess_pipeline
from autoseg.pipelines.preprocess import preprocess_dataset
from autoseg.preprocessing.store import CaseStore

PLAN = DataPlan(
    channels=(ChannelPlan(name="T1", normalization="zscore"),),
    organs=(OrganPlan(name="spleen", value=4, sentences=("an organ",)),),
    target_spacing_zyx_mm=(1, 1, 1),
    slice_axis="z",
)


def write_case(folder: Path, case_id: str, *, value: int = 4, seed: int = 0) -> CaseFiles:
    geometry = ImageGeometry.from_spacing((4, 8, 6), (1, 1, 1))
    image, label = folder / f"{case_id}_0000.nii.gz", folder / f"{case_id}.nii.gz"
    write_scan(image, np.random.default_rng(seed).uniform(1, 9, (4, 8, 6)).astype(np.float32), geometry=geometry)
    labels = np.zeros((4, 8, 6), np.uint8)
    labels[2, 3, 4] = value
    write_label_map(label, labels, geometry=geometry, names={4: "spleen"})
    return CaseFiles(case_id, (image,), label, case_id)


@pytest.fixture
def cases(tmp_path: Path) -> list[CaseFiles]:
    (tmp_path / "raw").mkdir()
    return [write_case(tmp_path / "raw", name, seed=seed) for seed, name in enumerate("abc")]


def bytes_in(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found
    return found


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_preprocess_dataset_writes_every_case(
    cases: list[CaseFiles], tmp_path: Path, num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess_pipeline, "BYTES_WORTH_A_PROCESS", 0)
    assert preprocess_dataset(cases, plan=PLAN, store_folder=tmp_path / "store", num_workers=num_workers) == []
    store = CaseStore(tmp_path / "store", data_hash=PLAN.hash())
    assert store.case_ids() == ["a", "b", "c"]
    assert np.argwhere(store.open_labels("b")[:]).tolist() == [[2, 3, 4]]
    assert abs(float(store.open_image("b")[:].mean())) < 1e-6


def test_processes_and_one_process_write_the_same_bytes(
    cases: list[CaseFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preprocess_pipeline, "BYTES_WORTH_A_PROCESS", 0)
    for num_workers in (1, 3):
        preprocess_dataset(cases, plan=PLAN, store_folder=tmp_path / str(num_workers), num_workers=num_workers)
    assert bytes_in(tmp_path / "1") == bytes_in(tmp_path / "3")


def test_preprocess_dataset_again_touches_only_what_changed(cases: list[CaseFiles], tmp_path: Path) -> None:
    store = tmp_path / "store"
    preprocess_dataset(cases, plan=PLAN, store_folder=store, num_workers=1)
    before = {name: (store / name).stat().st_ino for name in "abc"}
    assert cases[1].label_path is not None
    os.utime(cases[1].label_path, ns=(1, 1))
    preprocess_dataset(cases[:2], plan=PLAN, store_folder=store, num_workers=1)
    after = {name: (store / name).stat().st_ino for name in "abc"}
    assert [name for name in "abc" if before[name] != after[name]] == ["b"]


def test_preprocess_dataset_with_another_plan_replaces_all(cases: list[CaseFiles], tmp_path: Path) -> None:
    preprocess_dataset(cases, plan=PLAN, store_folder=tmp_path / "store", num_workers=1)
    other = PLAN.model_copy(update={"slice_axis": "x"})
    preprocess_dataset(cases, plan=other, store_folder=tmp_path / "store", num_workers=1)
    store = CaseStore(tmp_path / "store", data_hash=other.hash())
    assert [store.shape(name) for name in "abc"] == [(1, 6, 4, 8)] * 3


def test_bad_cases_are_reported_by_name_and_stop_no_other(cases: list[CaseFiles], tmp_path: Path) -> None:
    image = cases[0].image_paths[0]
    image.write_bytes(image.read_bytes()[:-30])
    cases[2] = write_case(tmp_path / "raw", "c", value=5)
    missing = CaseFiles("d", (tmp_path / "raw" / "d.nii.gz",), None, "d")
    bad_id = CaseFiles("..", cases[1].image_paths, None, "d")
    problems = preprocess_dataset([*cases, missing, bad_id], plan=PLAN, store_folder=tmp_path / "store", num_workers=1)
    found = {problem.case_id: problem.message for problem in problems}
    assert set(found) == {"a", "c", "d", ".."}
    assert "a_0000.nii.gz" in found["a"]
    assert "5 (1 voxels)" in found["c"]
    assert CaseStore(tmp_path / "store").case_ids() == ["b"]


def test_leftovers_of_a_killed_run_are_removed(cases: list[CaseFiles], tmp_path: Path) -> None:
    (tmp_path / "store" / ".writing-old").mkdir(parents=True)
    preprocess_dataset(cases, plan=PLAN, store_folder=tmp_path / "store", num_workers=1)
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["a", "b", "c"]


def test_a_run_killed_at_any_moment_and_repeated_equals_an_undisturbed_one(
    cases: list[CaseFiles], tmp_path: Path
) -> None:
    work = partial(preprocess_dataset, cases, plan=PLAN, num_workers=0)
    work(store_folder=tmp_path / "undisturbed")
    for kill_at in (3, 40, 90, 150):  # calls into the modules of autoseg before SIGKILL arrives
        store = tmp_path / f"killed_{kill_at}"
        child = os.fork()
        if child == 0:
            _kill_after(kill_at)
            work(store_folder=store)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        assert work(store_folder=store) == []
        assert bytes_in(store) == bytes_in(tmp_path / "undisturbed")


def _kill_after(num_calls: int) -> None:
    count = 0

    def trace(frame, event, argument):
        nonlocal count
        count += "autoseg" in frame.f_code.co_filename
        if count >= num_calls:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(1)

    sys.settrace(trace)


@pytest.mark.data
def test_real_scans_come_back_as_they_were(tmp_path: Path) -> None:
    import torch

    from autoseg.datasets.dataset import read_dataset
    from autoseg.io.image import read_labels
    from autoseg.preprocessing.inverse import undo_preprocessing

    folder = Path(__file__).parents[2] / "../shared/data/hippocampus_mri"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    dataset = read_dataset(folder)
    values = [organ.value for organ in dataset.labels.organs]
    plan = PLAN.model_copy(
        update={
            "organs": tuple(OrganPlan(name=o.name, value=o.value, sentences=("x",)) for o in dataset.labels.organs),
            "slice_axis": "y",
        }
    )
    some = dataset.cases[:6]
    assert preprocess_dataset(some, plan=plan, store_folder=tmp_path, num_workers=1) == []
    store = CaseStore(tmp_path, data_hash=plan.hash())
    for case in some:
        assert case.label_path is not None
        indices = store.open_labels(case.case_id)[:]
        maps = [torch.from_numpy(np.stack([indices == k for k in range(len(values) + 1)], axis=1)).float()]
        result = undo_preprocessing(maps, transform=store.read_transform(case.case_id), organ_values=values)
        np.testing.assert_array_equal(result, read_labels(case.label_path).array_zyx)


def test_ranks_share_the_cases_and_all_know_every_problem(
    cases: list[CaseFiles], tmp_path: Path, run_ranks: Callable[..., list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[int, str]] = []
    real = CaseStore.write

    def write(self: CaseStore, case_id: str, *rest: Any, **named: Any) -> None:
        written.append((threading.get_ident(), case_id))
        real(self, case_id, *rest, **named)

    monkeypatch.setattr(CaseStore, "write", write)
    missing = CaseFiles("d", (tmp_path / "no.nii.gz",), None, "d")
    (tmp_path / "store" / ".writing-left").mkdir(parents=True)

    def work(ranks: Ranks) -> list[Problem]:
        folder = tmp_path / "store"
        return preprocess_dataset([*cases, missing], plan=PLAN, store_folder=folder, num_workers=0, ranks=ranks)

    found = run_ranks(work)
    assert found[0] == found[1] and [problem.case_id for problem in found[0]] == ["d"]
    assert sorted(case for _, case in written) == ["a", "b", "c"]
    assert len({rank for rank, _ in written}) == 2
    assert CaseStore(tmp_path / "store", data_hash=PLAN.hash()).case_ids() == ["a", "b", "c"]
    assert not (tmp_path / "store" / ".writing-left").exists()
