"""Loads pretrained weights of SAM2: Meta's checkpoints, and other files with the same names.

Owns: the formats of such files, which of their tensors fit which part of the network, the report.
Does not own: the parts (`network/sam2_modules.py`), how fast pretrained weights change (`optim/pretrained_rates.py`).

No tensor is resized: Hiera interpolates its own positions to any image size, so a tensor fits or is left out.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from autoseg.errors import CheckpointError
from autoseg.network.backbones.hiera import HieraBackbone
from autoseg.network.model import AutosegNetwork
from autoseg.network.weights.load_errors import explain_load_failure

TRUNK = "image_encoder.trunk."
FIRST_KEY = TRUNK + "patch_embed.proj.weight"  # every SAM2 has it; what precedes it is a wrapper's name
CONTAINERS = ("model", "state_dict", "model_state_dict")

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class WeightsReport:
    """Which tensors of a file were used; names are SAM 2's.

    Attributes:
        file: The name of the file.
        loaded: Tensors that were loaded.
        skipped: Tensors of the file for which the plan has no such part, or one of another shape.
        missing: Tensors of SAM 2's parts that are not in the file or have another shape; they are untrained.
        parameters: The network's own names of the loaded weights that are trained.
    """

    file: str
    loaded: tuple[str, ...]
    skipped: tuple[str, ...]
    missing: tuple[str, ...]
    parameters: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Return the content of `weights.json`."""
        return vars(self)

    def describe(self) -> str:
        """Return a line with the number of tensors of each part."""
        groups = (("loaded", self.loaded), ("skipped", self.skipped), ("missing, so new", self.missing))
        return f"{self.file}: " + "; ".join(f"{len(keys)} tensors {what}{_by_part(keys)}" for what, keys in groups)


def load_sam2_weights(network: AutosegNetwork, path: Path) -> WeightsReport:
    """Load a SAM2 checkpoint into all parts that the network shares with SAM2.

    Hiera must fit as a whole: sizes share some shapes, so half of another size's weights would fit and be useless. The
    other parts fit where the plan has SAM2's own width (256), and stay untrained elsewhere. The file is in Meta's
    format, in those of other trainers, or `.safetensors`; a wrapper's name before all keys, such as "module.", does not
    matter.

    Raises:
        CheckpointError: The file is not such a checkpoint, or its Hiera is not of the plan's size.
    """
    parts = shared_parts(network)
    report = fill_parts(parts, read_sam2_file(path), path=path)
    taken = set(report.loaded)
    loaded = {
        id(parameter)
        for prefix, part in parts.items()
        for key, parameter in part.named_parameters()
        if prefix + key in taken
    }
    own_names = tuple(name for name, parameter in network.named_parameters() if id(parameter) in loaded)
    report = replace(report, parameters=own_names)
    log.info("%s", report.describe())
    return report


def shared_parts(network: AutosegNetwork) -> dict[str, nn.Module]:
    """Return the parts that a network shares with SAM2, by the prefix of their tensors' names there."""
    backbone = network.image_encoder
    if not isinstance(backbone, HieraBackbone):
        raise CheckpointError(
            "SAM2's weights are those of a Hiera, and this network has another image backbone. Plan without "
            "network.weights."
        )
    parts: dict[str, nn.Module] = {
        TRUNK: backbone.hiera,
        "image_encoder.neck.": backbone.neck,
        "sam_mask_decoder.": network.mask_decoder.decoder,
        "sam_prompt_encoder.pe_layer.": network.position,  # the decoder learned to read this very code
    }
    if network.point_prompt_encoder is not None:
        parts["sam_prompt_encoder."] = network.point_prompt_encoder.encoder  # which holds that code too
        del parts["sam_prompt_encoder.pe_layer."]
    if network.memory is not None:
        parts["memory_attention."] = network.memory.attention
        parts["memory_encoder."] = network.memory.encoder
        parts[""] = network.memory.tokens
    return parts


def fill_parts(parts: Mapping[str, nn.Module], weights: Mapping[str, Tensor], *, path: Path) -> WeightsReport:
    """Load the weights, by SAM 2's names, that fit; nothing is changed where Hiera does not fit as a whole.

    Raises:
        CheckpointError: Hiera is of another size.
    """
    wanted = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    loaded = {key for key, value in weights.items() if key in wanted and wanted[key].shape == value.shape}
    skipped, missing = sorted(weights.keys() - loaded), sorted(wanted.keys() - loaded)
    unfit = [key for key in [*missing, *skipped] if key.startswith(TRUNK)]
    if unfit:
        raise CheckpointError(
            f"{path}: its Hiera is of another size than the plan's: {len(unfit)} tensors differ, such as {unfit[0]}. "
            "Plan with network.backbone as in the checkpoint: tiny, small, base_plus or large."
        )
    for prefix, part in parts.items():
        own = {key: weights[prefix + key] for key in part.state_dict() if prefix + key in loaded}
        part.load_state_dict(own, strict=False)
    return WeightsReport(path.name, tuple(sorted(loaded)), tuple(skipped), tuple(missing))


def read_sam2_file(path: Path) -> dict[str, Tensor]:
    """Read a file's weights by SAM 2's names; no code in it is executed.

    Raises:
        CheckpointError: It cannot be read, or contains no weights of SAM2.
    """
    content = _read(path)
    weights = next((content[name] for name in CONTAINERS if isinstance(content.get(name), dict)), content)
    tensors = {key: value for key, value in weights.items() if isinstance(key, str) and isinstance(value, Tensor)}
    wrapper = next((key.removesuffix(FIRST_KEY) for key in tensors if key.endswith(FIRST_KEY)), None)
    if wrapper is None:
        raise CheckpointError(
            f"{path} is not a SAM2 checkpoint: there is no {FIRST_KEY} in it. Give a file in Meta's format, such as "
            "sam2.1_hiera_tiny.pt."
        )
    return {key.removeprefix(wrapper): value for key, value in tensors.items() if key.startswith(wrapper)}


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: there is no such file. Give the path of a SAM2 checkpoint.") from None
    except Exception as error:  # torch and safetensors name damage in a dozen ways
        raise CheckpointError(
            f"{path} cannot be read as a SAM2 checkpoint: {explain_load_failure(error)}. Fetch it again."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} is not a SAM2 checkpoint: it holds a {type(content).__name__}, not named tensors. Give another."
        )
    return content


def _by_part(keys: Iterable[str]) -> str:
    counts = Counter(key.split(".")[0] for key in keys)
    return f" ({', '.join(f'{part} {count}' for part, count in counts.items())})" if counts else ""
