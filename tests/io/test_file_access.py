"""Scans come in through a few modules alone: no other one opens a file whose content was made by other programs.

The rule, by the syntax tree: a call that opens or reads a file of bytes (`.open("rb")`, `.read_bytes()`, `nib.load`,
`sitk.ReadImage`, `gzip.open`, `np.load` ..) stands in a door, or in a module of which `OTHER_FILES` says what it reads
there, and that is none of a user's scans. Text, and what is only written, is not looked at. The conversions of datasets
have doors of their own, for files that no scan comes in.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "autoseg"
DOORS = {
    "io/byte_stream.py": "every NIfTI, NRRD and MetaImage file",
    "io/dicom_validation.py": "every DICOM file, before SimpleITK does",
    "io/dicom.py": "every DICOM series",
    "export/dicom_seg.py": "headers of a series that was read before, for the segmentation that refers to them",
}
OTHER_FILES = {
    "cli/common.py": "nowhere, for what is left to be printed",
    "system/file_lock.py": "locks",
    "system/json_lines.py": "its own lines",
    "planning/fingerprint/case_cache.py": "its own lines",
    "system/atomic_files.py": "digests of any file's bytes, and files that are being written",
    "demo/pictures.py": "pictures that the demo wrote",
    "inference/predictor.py": "its own scratch",
    "network/weights/model_format.py": "models",
    "network/weights/sam2_checkpoint.py": "weights of SAM2",
    "preprocessing/array_file.py": "preprocessed cases",
    "training/checkpointing/checkpoints.py": "its own state, and that of rank 0",
}
CONVERSION = ROOT / "dataset_conversion"
CONVERSION_DOORS = {
    "dicom_objects.py": "attributes of DICOM files, after check_dicom_file",
    "numpy_files.py": "arrays of numpy",
    "png_slices.py": "pictures of labels",
}
OPENING_NAMES = {"open", "safe_open"}
OPENING_METHODS = {
    *("open", "read_bytes", "fdopen", "memmap", "fromfile", "load", "loadtxt", "genfromtxt", "load_file"),
    *("from_filename", "from_file_map", "ReadImage", "GetGDCMSeriesIDs", "GetGDCMSeriesFileNames", "SetFileName"),
    *("SetFileNames", "dcmread", "imread", "GzipFile", "BZ2File", "LZMAFile", "ZipFile", "FileIO"),
}


def opening_calls(source: str) -> list[tuple[int, str]]:
    """Give line and text of each call that opens or reads a file of bytes."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        is_name = isinstance(node.func, ast.Name) and node.func.id in OPENING_NAMES
        is_method = isinstance(node.func, ast.Attribute) and node.func.attr in OPENING_METHODS
        if (is_name or is_method) and not (is_text(node) or is_written(node)):
            found.append((node.lineno, ast.unparse(node)))
    return found


def is_text(call: ast.Call) -> bool:
    return any(keyword.arg == "encoding" for keyword in call.keywords)


def is_written(call: ast.Call) -> bool:
    values = [*call.args, *(keyword.value for keyword in call.keywords)]
    words = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
    return any(word[0] in "wax" and set(word) <= set("waxbt+") for word in words if word)


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open('rb')",
        "Path(path).read_bytes()",
        "nib.load(path)",
        "nibabel.Nifti1Image.from_filename(path)",
        "sitk.ReadImage(str(path))",
        "reader.SetFileName(name)",
        "gzip.open(path)",
        "np.memmap(path)",
        "pydicom.dcmread(path)",
        "reader.SetFileNames(names)",
    ],
)
def test_ways_to_open_a_scan_are_seen(line):
    assert len(opening_calls(line)) == 1


@pytest.mark.parametrize(
    "line",
    [
        "stream.read(5)",
        "np.frombuffer(buffer)",
        "read_scan(path)",
        "self._open(case)",
        "path.open(encoding='utf-8')",
        "path.open('wb')",
        "gzip.GzipFile(mode='wb', fileobj=file)",
    ],
)
def test_what_opens_no_file_of_bytes_is_not_taken_for_it(line):
    assert opening_calls(line) == []


@pytest.mark.parametrize(
    ("package", "doors", "other_files"),
    [(PACKAGE, DOORS, OTHER_FILES), (CONVERSION, CONVERSION_DOORS, {})],
)
def test_no_module_but_the_doors_opens_a_scan(package, doors, other_files):
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    calls = {name: opening_calls(path.read_text(encoding="utf-8")) for name, path in files.items()}
    calls = {name: found for name, found in calls.items() if found}
    assert calls.keys() >= doors.keys(), "the doors open files, or this test sees nothing"
    others = {name: found for name, found in calls.items() if name not in {**doors, **other_files}}
    assert others == {}, "read scans through autoseg.io.image, or say in the table of other files which file this is"
    assert other_files.keys() <= calls.keys(), "a module reads nothing any more: take it from the table"
