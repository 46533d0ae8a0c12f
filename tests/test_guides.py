"""What the guides and the README name is there: files, headings, commands with their options, fields, modules."""

import ast
import contextlib
import importlib
import io
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import BaseModel

from autoseg.config.plans import Plans
from dataset_conversion.conversion import convert

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]
COMMANDS = ("plan", "train", "predict", "evaluate", "demo")
INVENTED = "harbour"  # the source that a guide writes a conversion for

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())


@cache
def code_of(page: Path) -> tuple[str, ...]:
    """Give the lines of indented code, continued ones as one, and what stands in backticks."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    lines = [line.strip().removeprefix("$ ") for line in text.splitlines() if line.startswith("    ")]
    prose = "\n".join(line for line in text.splitlines() if not line.startswith("    "))
    return (*lines, *re.findall(r"`([^`\n]+)`", prose))


def blocks_of(page: Path) -> list[str]:
    """Give the blocks of indented Python that begin with a docstring or an import."""
    found: list[list[str]] = [[]]
    for line in page.read_text(encoding="utf-8").splitlines():
        if (line.startswith("    ") and not line.startswith("    $ ")) or (not line and found[-1]):
            found[-1].append(line[4:])
        elif found[-1]:
            found.append([])
    blocks = ["\n".join(lines) for lines in found]
    return [block for block in blocks if re.match(r'"""|import |from \S+ import ', block)]


def slug(heading: str) -> str:
    """Make the anchor of a heading, as GitHub does."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors_of(page: Path) -> frozenset[str]:
    return frozenset(
        slug(one) for one in re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    )


def calls_of(code: str) -> Iterator[tuple[str, str]]:
    """Yield each call of a command in a line of code: its name, and what follows up to the next one."""
    for match in re.finditer(r"(?:autoseg_|-m autoseg\.cli\.)(\w+)(?= |$)((?:(?!autoseg_\w+ | \|).)*)", code):
        yield match[1], re.sub(r'"[^"]*"', "", match[2])


def is_field(name: str) -> bool:
    """Say whether a name such as data.channels.0 is one of a plan's; what lies in a list is not looked at."""
    kind: object = Plans
    for part in name.split("."):
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return bool(get_args(kind)) and part.isdigit()
        if part not in kind.model_fields:
            return False
        kind = kind.model_fields[part].annotation
    return True


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """List the options that the help of each command shows."""
    found = {}
    for name in COMMANDS:
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            assert importlib.import_module(f"autoseg.cli.{name}").main(["--help"]) == 0
        found[name] = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text.getvalue()))
    return found


def test_guides_are_found_and_listed():
    index = (ROOT / "docs" / "guides" / "README.md").read_text(encoding="utf-8")
    names = {page.name for page in GUIDES} - {"README.md"}
    assert {"my_own_dataset.md", "several_datasets.md", "add_an_organ.md"} <= names
    assert [name for name in sorted(names) if f"]({name})" not in index] == []


OF_TORCHRUN = {
    "--nproc-per-node",
    "--nnodes",
    "--node-rank",
    "--rdzv-endpoint",
    "--rdzv-backend",
    "--rdzv-id",
    "--max-restarts",
}


@each_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link for link in links if not re.match(r"https?:", link)]
    for link in local:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors_of(target), link


@each_page
def test_commands_have_the_options_that_are_named(page, options):
    every = set().union(*options.values())
    for code in code_of(page):
        for name, words in calls_of(code):
            assert name in options, code
            assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", words)) <= options[name], code
        if code.startswith("--"):  # an option alone
            assert re.match(r"--[a-z-]+", code)[0] in every | OF_TORCHRUN, code


@each_page
def test_plans_have_the_fields_that_are_named(page):
    for code in code_of(page):
        for field in re.findall(r"--(?:set|explain) '?([a-z][a-z_0-9.]+)", code):
            assert is_field(field) or "PlanError" in code, code


def test_nobody_is_reported_to_install_the_project_of_another():
    texts = [
        path for folder in ("autoseg", "dataset_conversion", "docs", "tools") for path in (ROOT / folder).rglob("*")
    ]
    texts = [path for path in (*ROOT.glob("*.*"), *texts) if path.suffix in (".py", ".md", ".toml", ".html")]
    assert len(texts) > 200
    wrong = r"pip3? install[^\n]*(?<![\w./-])autoseg(?![\w./-])"
    assert re.search(wrong, "pip install -U 'autoseg[dicom]'") and not re.search(
        wrong, "pip install . && .venv/bin/autoseg_demo"
    )
    assert [path.name for path in texts if re.search(wrong, path.read_text(encoding="utf-8"))] == []


def test_the_readme_fits_on_a_few_screens():
    assert len((ROOT / "README.md").read_text(encoding="utf-8")) <= 7000


def test_options_fields_and_links_are_named_at_all():
    assert (
        len([link for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))]) > 80
    )
    calls = [name for page in PAGES for code in code_of(page) for name, _ in calls_of(code)]
    assert len(calls) > 50 and set(calls) == set(COMMANDS)
    assert is_field("data.channels.0") and not is_field("network.bakcbone")


@each_page
def test_conversions_that_are_named_exist(page):
    for name in re.findall(r"python -m dataset_conversion\.([a-z]\w*)", page.read_text(encoding="utf-8")):
        assert name == INVENTED or (ROOT / "dataset_conversion" / f"{name}.py").is_file(), name


@each_page
def test_python_in_guides_imports_what_is_there(page):
    for block in blocks_of(page):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("autoseg", "dataset_conversion"):
                module = importlib.import_module(str(node.module))
                names = [alias.name for alias in node.names if alias.name != INVENTED]
                assert [name for name in names if not hasattr(module, name)] == []


def test_the_conversion_of_the_guide_works(tmp_path, save_scan):
    (code,) = [
        one for one in blocks_of(ROOT / "docs/guides/add_a_dataset_conversion.md") if one.startswith('"""Harbour: ')
    ]
    module: dict[str, object] = {"__name__": INVENTED}
    exec(compile(code, f"{INVENTED}.py", "exec"), module)
    for name in module["CASES"]:
        save_scan(tmp_path / "source" / "scans" / f"{name}.nii.gz", np.arange(8, dtype=np.int16).reshape(2, 2, 2))
        labels = np.array([0, 10, 31, 0, 0, 0, 0, 0], np.uint8).reshape(2, 2, 2)
        save_scan(tmp_path / "source" / "masks" / f"{name}_seg.nii.gz", labels)
    (done,) = convert(module["ORIGIN"], module["find"], tmp_path / "source", out=tmp_path / "out", num_workers=0)
    assert len(done.cases) == 8
    assert [one.message for one in done.problems] == ["no label map holds spleen (2)."]
