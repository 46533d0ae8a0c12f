"""Imports go one way, and each heavy dependency has one door, as docs/architecture.md says."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "autoseg"
GROUND = {
    "colors",
    "errors",
    "files",
    "geometry",
    "image_io",
    "nifti_header",
    "pictures",
    "progress",
    "scan_bytes",
    "text_header",
    "voxel_values",
}
GROUND |= {
    "dicom_bytes",
    "dicom_series",
    "image_in_memory",
    "last_words",
    "locks",
    "machine",
    "ranks",
    "roll_call",
    "stopping",
    "workers",
}
DATASET = {
    *("dataset", "dataset_annotations", "dataset_descriptions", "dataset_labels", "dataset_layouts", "dataset_regions"),
    "scans_to_predict",
}
# what each part may import besides itself
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "colors": set(),
    "pictures": {"colors"},
    "files": {"errors"},
    "progress": {"errors", "ranks"},
    "geometry": {"errors"},
    "stopping": {"errors"},
    "locks": {"errors", "files"},
    "workers": {"errors", "files", "machine", "progress", "ranks", "stopping"},
    "last_words": {"errors", "stopping"},
    "roll_call": {"errors", "last_words"},
    "ranks": {"errors", "last_words", "roll_call"},
    "machine": set(),
    "scan_bytes": {"errors"},
    "nifti_header": {"errors", "files", "geometry"},
    "text_header": {"errors", "geometry", "nifti_header"},
    "voxel_values": {"errors"},
    "image_io": {"errors", "files", "geometry", "nifti_header", "scan_bytes", "text_header", "voxel_values"},
    "image_in_memory": {"errors", "geometry", "image_io", "voxel_values"},
    "dicom_bytes": {"errors", "scan_bytes"},
    "dicom_series": {
        *("dicom_bytes", "errors", "files", "geometry", "image_in_memory", "image_io", "nifti_header", "scan_bytes"),
        "voxel_values",
    },
    "dataset_regions": {"errors"},
    "dataset_descriptions": {"errors"},
    "dataset_labels": GROUND | {"dataset_descriptions", "dataset_regions"},
    "dataset_annotations": {"dataset_labels", "errors"},
    "dataset_layouts": GROUND,
    "dataset": GROUND | {"dataset_annotations", "dataset_labels", "dataset_layouts"},
    "scans_to_predict": GROUND | {"dataset_layouts"},
    "data_plan": set(),
    "label_sets": {"data_plan", "errors"},
    "plans": {"data_plan", "errors", "files"},
    "hub_address": {"errors"},
    "hub": {"errors", "files", "hub_address"},
    "descriptions": {"errors", "files"},
    "preprocessing": GROUND | DATASET | {"label_sets", "plans"},
    "planning": GROUND | DATASET | {"descriptions", "hub", "hub_address", "plans", "preprocessing"},
    "network": {"errors", "files", "hub", "hub_address", "plans", "progress", "ranks"},
    "evaluation": GROUND | DATASET | {"descriptions"},
    "inference": GROUND | DATASET | {"descriptions", "network", "plans", "preprocessing"},
    "outputs": GROUND | DATASET | {"inference", "plans", "preprocessing"},
    "prediction": GROUND | DATASET | {"inference", "network", "outputs", "plans", "preprocessing"},
    "training": GROUND
    | DATASET
    | {"descriptions", "evaluation", "hub", "inference", "label_sets", "network", "plans", "preprocessing"},
}
OPEN_TO_ALL = {"cli", "demo", "__init__"}
DOORS: dict[str, tuple[str, ...]] = {
    "nibabel": ("nifti_header.py",),
    "highdicom": ("outputs/dicom_seg.py",),
    "pydicom": ("outputs/dicom_seg.py",),
    "SimpleITK": ("dicom_series.py", "image_in_memory.py"),
    "sam2": ("network/sam2_parts.py",),
    "open_clip": ("network/open_clip_parts.py",),
    "huggingface_hub": ("hub.py",),
    "batchgenerators": ("training/augmentation.py",),
    "threadpoolctl": ("training/augmentation.py",),
    "blosc2": ("preprocessing/array_file.py",),
    "matplotlib": ("training/progress_plot.py", "evaluation/overlay.py"),
    "filelock": ("locks.py",),
    "fcntl": ("locks.py",),
    "tqdm": ("progress.py",),
    "PIL": ("pictures.py", "outputs/preview.py"),
    "jinja2": ("outputs/report.py", "planning/report_page.py"),
    "cc3d": ("inference/specks.py",),
    "acvl_utils": ("inference/tiles.py",),
    "torch": ("network/", "inference/", "outputs/run_files.py", "prediction/", "training/", "cli/", "ranks.py"),
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


def test_every_part_of_the_package_has_its_place():
    files = files_of_package()
    assert len(files) > 30
    parts = {part_of(file) for file in files}
    assert parts <= set(ALLOWED) | OPEN_TO_ALL, "a new part: say in ALLOWED what it may import"
    assert {"planning", "network", "training", "inference", "evaluation"} <= parts


def test_allowed_imports_have_no_circle():
    order: list[str] = []
    while len(order) < len(ALLOWED):
        ready = [part for part in ALLOWED if part not in order and ALLOWED[part] - {part} <= set(order)]
        assert ready, f"a circle among {sorted(set(ALLOWED) - set(order))}"
        order += ready


@pytest.mark.parametrize("file", files_of_package())
def test_imports_go_one_way(file):
    part = part_of(file)
    for line, name in imports_of(file):
        root, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if root != "autoseg" or target == part:
            continue
        assert target != "cli", f"{file}:{line} imports {name}: nothing builds on commands"
        if part not in OPEN_TO_ALL:
            assert target in ALLOWED[part], f"{file}:{line} imports {name}, against the direction of the flow"


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
    extras = {"outputs/dicom_seg.py": {"highdicom", "pydicom"}}  # of pyproject.toml
    declared |= extras.get(file, set())
    for line, name in imports_of(file):
        root = name.split(".")[0]
        assert root in declared | {"autoseg"} or root in sys.stdlib_module_names, f"{file}:{line} imports {name}"
