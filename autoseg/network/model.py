"""The whole network, in the order in which a slice flows through it.

Owns: `AutosegNetwork.forward` and `NetworkOutput`.
Does not own: how the parts are built (`build.py`), losses (`training/losses.py`).

Legend: B slices, K organs asked for, D channels, C image channels, N neighbouring slices, R x W the window at
target spacing, h4 x w4 the grid at stride 4 of the image encoder.
"""

from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.device import convolution_precision
from autoseg.network.image_encoder import ImageEncoder
from autoseg.network.interaction import CrossModalInteraction
from autoseg.network.mask_decoder import SemanticMaskDecoder
from autoseg.network.prompt_projector import PromptProjector
from autoseg.network.refiner import Refiner
from autoseg.network.sam2_parts import PositionEmbeddingRandom
from autoseg.network.semantic_decoder import SemanticAwareDecoder


@dataclass(frozen=True)
class NetworkOutput:
    """Everything the losses and the predictor need.

    Attributes:
        logits: (B, 1 + K, R, W) the final map, background first.
        coarse_logits: (B, 1 + K, R / 2, W / 2) or None: deep supervision of the refiner.
        mask_logits: (B, K, h4, w4) of SAM's decoder.
        map_logits: (B, 1 + K, h4, w4) of the semantic-aware decoder, or None where the plan leaves it out.
        quality: (B, K) predicted IoU of `mask_logits`.
        presence_logits: (B, K) of SAM's decoder.
        semantic_presence_logits: (B, K) of the semantic-aware decoder, or None.
    """

    logits: Tensor
    coarse_logits: Tensor | None
    mask_logits: Tensor
    map_logits: Tensor | None
    quality: Tensor
    presence_logits: Tensor
    semantic_presence_logits: Tensor | None

    def float(self) -> "NetworkOutput":
        """Return everything in full precision, as losses need it after autocast."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        full: dict[str, Any] = {name: None if value is None else value.float() for name, value in values.items()}
        return NetworkOutput(**full)


class AutosegNetwork(nn.Module):
    """Text-guided SAM2: organs' descriptions and slices in, one map over all organs asked for out."""

    def __init__(
        self,
        *,
        text: nn.Module,
        stem: nn.Module,
        interaction: CrossModalInteraction,
        image_encoder: ImageEncoder,
        prompt_projector: PromptProjector,
        mask_decoder: SemanticMaskDecoder,
        semantic_decoder: SemanticAwareDecoder | None,
        refiner: Refiner,
        position: PositionEmbeddingRandom,
        image_size_px: int,
        encoder_channels: int,
    ) -> None:
        """Take the built parts.

        Args:
            text: Organ positions to sentence vectors: `TextEncoder` or `StoredText`.
            stem: From `encoder_channels` to the three that Hiera takes.
            interaction: Makes the semantics.
            image_encoder: Hiera with injection.
            prompt_projector: Makes the prompts.
            mask_decoder: SAM's.
            semantic_decoder: SEG-SAM's, or None.
            refiner: The branch at full resolution.
            position: Code of the places of the stride-16 grid.
            image_size_px: Side of the square that the image encoder sees.
            encoder_channels: How many of the input's channels, from its middle, the image encoder sees.
        """
        super().__init__()
        self.text = text
        self.stem = stem
        self.interaction = interaction
        self.image_encoder = image_encoder
        self.prompt_projector = prompt_projector
        self.mask_decoder = mask_decoder
        self.semantic_decoder = semantic_decoder
        self.refiner = refiner
        self.position = position
        self.organ_norm = nn.LayerNorm(refiner.paint.in_features)
        self.image_size_px = image_size_px
        self.encoder_channels = encoder_channels
        self.fusion_gates = nn.Parameter(torch.tensor([0.1, 0.1]))  # of SAM's and of the semantic-aware decoder

    def forward(self, images: Tensor, organs: Tensor) -> NetworkOutput:
        """Segment some organs in some slices; each slice is encoded once.

        Args:
            images: (B, N * C, R, W) normalised slices, each in the middle of its neighbours.
            organs: (K,) positions of the organs in the plan.
        """
        vectors, is_sentence = self.text(organs)  # (K, S, D)
        small = self._to_square(self.stem(self._middle(images)))  # (B, 3, side, side)
        tokens = self.image_encoder.embed(small)  # (B, h4, w4, C0)
        semantics = self.interaction(tokens, vectors, is_sentence)  # (B, K, D)
        pyramid = self.image_encoder(tokens, semantics)  # (B, D, h, w) at strides 4, 8, 16
        # Attention to the memory of other slices changes pyramid[-1] here, once the memory bank is there.
        prompts, fused = self.prompt_projector(pyramid, semantics)
        position = self.position(pyramid[-1].shape[-2:]).unsqueeze(0)  # (1, D, h, w)
        decoded = self.mask_decoder(pyramid, prompts, position)
        mapped = self.semantic_decoder(fused, semantics, position) if self.semantic_decoder is not None else None

        probs = decoded.mask_logits.sigmoid()  # (B, K, h4, w4)
        if mapped is not None:
            probs = 0.5 * (probs + mapped.map_logits.softmax(dim=1)[:, 1:])
        known = self.organ_norm(semantics + decoded.tokens)  # (B, K, D)
        with convolution_precision(images.device) if self.training else nullcontext():
            refined = self.refiner(images, fine=fused[0], masks=probs, organs=known)
        return NetworkOutput(
            logits=self._fuse(refined.logits, decoded.mask_logits, mapped.map_logits if mapped else None),
            coarse_logits=refined.coarse_logits,
            mask_logits=decoded.mask_logits,
            map_logits=mapped.map_logits if mapped else None,
            quality=decoded.quality,
            presence_logits=decoded.presence_logits,
            semantic_presence_logits=mapped.presence_logits if mapped else None,
        )

    def _middle(self, images: Tensor) -> Tensor:
        """Cut out the slice with one neighbour on each side, from the middle of the channels."""
        first = (images.shape[1] - self.encoder_channels) // 2
        return images[:, first : first + self.encoder_channels]

    def _to_square(self, images: Tensor) -> Tensor:
        size = (self.image_size_px, self.image_size_px)
        if images.shape[-2:] == size:
            return images
        is_smaller = images.shape[-2] < size[0] and images.shape[-1] < size[1]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=not is_smaller)

    def _fuse(self, refined: Tensor, mask_logits: Tensor, map_logits: Tensor | None) -> Tensor:
        """Add both decoders' coarse logits to the refined map, each as much as its learned gate says."""
        coarse = F.pad(self.fusion_gates[0] * mask_logits, (0, 0, 0, 0, 1, 0))  # background gets none
        if map_logits is not None:
            coarse = coarse + self.fusion_gates[1] * map_logits
        return refined + F.interpolate(coarse, size=refined.shape[-2:], mode="bilinear", align_corners=False)
