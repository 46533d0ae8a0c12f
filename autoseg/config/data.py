"""Defines the part of a plan that decides the preprocessed voxels: channels, organs, regions, datasets, the grid.

Owns: `DataPlan` and its parts, and the conditions among them.
Does not own: the other parts of a plan, and reading them (`plans.py`); how a value is chosen
(`rules/data.py`).

A label map on the preprocessed grid contains indices: 0 background, 1..K the organs in the plan's order, then K+1..
the regions, and the type's largest value where labels are ignored.
"""

import hashlib
import json
from collections import Counter
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Axis = Literal["z", "y", "x"]
PositiveMm = Annotated[float, Field(ge=1e-4, le=1000)]  # as scans are read
Name = Annotated[str, Field(min_length=1, max_length=200)]
LabelValue = Annotated[int, Field(ge=0, le=65535)]
Sentences = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], Field(min_length=1, max_length=32)
]
MAX_ORGANS = 4096


class PlanPart(BaseModel):
    """The base of all parts: strict, frozen, finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())


class ChannelPlan(PlanPart):
    """How the voxels of one channel are normalized."""

    name: str = Field(min_length=1, max_length=200, description="channel name from the dataset")
    normalization: Literal["ct", "zscore"] = Field(
        description="ct: clip, then one mean and std for all scans; zscore: mean and std of each scan"
    )
    clip_low: float = Field(0.0, description="ct only: lower limit of the values, in HU")
    clip_high: float = Field(1.0, description="ct only: upper limit of the values, in HU")
    mean: float = Field(0.0, description="ct only: mean of the foreground over the dataset, in HU")
    std: float = Field(1.0, gt=0, description="ct only: standard deviation of the foreground over the dataset, in HU")
    nonzero_only: bool = Field(False, description="zscore only: whether only non-zero voxels count for mean and std")


class ModalityPlan(PlanPart):
    """A further modality, beside that of `DataPlan.channels`."""

    name: str = Field(min_length=1, max_length=200, description="name for --modality: ct, mri, or a channel's name")
    channels: tuple[ChannelPlan, ...] = Field(min_length=1, max_length=32)


class OrganPlan(PlanPart):
    """One structure that is asked for by text; no voxel belongs to two of them."""

    name: str = Field(min_length=1, max_length=200, description="name as in the dataset")
    value: int = Field(ge=1, le=65535, description="value in label maps, both of references and of predictions")
    sentences: Sentences = Field(description="the description that the text encoder reads")
    additional_sentences: tuple[Sentences, ...] = Field(
        (), max_length=16, description="the description for each of additional_modalities, in their order"
    )

    def sentences_of(self, modality: int) -> Sentences:
        """Return the sentences for one of `DataPlan.modalities`, by its position."""
        return (self.sentences, *self.additional_sentences)[modality]


class RegionPlan(PlanPart):
    """A union of organs that datasets label or ask for as one, such as both kidneys, or an organ with its tumour."""

    name: str = Field(min_length=1, max_length=200, description="name as in a dataset")
    organs: tuple[Name, ...] = Field(min_length=2, max_length=MAX_ORGANS, description="the organs that it unites")


class LabelPlan(PlanPart):
    """What one value in the label maps of a dataset means."""

    value: int = Field(ge=1, le=65535, description="value in its label maps")
    name: str = Field(min_length=1, max_length=200, description="name in the dataset")
    maps_to: Name | None = Field(description="organ or region of the plan that it is mapped to; null is the background")


class DatasetPlan(PlanPart):
    """One of several datasets in a plan."""

    name: str = Field(
        min_length=1, max_length=200, description="name of the dataset, with which the ids of its cases begin"
    )
    modality: str = Field(max_length=200, description="data.modality, or the name of one of data.additional_modalities")
    labels: tuple[LabelPlan, ...] = Field(max_length=MAX_ORGANS, description="all its labels except the background")
    ignore_value: LabelValue | None = Field(
        None, description="its label value that is ignored in training and evaluation"
    )


class DataPlan(PlanPart):
    """What preprocessing does; its hash is stamped on the store."""

    channels: tuple[ChannelPlan, ...] = Field(min_length=1, max_length=32)
    modality: str = Field(
        "", max_length=200, description="modality of scans with these channels: ct, mri, or a channel's name"
    )
    additional_modalities: tuple[ModalityPlan, ...] = Field(
        (), max_length=16, description="further modalities, each with as many channels"
    )
    organs: tuple[OrganPlan, ...] = Field(min_length=1, max_length=MAX_ORGANS)
    regions: tuple[RegionPlan, ...] = Field((), max_length=MAX_ORGANS, description="named unions of organs")
    datasets: tuple[DatasetPlan, ...] = Field(
        (),
        max_length=1000,
        description="the datasets of a plan over several; empty where label maps contain the organs' own values",
    )
    ignore_value: LabelValue | None = Field(None, description="label value that is ignored in training and evaluation")
    target_spacing_zyx_mm: tuple[PositiveMm, PositiveMm, PositiveMm] = Field(
        description="spacing of the grid that the network sees, in mm"
    )
    slice_axis: Axis = Field(
        description="canonical axis along which a scan is cut into slices (z: inferior to superior)"
    )
    crop_to_nonzero: bool = Field(True, description="whether the border in which all channels are zero is removed")

    def hash(self) -> str:
        """Return a short digest of everything that decides the preprocessed voxels; descriptions do not."""
        facts = self.model_dump(mode="json")
        for organ in facts["organs"]:
            del organ["sentences"], organ["additional_sentences"]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def modalities(self) -> tuple[ModalityPlan, ...]:
        """All kinds of scans, the first one first."""
        first = ModalityPlan(name=self.modality or self.channels[0].name, channels=self.channels)
        return (first, *self.additional_modalities)

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the organs, then the regions: of the indices 1.. of preprocessed label maps."""
        return (*(organ.name for organ in self.organs), *(region.name for region in self.regions))

    @property
    def text_rows(self) -> tuple[Sentences, ...]:
        """The sentences of all organs for the first modality, then for the next: what the network's text is made of."""
        return tuple(
            sentences
            for number in range(1 + len(self.additional_modalities))
            for sentences in (organ.sentences_of(number) for organ in self.organs)
        )

    def text_row(self, organ: int, modality: int) -> int:
        """Return the row of the network's text for an organ, given by its position, in scans of a modality."""
        return organ + modality * len(self.organs)

    def modality_of(self, dataset: str | None) -> int:
        """Return the position in `modalities` of the scans of a dataset; the first for None."""
        found = [one.modality for one in self.datasets if one.name == dataset]
        names = [modality.name for modality in self.modalities]
        return names.index(found[0]) if found and found[0] in names else 0

    def find_dataset(self, name: str | None) -> DatasetPlan | None:
        """Return the dataset with a name, or None."""
        return next((dataset for dataset in self.datasets if dataset.name == name), None)

    @model_validator(mode="after")
    def _organs_are_distinct(self) -> "DataPlan":
        for what, names in (
            ("name", [repr(name) for name in self.label_names]),
            ("value", [repr(organ.value) for organ in self.organs]),
        ):
            twice = [value for value, count in Counter(names).items() if count > 1]
            if twice:
                raise ValueError(f"two organs share the {what} {twice[0]}")
        return self

    @model_validator(mode="after")
    def _names_are_known(self) -> "DataPlan":
        organs = {organ.name for organ in self.organs}
        names = Counter(dataset.name for dataset in self.datasets)
        if twice := [name for name, count in names.items() if count > 1]:
            raise ValueError(f"two datasets share the name {twice[0]!r}")
        for region in self.regions:
            if len(set(region.organs)) < len(region.organs):
                raise ValueError(f"the region {region.name!r} unites an organ twice")
            for name in region.organs:
                if name not in organs:
                    raise ValueError(f"the region {region.name!r} unites {name!r}, which is not an organ of the plan")
        known = set(self.label_names)
        for dataset in self.datasets:
            values = Counter([dataset.ignore_value, *(label.value for label in dataset.labels)])
            if twice_used := [value for value, count in values.items() if value is not None and count > 1]:
                raise ValueError(f"{dataset.name!r}: two labels share the value {twice_used[0]}")
            for label in dataset.labels:
                if label.maps_to is not None and label.maps_to not in known:
                    raise ValueError(f"{dataset.name!r}: {label.name!r} means {label.maps_to!r}, which the plan lacks")
        return self

    @model_validator(mode="after")
    def _modalities_are_alike(self) -> "DataPlan":
        names = [modality.name for modality in self.modalities]
        if len(set(names)) < len(names):
            raise ValueError(f"two modalities share a name: {', '.join(names)}")
        for modality in self.additional_modalities:
            if len(modality.channels) != len(self.channels):
                raise ValueError(
                    f"modality {modality.name!r} has {len(modality.channels)} channels; expected {len(self.channels)}"
                )
        for organ in self.organs:
            if len(organ.additional_sentences) != len(self.additional_modalities):
                raise ValueError(f"organ {organ.name!r} needs sentences for each of additional_modalities")
        for dataset in self.datasets:
            if dataset.modality not in names:
                raise ValueError(
                    f"dataset {dataset.name!r} has the modality {dataset.modality!r}, which the plan lacks"
                )
        return self
