"""The help of every command: complete, and fast, since nothing heavy is imported to print it."""

import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from autoseg.errors import EXIT_CODE_HELP

COMMANDS = ("plan", "train", "predict", "evaluate", "demo")
HEAVY_MODULES = ("torch", "numpy", "scipy", "nibabel", "SimpleITK", "pydantic", "matplotlib", "blosc2")
MAX_CPU_SECONDS = 1.0

CHILD = textwrap.dedent(
    """
    import importlib, json, sys, time
    code = importlib.import_module(sys.argv[1]).main(["--help"])
    report = {"code": code, "cpu_seconds": time.process_time(), "modules": sorted(sys.modules)}
    print(json.dumps(report), file=sys.stderr)
    """
)


def ask_for_help(command):
    """Run `--help` in a fresh process; return what it printed and what it did."""
    module = f"autoseg.cli.{command}"
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} does not exist yet")
    result = subprocess.run([sys.executable, "-c", CHILD, module], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(result.stderr.splitlines()[-1])


@pytest.fixture(scope="module", params=COMMANDS)
def help_of(request):
    return request.param, *ask_for_help(request.param)


def test_help_exits_0_with_an_example_and_the_exit_codes(help_of):
    command, printed, report = help_of
    assert report["code"] == 0
    assert f"usage: autoseg_{command}" in printed
    assert f"example:\n  autoseg_{command} " in printed
    assert EXIT_CODE_HELP in printed


def test_help_imports_nothing_heavy(help_of):
    _, _, report = help_of
    assert [name for name in HEAVY_MODULES if name in report["modules"]] == []


def test_help_takes_under_a_second(help_of):
    _, _, report = help_of
    assert 0 < report["cpu_seconds"] < MAX_CPU_SECONDS


def test_help_covers_every_installed_command():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    installed = re.findall(r'^autoseg_(\w+) = "autoseg\.cli\.(\w+):main"$', text, flags=re.MULTILINE)
    assert installed == [(command, command) for command in COMMANDS]
