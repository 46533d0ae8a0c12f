"""Runs `autoseg.predict`: it segments one image in memory and writes nothing.

Owns: `Prediction`.
Does not own: prediction from files to files (`pipelines/predict.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import GeometryError
from autoseg.export.statistics import OrganStatistics, measure_organs
from autoseg.inference.organ_prompts import OrganPrompts
from autoseg.inference.predictor import Predictor
from autoseg.io.array_input import as_scan, in_order_of
from autoseg.io.geometry import ImageGeometry, grids_differ, small_shift
from autoseg.io.image import read_scan, write_label_map
from autoseg.network.weights.model_file import BuildNetwork
from autoseg.pipelines.case_steps import list_warnings
from autoseg.pipelines.prediction_request import PredictionRequest
from autoseg.preprocessing.inverse import UNSURE


@dataclass(frozen=True)
class Prediction:
    """The prediction for one image.

    Example:
        >>> prediction = autoseg.predict("scan.nii.gz", "my_run")
        >>> {organ.name: organ.volume_ml for organ in prediction.statistics}
        {'liver': 1480.2, 'spleen': 210.7}
        >>> prediction.save("labels.nii.gz")

    Attributes:
        labels: The label map with the dataset's values, indexed like the image: (i, j, k) for nibabel, paths and
            (array, affine); (k, j, i) for SimpleITK.
        names: The names of the organs asked for, by label value.
        statistics: The volume, bounding box, mean intensity and expected Dice of each organ.
        uncertainty: float32, indexed like `labels`: 1 minus the probability of the predicted class; None unless asked
            for.
        warnings: The warnings about the image.
        labels_zyx: A view of `labels`, indexed (k, j, i).
        geometry: The grid of the image.
    """

    labels: np.ndarray
    names: dict[int, str]
    statistics: tuple[OrganStatistics, ...]
    uncertainty: np.ndarray | None
    warnings: tuple[str, ...]
    labels_zyx: np.ndarray
    geometry: ImageGeometry

    def save(self, path: Path | str) -> None:
        """Write the label map as NIfTI, with the names inside.

        Raises:
            ScanFileError: The file cannot be written.
        """
        write_label_map(Path(path), self.labels_zyx, geometry=self.geometry, names=self.names)


def predict(
    image: Any,
    model: Path | str | Predictor,
    *,
    device: str = "auto",
    organs: Sequence[str] | str = (),
    new_organs: Mapping[str, str] | None = None,
    settings: Sequence[str] | str = (),
    point_prompts: Mapping[str, OrganPrompts] | None = None,
    uncertainty: bool = False,
    modality: str | None = None,
    build_network: BuildNetwork | None = None,
) -> Prediction:
    """Segment one image in memory.

    Args:
        image: A nibabel image, a SimpleITK image, (array, affine) with the array indexed (i, j, k), or the path of a
            scan; or a list with one of these per channel, for models of several channels.
        model: A `model.safetensors` or a run folder; or a `Predictor`, which need not be loaded again for each image.
        device: auto, cpu or cuda; ignored if `model` is a `Predictor`.
        organs: The names of the organs to find; none means all. For a `Predictor`, give them to `load_predictor`.
        new_organs: Descriptions by name of organs that the model was not trained on, as for `predict_files`.
        settings: Changes such as "inference.window_overlap=0.25".
        point_prompts: Points and boxes by organ, in voxels (i, j, k).
        uncertainty: Whether to compute the uncertainty of each voxel.
        modality: The modality of the image, for a model of several: ct, mri, ..; None finds it by intensities.
        build_network: The function that built the model's network, if it was not autoseg's own.

    Raises:
        AutosegError: The image, the model or an argument cannot be used.

    Example:
        >>> prediction = autoseg.predict(nibabel.load("scan.nii.gz"), "my_run")
        >>> prediction.labels.shape, prediction.names
        ((512, 512, 90), {1: 'liver', 2: 'spleen'})
    """
    images = list(image) if isinstance(image, list) else [image]
    request = PredictionRequest(
        model, device, organs, new_organs, settings=settings, modality=modality, build_network=build_network
    )
    predictor = request.load_predictor()
    channels = [
        read_scan(Path(one)) if isinstance(one, str | Path) else as_scan(one, name=f"channel {number}")
        for number, one in enumerate(images)
    ]
    for number, channel in enumerate(channels[1:], start=1):
        names = ("channel 0", f"channel {number}")
        difference = grids_differ(channels[0].geometry, channel.geometry, names=names)
        if difference is not None:
            raise GeometryError(difference)
        shift = small_shift(channels[0].geometry, channel.geometry, name=names[1])
        if shift is not None:
            channels[number] = replace(channel, warnings=(*channel.warnings, shift))
    predicted = predictor.predict_scans(channels, point_prompts=point_prompts, with_uncertainty=uncertainty)
    statistics = measure_organs(
        predicted.labels_zyx,
        channels[0].array_zyx,
        geometry=channels[0].geometry,
        names=predictor.names,
        expected_dice=predicted.expected_dice,
    )
    unsure = predicted.uncertainty_zyx
    return Prediction(
        labels=in_order_of(images[0], predicted.labels_zyx),
        names=predictor.names,
        statistics=statistics,
        uncertainty=None if unsure is None else in_order_of(images[0], unsure.astype(np.float32) / UNSURE),
        warnings=list_warnings(channels, predictor=predictor),
        labels_zyx=predicted.labels_zyx,
        geometry=channels[0].geometry,
    )
