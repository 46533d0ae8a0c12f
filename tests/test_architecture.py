"""Imports go one way, and each heavy dependency has one door, as docs/architecture.md says."""

import ast
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autoseg"
# from the ground up: a part imports from the layers below its own, and from the parts of its own layer
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("system", "distributed"),
    ("io", "config", "hub"),
    ("datasets",),
    ("organs",),
    ("preprocessing", "network"),
    ("planning", "evaluation", "inference"),
    ("export",),
    ("training",),
    ("pipelines",),
    ("cli", "demo", "__init__"),
)
# a heavy dependency, and the only files or folders that import it
DOORS: dict[str, tuple[str, ...]] = {
    "nibabel": ("io/nifti_header.py", "io/nifti_geometry.py"),
    "highdicom": ("export/dicom_seg.py",),
    "pydicom": ("export/dicom_seg.py",),
    "SimpleITK": ("io/dicom.py", "io/array_input.py"),
    "sam2": ("network/sam2_modules.py",),
    "open_clip": ("network/text/open_clip_models.py",),
    "huggingface_hub": ("hub/",),
    "batchgenerators": ("training/data/augmentation.py",),
    "threadpoolctl": ("training/data/augmentation.py",),
    "blosc2": ("preprocessing/array_file.py",),
    "matplotlib": ("training/logging/progress_plot.py", "demo/overlay.py"),
    "filelock": ("system/file_lock.py",),
    "fcntl": ("system/file_lock.py",),
    "tqdm": ("system/progress.py",),
    "PIL": ("export/slice_pictures.py", "export/preview.py"),
    "jinja2": ("export/report.py", "planning/report_page.py"),
    "cc3d": ("inference/connected_components.py",),
    "acvl_utils": ("inference/tiles.py",),
    "torch": (
        *("network/", "inference/", "training/", "pipelines/", "distributed/", "cli/"),
        *(
            "export/run_files.py",
            "preprocessing/inverse.py",
            "preprocessing/argmax.py",
            "system/torch_device.py",
            "system/out_of_memory.py",
        ),
    ),
    "torchvision": ("network/",),
}


def files_of_package() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imports_of(file: str) -> Iterator[tuple[int, str]]:
    """Yield line and full dotted name of everything a file imports; also what stands inside functions."""
    for node in ast.walk(ast.parse((PACKAGE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: relative imports hide the direction; write autoseg..."
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def part_of(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


def test_every_part_of_the_package_has_its_layer():
    files = files_of_package()
    assert len(files) > 30
    assert {part_of(file) for file in files} == {part for layer in LAYERS for part in layer}
    assert {file for file in files if "/" not in file} == {"__init__.py", "errors.py"}


@pytest.mark.parametrize("file", files_of_package())
def test_imports_go_down(file):
    level = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    for line, name in imports_of(file):
        root, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if root == "autoseg" and target in level:
            assert level[target] <= level[part_of(file)], f"{file}:{line} imports {name}, which builds on it"


def test_no_folder_holds_more_than_a_screen_of_modules():
    folders = Counter(str(Path(file).parent) for file in files_of_package())
    assert {folder: count for folder, count in folders.items() if count > 14} == {}


def test_files_that_docstrings_name_exist():
    """A path is relative to the file's own folder, or a part of one inside the project."""
    root = PACKAGE.parent
    folders = (PACKAGE, *(root / name for name in ("dataset_conversion", "plans", "tests", "tools", "docs")))
    known = [f"/{path.relative_to(root)}" for folder in folders for path in (folder, *folder.rglob("*"))]
    missing = []
    for path in (*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        for named in re.findall(r"`([\w./]+(?:\.py|/))`", docstring):
            if not any(one.endswith(f"/{named.rstrip('/')}") for one in known):
                missing.append(f"{path.relative_to(root)}: {named}")
    assert missing == []


@pytest.mark.parametrize("file", files_of_package())
def test_files_and_functions_are_short(file):
    source = (PACKAGE / file).read_text(encoding="utf-8")
    assert source.count("\n") <= 300
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            has_docstring = ast.get_docstring(node) is not None
            docstring = node.body[0].end_lineno - node.body[0].lineno + 1 if has_docstring else 0
            assert node.end_lineno - node.lineno + 1 - docstring <= 60, f"{file}:{node.lineno} {node.name}"


@pytest.mark.parametrize("file", files_of_package())
def test_heavy_dependencies_come_through_their_door(file):
    for line, name in imports_of(file):
        doors = DOORS.get(name.split(".")[0])
        if doors is not None:
            is_door = any(file == door or (door.endswith("/") and file.startswith(door)) for door in doors)
            assert is_door, f"{file}:{line} imports {name}; its door is {' or '.join(doors)}"


@pytest.mark.parametrize("file", files_of_package())
def test_imports_are_the_standard_library_ours_or_declared(file):
    """A package that only comes along with another one would vanish one day."""
    declared = {
        "torch",
        "torchvision",
        "sam2",
        "open_clip",
        "huggingface_hub",
        "numpy",
        "scipy",
        "SimpleITK",
        "nibabel",
        "batchgenerators",
        "threadpoolctl",
    }
    declared |= {
        "acvl_utils",
        "cc3d",
        "skimage",
        "tqdm",
        "pydantic",
        "blosc2",
        "safetensors",
        "filelock",
        "jinja2",
        "matplotlib",
        "PIL",
    }
    extras = {"export/dicom_seg.py": {"highdicom", "pydicom"}}  # of pyproject.toml
    declared |= extras.get(file, set())
    for line, name in imports_of(file):
        root = name.split(".")[0]
        assert root in declared | {"autoseg"} or root in sys.stdlib_module_names, f"{file}:{line} imports {name}"
