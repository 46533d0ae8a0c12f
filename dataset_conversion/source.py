"""What a public source is, and what was found of it on the disk.

Owns: `Origin`, `SourceCase`, `SourceDataset`, and `Content`, a case once it is read.
Does not own: how files are looked for (`finding.py`), read and written (`case_files.py`), or the run (`conversion.py`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from autoseg.errors import Problem
from autoseg.io.image import Scan


@dataclass(frozen=True)
class Origin:
    """What is true of a source wherever it lies.

    Attributes:
        name: Of its module, and of the dataset that it becomes.
        title: For people, such as "FLARE22, abdominal organs on CT".
        licence: Of the data, as their makers state it.
        reference: The paper or page to cite.
        layout: What SOURCE holds, as a part of a sentence: "imagesTr/ and labelsTr/ of ...".
        get_it: A sentence on where it comes from, such as "Download it from ...".
    """

    name: str
    title: str
    licence: str
    reference: str
    layout: str
    get_it: str


@dataclass(frozen=True)
class SourceCase:
    """The files of one case.

    Attributes:
        case_id: Its name in the dataset.
        images: A path a channel, each a scan file or a folder with one DICOM series; or one 4D file with all channels.
        label: A label map, or whatever else the dataset's own `read` understands; None makes a scan to predict.
        patient: Who was scanned, where one patient has several cases.
        annotated: The labels that were looked for in this case; None means all.
        held_out: The source keeps this case for testing: it goes to `imagesTs` and, with a label, `labelsTs`.
    """

    case_id: str
    images: tuple[Path, ...]
    label: Path | None = None
    patient: str | None = None
    annotated: tuple[str, ...] | None = None
    held_out: bool = False

    @property
    def is_training(self) -> bool:
        """Whether it is one to train on."""
        return self.label is not None and not self.held_out

    @property
    def paths(self) -> tuple[Path, ...]:
        """Everything that the case is made of."""
        return self.images if self.label is None else (*self.images, self.label)


@dataclass(frozen=True)
class Volume:
    """One volume of a case, and the file that can stay as it is because it holds just this; None where none does."""

    scan: Scan
    file: Path | None = None


@dataclass(frozen=True)
class Content:
    """A case in memory.

    Attributes:
        channels: In the order of the channels.
        labels: On the grid of the channels, with the source's values; None for a scan to predict.
        notes: Warnings about the case and how it was read.
    """

    channels: tuple[Volume, ...]
    labels: Volume | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceDataset:
    """One dataset that a source becomes.

    Attributes:
        channel_names: In their order.
        labels: Value by name, without the background; a list of values makes a region.
        cases: All whose files are there.
        problems: Missing cases and warnings; cases named here are not among `cases`.
        regions_class_order: The values in which regions are written over each other; needed with regions.
        renumber: New value by the source's; values that are not named stay.
        read: Reads a case, in a worker process; None reads plain files (`case_files.read_files`).
        folder: Below OUT, where a source becomes several datasets.
        name: Of the dataset; empty for that of the origin.
        settings: Whatever else decides what a case becomes, in the types of JSON; with another value it is made again.
        more: Further entries of `dataset.json`.
    """

    channel_names: Sequence[str]
    labels: Mapping[str, int | Sequence[int]]
    cases: Sequence[SourceCase]
    problems: Sequence[Problem] = ()
    regions_class_order: Sequence[int] = ()
    renumber: Mapping[int, int] = field(default_factory=dict)
    read: Callable[[SourceCase], Content] | None = None
    folder: str = ""
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> dict[int, str]:
        """Name by value; a value that only regions name has the names of all of them."""
        names: dict[int, list[str]] = {}
        for name, value in self.labels.items():
            for one in [value] if isinstance(value, int) else value:
                names.setdefault(one, []).append(name)
        return {value: " and ".join(names[value]) for value in sorted(names)}


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Return labels their values in the order of their names, from 1 on."""
    return {name: value for value, name in enumerate(names, start=1)}


def describe(dataset: SourceDataset, origin: Origin, *, training: Iterable[str]) -> dict[str, Any]:
    """Return the content of `dataset.json` for the cases to train on that were converted."""
    done = set(training)
    patients = {case.case_id: case.patient for case in dataset.cases if case.patient and case.case_id in done}
    annotated = {
        case.case_id: list(case.annotated)
        for case in dataset.cases
        if case.annotated is not None and case.case_id in done
    }
    content: dict[str, Any] = {
        "name": dataset.name or origin.name,
        "description": origin.title,
        "licence": origin.licence,
        "source": f"{origin.reference} {origin.get_it}",
        "channel_names": {str(index): name for index, name in enumerate(dataset.channel_names)},
        "labels": {"background": 0}
        | {name: value if isinstance(value, int) else list(value) for name, value in dataset.labels.items()},
        "numTraining": len(done),
        "file_ending": ".nii.gz",
    }
    if dataset.regions_class_order:
        content["regions_class_order"] = list(dataset.regions_class_order)
    return (
        content
        | ({"patients": patients} if patients else {})
        | ({"annotated_labels": annotated} if annotated else {})
        | dict(dataset.more)
    )
