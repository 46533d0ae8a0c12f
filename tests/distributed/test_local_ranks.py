"""The ranks that a CPU's cores get: what they run, and one that ends before the training begins."""

import json
import os
import sys

import pytest

from autoseg.distributed import local_ranks
from autoseg.distributed.local_ranks import start_local_ranks
from autoseg.errors import TrainingError


def test_every_rank_searches_modules_where_this_process_does(tmp_path, monkeypatch):
    """An installed package lies beside modules that have names of the standard library, such as a backport."""
    (tmp_path / "argparse.py").write_text("raise ImportError('the wrong one')")
    (tmp_path / "show_path.py").write_text(
        "import argparse, json, os, sys\n"
        "found = {'path': sys.path, 'arguments': sys.argv[1:], 'rank': os.environ['RANK']}\n"
        "open(sys.argv[1], 'w').write(json.dumps(found))\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    output = tmp_path / "found.json"
    process = local_ranks._start(["show_path", str(output), "a b"], {"RANK": "1"})
    assert process.wait(60) == 0
    found = json.loads(output.read_text())
    assert found == {"path": sys.path, "arguments": [str(output), "a b"], "rank": "1"}


def test_a_rank_that_ends_before_the_training_is_an_error_at_once(capfd):
    environment = dict(os.environ)
    with pytest.raises(TrainingError, match="exit code 1"), start_local_ranks(["no_such_module"], world_size=2):
        raise AssertionError("nobody came")
    assert "no_such_module" in capfd.readouterr().err  # its own message
    assert dict(os.environ) == environment


def test_one_rank_starts_nothing():
    with start_local_ranks(["no_such_module"], world_size=1) as group:
        assert group is None
