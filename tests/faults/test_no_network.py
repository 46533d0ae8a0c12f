"""Nothing leaves the machine unasked: no command asks the network for anything, nor does a library that it loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fault("no-network")


def test_no_command_asks_the_network_on_a_run_from_scratch(whole_way):
    assert whole_way.codes == {"plan": 0, "train": 0, "predict": 0, "evaluate": 0}
    assert whole_way.network == ""


def test_the_watcher_sees_and_stops_what_asks_the_network(whole_way):
    """What makes the test above one that can fail."""
    site, log = whole_way.folder.parent / "site", whole_way.folder / "seen.txt"
    ask = (
        "import urllib.request\ntry: urllib.request.urlopen('http://example.invalid', timeout=1)\nexcept OSError: pass"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "NETWORK_LOG": str(log), "NO_PROXY": "*"}
    subprocess.run([sys.executable, "-c", ask], env=environment, check=True, timeout=60)
    assert "example.invalid" in log.read_text()


def test_only_the_doors_know_how_to_ask():
    """The hub and the language model each have one file; both are reached by options that name them alone."""
    package = Path(__file__).parents[2] / "autoseg"
    words = ("urllib.request", "http.client", "import socket", "import requests", "import httpx", "huggingface_hub")
    files = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(word in path.read_text(encoding="utf-8") for word in words)
    }
    assert files == {"organs/llm_texts.py", "hub/download.py"}
