"""Adds a semantic token to SAM2's mask decoder; the token's mask is added to SAM's.

Owns: how the tokens pass through SAM's decoder, with the organs batched.
Does not own: the decoder's layers (sam2's `MaskDecoder`, unchanged, so that Meta's weights fit).

Source: CRISP-SAM2, mask decoder with a semantic output token; SAM 2, section 4 (quality and occlusion heads).

Legend: B slices, K organs, P prompt tokens, D channels, E = D / 8, h4 x w4 the grid at stride 4.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from autoseg.network.prompt_projector import Prompts
from autoseg.network.sam2_modules import MaskDecoder


@dataclass(frozen=True)
class DecodedMasks:
    """The decoder's result for each organ in each slice.

    Attributes:
        mask_logits: (B, K, h4, w4).
        iou_predictions: (B, K) predicted IoU, 0 to 1.
        object_score_logits: (B, K).
        tokens: (B, K, D) the mask token after attention, SAM2's object pointer.
    """

    mask_logits: Tensor
    iou_predictions: Tensor
    object_score_logits: Tensor
    tokens: Tensor


class SemanticMaskDecoder(nn.Module):
    """Decodes the masks of all organs of all slices in one batch of B * K."""

    def __init__(self, *, decoder: MaskDecoder, channels: int) -> None:
        """Take SAM2's built decoder and add the semantic token."""
        super().__init__()
        self.decoder = decoder
        self.semantic_token = nn.Parameter(torch.randn(1, 1, channels) * 0.02)
        self.semantic_head = nn.Sequential(nn.Linear(channels, channels), nn.GELU(), nn.Linear(channels, channels // 8))

    def forward(self, pyramid: Sequence[Tensor], prompts: Prompts, position: Tensor) -> DecodedMasks:
        """Decode the prompts of K organs.

        Args:
            pyramid: (B, D, h, w) at strides 4, 8, 16.
            prompts: The prompts of K organs.
            position: (1, D, h, w) positional code of the stride-16 grid.
        """
        fine, middle, coarse = pyramid
        num_slices, num_organs = prompts.sparse.shape[:2]
        batch = num_slices * num_organs
        source = (coarse.unsqueeze(1) + prompts.dense).flatten(0, 1)  # (B * K, D, h, w)
        own_tokens = torch.cat(
            [self.decoder.obj_score_token.weight, self.decoder.iou_token.weight, self.decoder.mask_tokens.weight]
        ).unsqueeze(0)
        num_mask_tokens = self.decoder.num_mask_tokens
        tokens = torch.cat(
            [
                own_tokens.expand(batch, -1, -1),
                self.semantic_token.expand(batch, -1, -1),
                prompts.sparse.flatten(0, 1),
            ],
            dim=1,
        )  # (B * K, 3 + num_mask_tokens + P + 1, D)
        tokens, image = self.decoder.transformer(source, position.expand(batch, -1, -1, -1), tokens)
        mask_token, semantic_token = tokens[:, 2], tokens[:, 2 + num_mask_tokens]

        pixels = self._upscale(image.transpose(1, 2).view_as(source), fine, middle, num_organs)  # (B * K, E, h4, w4)
        kernel = self.decoder.output_hypernetworks_mlps[0](mask_token)  # (B * K, E)
        kernel = kernel + self.semantic_head(semantic_token)
        masks = torch.einsum("ne,nehw->nhw", kernel, pixels)
        return DecodedMasks(
            mask_logits=masks.view(num_slices, num_organs, *masks.shape[-2:]),
            iou_predictions=self.decoder.iou_prediction_head(tokens[:, 1])[:, 0].view(num_slices, num_organs),
            object_score_logits=self.decoder.pred_obj_score_head(tokens[:, 0]).view(num_slices, num_organs),
            tokens=mask_token.view(num_slices, num_organs, -1),
        )

    def _upscale(self, image: Tensor, fine: Tensor, middle: Tensor, num_organs: int) -> Tensor:
        up_8, norm, act_8, up_4, act_4 = self.decoder.output_upscaling
        # computed once per slice, then repeated for each organ
        middle = self.decoder.conv_s1(middle).repeat_interleave(num_organs, dim=0)
        fine = self.decoder.conv_s0(fine).repeat_interleave(num_organs, dim=0)
        image = act_8(norm(up_8(image) + middle))  # (B * K, D / 4, h8, w8)
        return act_4(up_4(image) + fine)  # (B * K, E, h4, w4)
