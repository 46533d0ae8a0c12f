"""Read ten thousand scans with a damaged header, two thousand with a damaged stream, and two thousand DICOM series.

    python tests/proofs/fuzz_scans.py -o docs/results/fuzzing.json

Every case is made from its number alone, so that it can be made again: `--only headers 1234`. Child processes read
them, with little memory to take and some seconds for each; one that crashes, hangs or raises what is no error of
autoseg's is shown with its number and its first bytes, and the exit code is 1.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK

import autoseg
from autoseg.errors import AutosegError

sys.path.insert(0, str(Path(__file__).parents[1] / "faults"))

import damage
from damage_series import damage_slices, make_slices
from read_scans import memory_limit, read_in_every_way

SHAPE_ZYX = (20, 48, 56)
MORE_MEMORY_BYTES = 256 << 20  # that a child may take for a scan of 0.1 MB: address space, so that bad wishes fail too
SECONDS_A_CASE = 20
CASES_A_CHILD = 250
SHOWN_BYTES = 600
NUMBERS = {"headers": 10_000, "streams": 2_000, "series": 2_000}
MOST_SERIES_BYTES = 64 << 20  # GDCM and SimpleITK load parts of themselves as they are needed


def make_wholes() -> dict[str, tuple[bytes, int]]:
    """Give undamaged files by name, unpacked where they are NIfTI, and the length of each one's header."""
    rng = np.random.default_rng(0)
    noise = rng.normal(100, 20, SHAPE_ZYX).cumsum(axis=2)
    labels = (noise > noise.mean()).astype(np.uint8)
    big = nib.Nifti1Image(noise.astype(np.float32).T, np.eye(4), nib.Nifti1Header(endianness=">"))
    images = {
        "nifti1 int16": damage.nifti(noise.astype(np.int16)),
        "nifti1 uint8": damage.nifti(labels),
        "nifti1 float32 big-endian": big.to_bytes(),
        "nifti2 float64": damage.nifti(noise, kind=nib.Nifti2Image),
        "nifti1 4D": damage.nifti(np.stack([noise, noise]).astype(np.int16)),
    }
    wholes = {name: (content, 540 if "nifti2" in name else 352) for name, content in images.items()}
    for is_packed in (False, True):
        for make in (damage.nrrd, damage.metaimage):
            content = make(noise.astype(np.int16), is_packed=is_packed)
            ends = {damage.nrrd: b"\n\n", damage.metaimage: b"LOCAL\n"}
            end = content.index(ends[make]) + len(ends[make])
            wholes[f"{make.__name__}{' packed' if is_packed else ''}"] = content, end
    return wholes


def make_case(what: str, number: int, wholes: dict[str, tuple[bytes, int]]) -> tuple[str, bytes]:
    """Make a damaged file from its number; gives the name of the undamaged one too."""
    rng = np.random.default_rng([len(what), number])
    name = list(wholes)[number % len(wholes)]
    content, length = wholes[name]
    is_nifti = name.startswith("nifti")
    if what == "headers":
        if not is_nifti:
            return name, damage.random_text_changed(content, rng, length=length)
        if name.startswith("nifti1 int16") and rng.integers(0, 2):
            for _ in range(rng.integers(1, 4)):
                content = damage.random_field(content, rng)
        else:
            content = damage.random_bytes_changed(content, rng, length=length)
        return name, damage.packed(content) if rng.integers(0, 4) else content
    if is_nifti and rng.integers(0, 4):
        middle = len(content) // 2  # of two members, as bgzip and pigz write them
        pieces = [content[:middle], content[middle:]] if rng.integers(0, 3) == 0 else [content]
        content = b"".join(map(damage.packed, pieces))
    for _ in range(rng.integers(1, 3)):
        content = damage.random_stream_damage(content, rng) or b"\0"
    return name, content


def work_on_series(first: int, last: int, folder: Path) -> None:
    """Read some series and print a line of JSON for each; runs in a child process."""
    from autoseg.io.dicom import read_series

    series = folder / "series"
    series.mkdir(exist_ok=True)
    slices = make_slices(series)
    read_series(series)  # so that all modules are loaded
    for number in range(first, last):
        for index, content in enumerate(damage_slices(number, slices)):
            (series / f"{index}.dcm").write_bytes(content)
        Path("/proc/self/clear_refs").write_text("5")  # resets the largest resident size
        before, start, fault = resident_bytes("VmRSS"), time.monotonic(), ""
        signal.alarm(SECONDS_A_CASE)
        try:
            scan, _ = read_series(series)
            result = "scan"
            assert np.isfinite(scan.array_zyx).all()
        except AutosegError as error:
            result = type(error).__name__
            assert str(error).isprintable()
        except BaseException as error:
            result, fault = "fault", f"{type(error).__name__}: {error}"
        signal.alarm(0)
        peak = max(0, resident_bytes("VmHWM") - before)
        if peak > MOST_SERIES_BYTES:
            fault = f"held {peak} bytes; at most {MOST_SERIES_BYTES} are allowed"
        seconds = time.monotonic() - start
        row = {"number": number, "name": "series", "result": result, "fault": fault, "seconds": seconds, "peak": peak}
        print(json.dumps(row), flush=True)


