"""Encodes slices with CLIP's image encoder, whose tokens the descriptions attend to.

Owns: `ClipImageTower`, and building it for training and from a model file.
Does not own: the encoder itself (`open_clip_models.py`), the use of its tokens (`interaction.py`).

Source: CRISP-SAM2, whose interaction is between the text and the image tokens of one CLIP: they share a space.

Legend: B slices, H x W the grid of patches, C channels of a token.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoseg.config.plans import NetworkPlan
from autoseg.errors import CheckpointError
from autoseg.network.text.open_clip_models import ClipModel, build_visual, check_visual, keep_patches
from autoseg.system.atomic_files import parse_json

SCRATCH_WIDTH = 64
SCRATCH_LAYERS = 2
SMALL_SQUARE_PX = 128  # up to this side the small tower's patches have 8 px, beyond it 16: tokens cost their square


class ClipImageTower(nn.Module):
    """Turns slices into patch tokens; a pretrained encoder is frozen, any other is trained."""

    config: Tensor

    def __init__(self, visual: nn.Module, *, config: Mapping[str, Any], channels: int, is_frozen: bool) -> None:
        """Take open_clip's image encoder up to its tokens of C = `channels`, and the config that it was built from."""
        super().__init__()
        self.channels = channels
        self.is_frozen = is_frozen
        self.visual: Any = visual
        self.norm = nn.LayerNorm(channels)  # the tower's own is for its class token, and pruned
        # Along with the weights, so that a model file says how to build the tower again, without open_clip's hub.
        self.register_buffer("config", torch.tensor(list(json.dumps(config, sort_keys=True).encode())).byte())
        if is_frozen:
            visual.requires_grad_(False)
        self.train()  # as any new module, but for a frozen tower

    def train(self, mode: bool = True) -> "ClipImageTower":
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.is_frozen:
            self.visual.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Turn (B, 3, side, side) slices into (B, H, W, C) tokens.

        CLIP was trained on images of mean 0 and standard deviation 1, as our slices are, so nothing is normalized here.
        """
        size = tuple(self.visual.image_size)
        if images.shape[-2:] != size:
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        # The stem before a frozen tower learns through Hiera; to keep CLIP's activations for it would cost too much.
        with torch.no_grad() if self.is_frozen else nullcontext():
            maps = _patch_maps(self.visual, images)  # (B, C, H, W)
        return self.norm(maps.permute(0, 2, 3, 1))  # (B, H, W, C)


def _patch_maps(visual: Any, images: Tensor) -> Tensor:
    found = visual.forward_intermediates(images, indices=1, intermediates_only=True, output_fmt="NCHW")
    maps: Tensor = found["image_intermediates"][-1]
    return maps


def build_clip_image(plan: NetworkPlan, clip: ClipModel | None) -> ClipImageTower:
    """Build the image encoder of the plan's text model, or without a `clip` the small one, trained from scratch.

    Raises:
        CheckpointError: The model's image encoder has no patch tokens, or cannot be trained from scratch.
    """
    is_frozen = _is_frozen(plan)
    config = _small_config(plan.image_size_px) if clip is None else clip.visual_config
    visual = build_visual(config) if clip is None else clip.visual
    if not is_frozen and any(isinstance(module, _BatchNorm) for module in visual.modules()):
        raise CheckpointError(
            f"the image tower of {plan.text.model!r} has batch norm, which the few slices of a step cannot train. Give "
            "its weights as network.text.weights, or take a model without, such as ViT-B-16."
        )
    try:
        channels = _find_channels(keep_patches(visual))
    except Exception as error:  # timm's many models lack this or that in as many ways
        raise CheckpointError(
            f"there are no patch tokens in the image tower of {plan.text.model!r}: {error}. Take open_clip's vision "
            "transformers, such as ViT-B-16, or a model of timm's that gives its intermediate features; or set "
            "network.interaction_image_encoder=hiera."
        ) from error
    return ClipImageTower(visual, config=config, channels=channels, is_frozen=is_frozen)


def restore_clip_image(tensors: Mapping[str, Tensor], plan: NetworkPlan, *, source: Path) -> ClipImageTower:
    """Build the image encoder of a model file from its untrusted tensors; its weights are still to be loaded.

    Raises:
        CheckpointError: The file `source` does not describe an encoder that fits its weights.
    """
    prefix = "image_tower.visual."
    shapes = {key.removeprefix(prefix): tuple(value.shape) for key, value in tensors.items() if key.startswith(prefix)}
    try:
        config = parse_json(bytes(tensors["image_tower.config"].tolist()))
        (channels,) = tensors["image_tower.norm.weight"].shape
        check_visual(config, shapes)
        visual = keep_patches(build_visual(config))
    except Exception as error:  # a description out of its form fails in as many ways as open_clip has lines
        raise CheckpointError(f"{source}: its image tower cannot be built: {error!r:.400}. Copy it again.") from error
    return ClipImageTower(visual, config=config, channels=channels, is_frozen=_is_frozen(plan))


def _is_frozen(plan: NetworkPlan) -> bool:
    return plan.text.model != "nano" and plan.text.weights is not None


def _small_config(side_px: int) -> dict[str, Any]:
    vision = {
        "image_size": side_px,
        "patch_size": 8 if side_px <= SMALL_SQUARE_PX else 16,
        "width": SCRATCH_WIDTH,
        "layers": SCRATCH_LAYERS,
        "head_width": SCRATCH_WIDTH // 4,
        "mlp_ratio": 2.0,
    }
    return {"embed_dim": SCRATCH_WIDTH, "vision_cfg": vision}


def _find_channels(visual: Any) -> int:
    visual.eval()  # so that one image leaves no trace
    with torch.no_grad():
        maps = _patch_maps(visual, torch.zeros(1, 3, *visual.image_size))
    if maps.ndim != 4:
        raise TypeError(f"they have the shape {tuple(maps.shape)}")
    return int(maps.shape[1])
