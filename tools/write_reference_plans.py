"""Write `plans/reference` again: the plan of every dataset there, from its fingerprint. It takes a few seconds.

    python tools/write_reference_plans.py                      after a change of a rule; then look at `git diff plans`
    python tools/write_reference_plans.py --scans ../shared/data    also measures the scans again

Owns: the command, and where scans come from.
Does not own: the form of the files (`reference_fingerprints.py`, `reference_plans.py`).

A dataset whose folder has a `published.json` gets its fingerprint from that. Those of `SCANS` are measured where
`--scans` names the folder in which they lie, and phantoms are drawn; else their fingerprints stay as they are.
A test (`tests/planning/test_reference_plans.py`) fails where the files are not what this makes.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
sys.path[:0] = [str(FOLDER), str(FOLDER.parent)]

from reference_fingerprints import (  # noqa: E402
    choose_cases,
    make_from_published,
    read_fingerprint,
    shorten,
    write_fingerprint,
)
from reference_plans import (  # noqa: E402
    DEFAULTS_NAME,
    FILE_NAME,
    REFERENCE,
    chosen_values,
    make_defaults_text,
    make_text,
    read_devices,
    reference_folders,
)

from autoseg.demo.phantoms import write_phantom_dataset  # noqa: E402
from autoseg.demo.tour import TourSettings  # noqa: E402
from autoseg.planning.checks import check_dataset  # noqa: E402
from autoseg.planning.fingerprint.fingerprint import Fingerprint  # noqa: E402
from autoseg.system.atomic_files import read_json, write_text  # noqa: E402
from dataset_conversion.totalsegmentator_samples import convert  # noqa: E402

PUBLISHED = "published.json"
NUM_PHANTOMS = 12  # the first of those that the demo draws


def prepare_multi_organ(scans: Path, scratch: Path) -> Path:
    """Convert TotalSegmentator's sample scans; returns the dataset."""
    convert(scans / "multi_organ_ct", scratch / "multi_organ")
    return scratch / "multi_organ"


def draw_phantoms(_scans: Path, scratch: Path) -> Path:
    """Draw phantoms as the demo does; returns the dataset."""
    write_phantom_dataset(scratch, num_train=NUM_PHANTOMS, num_test=0, seed=TourSettings().seed)
    return scratch / "dataset"


# name in `plans/reference` to a function of the folder of scans and of a folder for what is made, which gives a dataset
SCANS: dict[str, Callable[[Path, Path], Path]] = {
    "brain_tumour_mri": lambda scans, _scratch: scans / "brain_tumour_mri",
    "hippocampus_mri": lambda scans, _scratch: scans / "hippocampus_mri",
    "left_atrium_mri": lambda scans, _scratch: scans / "left_atrium_mri",
    "multi_organ": prepare_multi_organ,
    "phantoms": draw_phantoms,
}


def measure(name: str, *, scans: Path) -> Fingerprint:
    """Measure a dataset's scans and keep what `plans/reference` keeps."""
    with tempfile.TemporaryDirectory() as scratch:
        fingerprint = shorten(check_dataset(SCANS[name](scans, Path(scratch))).fingerprint)
    return choose_cases(fingerprint, plan_of=chosen_values)


def main() -> None:
    """Write what changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=Path, help="folder of the real datasets; measure them again")
    arguments = parser.parse_args()
    if arguments.scans is not None:
        for name in SCANS:
            write_fingerprint(measure(name, scans=arguments.scans), REFERENCE / name)
    for folder in reference_folders():
        if (folder / PUBLISHED).exists():
            write_fingerprint(make_from_published(read_json(folder / PUBLISHED)), folder)
        fingerprint = read_fingerprint(folder)
        write_text(folder / FILE_NAME, make_text(fingerprint, devices=read_devices(folder)))
        write_text(REFERENCE / DEFAULTS_NAME, make_defaults_text(fingerprint))  # the same for all
        print(folder.name)


if __name__ == "__main__":
    main()