def resident_bytes(field: str) -> int:
    """Return a size of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def work(what: str, first: int, last: int, folder: Path) -> None:
    """Read some cases and print a line of JSON for each; runs in a child process."""
    wholes = make_wholes()
    path = folder / "case.nii.gz"
    path.write_bytes(damage.packed(wholes["nifti1 int16"][0]))
    read_in_every_way(path)  # so that all modules are loaded
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MORE_MEMORY_BYTES, used + MORE_MEMORY_BYTES))
    for number in range(first, last):
        name, content = make_case(what, number, wholes)
        path.write_bytes(content)
        signal.alarm(SECONDS_A_CASE)  # there is no handler: it ends the process, also inside zlib
        start = time.monotonic()
        fault = ""
        try:
            reading = read_in_every_way(path)
            result, peak = reading.result, reading.peak_bytes
        except BaseException as error:
            result, peak, fault = "fault", 0, f"{type(error).__name__}: {error}"
        seconds = time.monotonic() - start
        signal.alarm(0)
        limit = memory_limit(len(wholes[name][0]) if "packed" not in name else 2 * np.prod(SHAPE_ZYX).item())
        if peak > limit:
            fault = f"held {peak} bytes; at most {limit} are allowed"
        row = {"number": number, "name": name, "result": result, "fault": fault, "seconds": seconds, "peak": peak}
        print(json.dumps(row), flush=True)


def read_all(what: str, count: int) -> list[dict[str, Any]]:
    """Have child processes read all cases; a case whose child died is a fault, and the next child goes on after it."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        while len(rows) < count:
            last = min(count, len(rows) + CASES_A_CHILD)
            command = [sys.executable, __file__, "--work", what, str(len(rows)), str(last), folder]
            errors = subprocess.DEVNULL if what == "series" else None  # GDCM has much to say
            child = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, check=False, text=True)
            rows += [json.loads(line) for line in child.stdout.splitlines()]
            if child.returncode:
                fault = f"the process ended with {child.returncode}"
                rows.append({"number": len(rows), "name": "", "result": "fault", "fault": fault})
    return rows


def summarize(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Count results; the longest time, the largest memory."""
    return {
        "cases": len(rows),
        "results": dict(sorted(Counter(row["result"] for row in rows).items())),
        "faults": sum(bool(row["fault"]) for row in rows),
        "longest_seconds": round(max(row.get("seconds", 0.0) for row in rows), 2),
        "largest_memory_mib": round(max(row.get("peak", 0) for row in rows) / 2**20, 1),
    }


def show(what: str, number: int, fault: str) -> None:
    """Print a case that went wrong."""
    if what == "series":  # `damage_slices` makes it again
        print(f"{what} {number}: {fault}", file=sys.stderr)
        return
    name, content = make_case(what, number, make_wholes())
    print(f"{what} {number} ({name}): {fault}\n  {content[:SHOWN_BYTES].hex()}", file=sys.stderr)


def main() -> int:
    """Read all cases, write the JSON, and show what went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--fraction", type=float, default=1.0, help="read only this fraction of the cases")
    parser.add_argument("--what", nargs="+", choices=list(NUMBERS), default=list(NUMBERS))
    parser.add_argument("--only", nargs=2, metavar=("WHAT", "NUMBER"), help="read one case here, with its traceback")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        what, first, last, folder = arguments.work
        if what == "series":
            work_on_series(int(first), int(last), Path(folder))
        else:
            work(what, int(first), int(last), Path(folder))
        return 0
    if arguments.only:
        what, number = arguments.only[0], int(arguments.only[1])
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "case.nii.gz"
            path.write_bytes(make_case(what, number, make_wholes())[1])
            print(read_in_every_way(path))
        return 0
    start = time.monotonic()
    found = {what: read_all(what, int(arguments.fraction * NUMBERS[what])) for what in arguments.what}
    content = {
        **{what: summarize(rows) for what, rows in found.items()},
        "whole_file_bytes": {name: len(content) for name, (content, _) in make_wholes().items()},
        "minutes": round((time.monotonic() - start) / 60, 1),
        "date": date.today().isoformat(),
        "machine": f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, numpy {np.__version__}, "
        f"nibabel {nib.__version__}, "
        f"SimpleITK {SimpleITK.Version_VersionString()}, autoseg {autoseg.__version__}",
    }
    print(json.dumps(content, indent=2))
    if arguments.output:
        arguments.output.write_text(json.dumps(content, indent=2) + "\n")
    bad = [(what, row) for what, rows in found.items() for row in rows if row["fault"]]
    for what, row in bad:
        show(what, row["number"], row["fault"])
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
