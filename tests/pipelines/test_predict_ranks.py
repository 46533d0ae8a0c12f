"""Several processes that torchrun starts, on one folder."""

import subprocess
import sys

import pytest
import torch

from autoseg.network.build import build_network
from autoseg.network.weights.model_file import save_model
from autoseg.system.atomic_files import read_json


@pytest.mark.slow
def test_two_ranks_share_the_cases_and_give_what_one_gives(tiny_plans, save_scan, rng, tmp_path):
    torch.manual_seed(0)
    plans = tiny_plans(2)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    for number in range(5):
        save_scan(tmp_path / "scans" / f"case_{number}.nii.gz", rng.normal(size=(3, 20, 24)).astype("float32"))
    (tmp_path / "scans" / "case_3.nii.gz").write_bytes(b"no scan")
    arguments = ["-m", str(tmp_path / "model.safetensors"), "-i", str(tmp_path / "scans"), "--device", "cpu"]
    module = ["-m", "autoseg.cli.predict", *arguments]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    outs = {}
    for name, command in (("one", module), ("two", [*torchrun, *module])):
        done = subprocess.run(
            [sys.executable, *command, "-o", str(tmp_path / name)], capture_output=True, text=True, timeout=240
        )
        assert "4 of 5 cases predicted" in done.stdout, done.stderr
        outs[name] = done
    assert outs["two"].stdout.count("cases predicted") == 1
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names | {".lock-1", "cases.1.jsonl"}
    for name in (*(f"case_{number}.nii.gz" for number in (0, 1, 2, 4)), "statistics.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    states = {case["case_id"]: case["is_done"] for case in read_json(tmp_path / "two" / "run.json")["cases"]}
    assert states == {f"case_{number}": number != 3 for number in range(5)}
    again = subprocess.run(
        [sys.executable, *module, "-o", str(tmp_path / "two")], capture_output=True, text=True, timeout=240
    )
    assert "4 of 5 cases predicted (4 of them by an earlier run)" in again.stdout
