"""A few points of the kill matrix, which CI goes through as a whole (`tests/proofs/kill_matrix.py`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "proofs" / "kill_matrix.py"
TABLE = Path(__file__).parents[2] / "docs" / "kill_matrix.md"


@pytest.mark.fault("killed")
def test_a_plan_that_was_killed_and_repeated_leaves_what_an_undisturbed_one_leaves():
    command = [sys.executable, SCRIPT, "--only", "plan", "--every", "4"]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "4 of 4 equal"


@pytest.mark.fault("killed")
def test_the_committed_matrix_has_every_point_and_all_are_equal():
    points = re.findall(r'^    Kill\(\s*"(\w+)"', SCRIPT.read_text(), flags=re.MULTILINE)
    rows = re.findall(r"^\| (\w+) \| (.+) \| (.+) \|$", TABLE.read_text(), flags=re.MULTILINE)[1:]
    assert [stage for stage, _, _ in rows] == points
    assert len(points) >= 24 and {result for _, _, result in rows} == {"equal"}
