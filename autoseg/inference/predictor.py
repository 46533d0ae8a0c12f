"""Predicts the label map of one case, on the grid of its scans.

Owns: `Predictor` and `PredictedCase`: preprocessing, the network, and the inverse of preprocessing.
Does not own: reading and writing (`pipelines/case_steps.py`), the window (`sliding_window.py`).
"""

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoseg.config.plans import Plans
from autoseg.errors import UsageError
from autoseg.inference.connected_components import clean_labels
from autoseg.inference.cpu_threads import side_by_side
from autoseg.inference.expected_dice import ExpectedDice
from autoseg.inference.modality import choose_modality
from autoseg.inference.organ_prompts import OrganPrompts, PlacedPointPrompts, place_point_prompts
from autoseg.inference.sliding_window import predict_slices
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.preprocessing.inverse import LabelMapWriter
from autoseg.preprocessing.slices import PreparedSlices, prepare_slices
from autoseg.system.out_of_memory import free_memory

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class Predictor:
    """A model ready to predict.

    Attributes:
        networks: One network, or one per fold, whose outputs are averaged.
        plans: The plan; the folds differ at most in the component filter.
        organs: (K) positions in the plan of the organs asked for.
        device: The device of the networks.
        modality: The position of the modality of all scans; None finds it by intensities.
    """

    networks: tuple[nn.Module, ...]
    plans: Plans
    organs: tuple[int, ...]
    device: torch.device
    modality: int | None = None

    @property
    def names(self) -> dict[int, str]:
        """Return the names by value in the label maps, for the organs asked for."""
        return {self.plans.data.organs[k].value: self.plans.data.organs[k].name for k in self.organs}

    @property
    def channel_names(self) -> list[str]:
        """Return the names of the channels of a case, in order."""
        return [channel.name for channel in self.plans.data.channels]

    def check_point_prompts(self, point_prompts: Mapping[str, OrganPrompts]) -> None:
        """Check points as far as possible before a scan is read.

        Raises:
            UsageError: The model does not take points, or an organ is not among those asked for.
        """
        if point_prompts and not self.plans.network.point_prompts:
            raise UsageError(
                "point_prompts: this model takes none. Plan with network.point_prompts=true, and train it."
            )
        names = list(self.names.values())
        unknown = [name for name in point_prompts if name not in names]
        if unknown:
            raise UsageError(
                f"point_prompts: {unknown[0]!r} is not among the organs asked for: {', '.join(names)}. Name one."
            )

    def predict_scans(
        self,
        channels: Sequence[Scan],
        *,
        point_prompts: Mapping[str, OrganPrompts] | None = None,
        with_uncertainty: bool = False,
    ) -> "PredictedCase":
        """Segment one case: `find_labels`, then `finish`.

        Args:
            channels: One scan per channel, on one grid, in the plan's order.
            point_prompts: Points and a box by the organ's name, for models whose plan has `network.point_prompts`.
            with_uncertainty: Also return how unsure each voxel is.

        Raises:
            UsageError: The model takes no points, or a point is outside the scan or for an organ not asked for.
            torch.OutOfMemoryError: Not even a slice at a time found room.
        """
        return self.finish(self.find_labels(channels, point_prompts=point_prompts, with_uncertainty=with_uncertainty))

    def finish(self, case: "PredictedCase") -> "PredictedCase":
        """Apply the component filter to a case that `find_labels` gave, in place, without the network."""
        clean_labels(case.labels_zyx, plans=self.plans, geometry=case.geometry)
        return case

    def find_labels(
        self,
        channels: Sequence[Scan],
        *,
        point_prompts: Mapping[str, OrganPrompts] | None = None,
        with_uncertainty: bool = False,
        scratch: Path | None = None,
    ) -> "PredictedCase":
        """Take a case through the network; arguments and errors as `predict_scans`, and one more of each.

        Where the device's memory is full, fewer slices are taken at a time, and at last the CPU is tried.

        With `scratch` the probability of each organ at each voxel is given too: the disk of this folder holds these
        arrays, a byte for each, until they are let go.

        Raises:
            OSError: There is no room in `scratch`.
        """
        self.check_point_prompts(point_prompts or {})
        modality = choose_modality(channels, plan=self.plans.data, given=self.modality)
        image = prepare_slices(channels, plan=self.plans.data, modality=modality)
        names = list(self.names.values())
        placed = place_point_prompts(point_prompts, names=names, transform=image.transform) if point_prompts else None
        message = ""
        for rung in self._ladder():
            if message:
                log.warning("the device's memory was full; trying %s (%s).", rung.effort, message)
            try:
                if self.device.type != "cpu":  # the networks may still be where the last case left them
                    for network in rung.networks:
                        network.to(rung.device)
                rung = replace(rung, modality=modality)
                return rung._predict_slices(
                    image, point_prompts=placed, with_uncertainty=with_uncertainty, scratch=scratch
                )
            except RuntimeError as error:  # the parent of OutOfMemoryError, which torch raises on a GPU alone
                message = free_memory(error, device=self.device)
        raise torch.OutOfMemoryError(f"{message} Even one slice at a time was too much; ask for fewer organs.")

    @property
    def effort(self) -> str:
        """Describe the device and batch that are tried."""
        count = self.plans.inference.slices_per_batch
        return f"{count} {'slice' if count == 1 else 'slices'} at a time on {self.device}"

    def _ladder(self) -> Iterator["Predictor"]:
        """Yield this predictor, then ones that need less memory: half as many slices each time, and finally the CPU."""
        yield self
        rung = self
        while rung.plans.inference.slices_per_batch > 1:
            half = {"slices_per_batch": rung.plans.inference.slices_per_batch // 2}
            plans = rung.plans.model_copy(update={"inference": rung.plans.inference.model_copy(update=half)})
            rung = replace(rung, plans=plans)
            yield rung
        if self.device.type != "cpu":
            yield replace(self, device=torch.device("cpu"))

    def _predict_slices(
        self,
        image: PreparedSlices,
        *,
        point_prompts: PlacedPointPrompts | None,
        with_uncertainty: bool,
        scratch: Path | None,
    ) -> "PredictedCase":
        values = [self.plans.data.organs[k].value for k in self.organs]
        expected_dice = ExpectedDice.zeros(len(values), device=self.device)
        shape = image.transform.original.shape_zyx
        uncertainty = np.zeros(shape, np.uint8) if with_uncertainty else None
        percent = None if scratch is None else _zeros_on_disk((len(values), *shape), folder=scratch)
        writer = LabelMapWriter(image.transform, organ_values=values, uncertainty_zyx=uncertainty, percent_kzyx=percent)
        with side_by_side(self.device) as cores:
            maps = predict_slices(
                self.networks,
                image,
                plans=self.plans,
                organs=[self.plans.data.text_row(organ, self.modality or 0) for organ in self.organs],
                device=self.device,
                point_prompts=point_prompts,
                cores=cores,
            )
            for probs in maps:
                expected_dice.add(probs)
                writer.add(probs)
        dice = dict(zip(values, expected_dice.values(), strict=True))
        return PredictedCase(writer.finish(), image.transform.original, dice, uncertainty, percent)


@dataclass(frozen=True)
class PredictedCase:
    """The prediction of one case.

    Attributes:
        labels_zyx: The label map on the grid of the first scan, with the dataset's own values.
        geometry: The grid of the label map.
        expected_dice: The expected Dice of each mask, by label value; None for organs that were not found.
        percent_kzyx: uint8, (K, ..) on the same grid, the organs' probabilities in percent; None unless asked for.
        uncertainty_zyx: uint8 on the same grid: 0 where the predicted class has probability 1, up to 255 for
            probability 0; None unless asked for.
    """

    labels_zyx: np.ndarray
    geometry: ImageGeometry
    expected_dice: dict[int, float | None]
    uncertainty_zyx: np.ndarray | None = None
    percent_kzyx: np.ndarray | None = None


def _zeros_on_disk(shape: tuple[int, ...], *, folder: Path) -> np.ndarray:
    """Make an array of bytes in an unnamed file that is deleted with the array.

    Raises:
        OSError: The disk is full.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        file.truncate(math.prod(shape))
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later would end the process
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))
        return np.memmap(file, np.uint8, mode="r+", shape=shape)
