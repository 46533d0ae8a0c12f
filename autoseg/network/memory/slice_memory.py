"""Turns slices into memories, and lets later slices attend to them.

Owns: `SliceMemory`: `read` beside `write`.
Does not own: which memories are kept and attended to (`memory_bank.py`), the attention and the encoder (sam2's).

Sources: SAM 2, section 4, memory attention, memory encoder, object pointers; CRISP-SAM2, memory sorted by similarity.
SAM 2 keeps one memory per object. Here one memory holds all organs, so its cost does not depend on K: their masks enter
*painted* with the organs' vectors, as in the refiner, beside their union, which SAM 2's mask encoder reads.

Legend: V volumes, K organs, D channels, M = D / 4, n recalled entries, h x w the stride-16 grid, h4 x w4 stride 4.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.memory.memory_bank import MemoryBank, MemoryUpdate, capacity_within, make_key, recall, remember
from autoseg.network.sam2_modules import (
    MemoryAttention,
    MemoryEncoder,
    MemoryTokens,
    PositionEmbeddingSine,
    get_1d_sine_pe,
)

MASK_SCALE, MASK_BIAS = 20.0, -10.0  # SAM 2: a probability becomes -10 to 10 before the mask encoder
DISTANCE_UNIT_SLICES = 15.0  # SAM 2 divides the distances of its 16 object pointers by it before their sine code


class SliceMemory(nn.Module):
    """Memory attention and memory encoder around a bank that the caller holds."""

    def __init__(
        self,
        *,
        attention: MemoryAttention,
        encoder: MemoryEncoder,
        tokens: MemoryTokens,
        position: PositionEmbeddingSine,
        channels: int,
        num_slices: int,
        num_bytes: int,
        num_recalled: int,
        update: MemoryUpdate,
    ) -> None:
        """Take the built parts, and the limits of the bank.

        Args:
            attention: Attends from D to memories of M channels.
            encoder: Encodes D channels as M.
            tokens: SAM 2's codes and pointer layers.
            position: The positional code of the stride-16 grid.
            channels: D.
            num_slices: The largest number of slices in the bank of a volume.
            num_bytes: The most bytes that they may take.
            num_recalled: The largest number of memories that a slice attends to.
            update: How a full bank makes room.
        """
        super().__init__()
        self.attention = attention
        self.encoder = encoder
        self.tokens = tokens
        self.position = position
        self.width = channels // 4
        self.num_slices = num_slices
        self.num_bytes = num_bytes
        self.num_recalled = min(num_recalled, num_slices)
        self.update = update
        self.paint = nn.Linear(channels, channels)
        nn.init.zeros_(self.paint.weight)  # at first a memory is what SAM 2's would be
        nn.init.zeros_(self.paint.bias)

    def read(self, coarse: Tensor, bank: MemoryBank | None, positions: Tensor) -> Tensor:
        """Let slices attend to the memories of their volumes.

        Args:
            coarse: (V, D, h, w) features at stride 16.
            bank: The memories of the same volumes; None at the beginning.
            positions: (V,) numbers of the slices in their volumes.

        Returns:
            (V, D, h, w).
        """
        if bank is None:
            return coarse + self.tokens.no_mem_embed.view(1, -1, 1, 1)
        found = recall(bank, make_key(coarse), count=self.num_recalled)
        distances = (found.positions - positions.unsqueeze(1)) / DISTANCE_UNIT_SLICES  # (V, n)
        when = self.tokens.obj_ptr_tpos_proj(get_1d_sine_pe(distances, dim=coarse.shape[1]))  # (V, n, M)
        memory = found.features.flatten(3).transpose(2, 3)  # (V, n, h * w, M)
        where = self.encoder.position_encoding(found.features[:, 0]).flatten(2).transpose(1, 2)  # (V, h * w, M)
        code = where.unsqueeze(1) + (when + self.tokens.rank_code(len(found))).unsqueeze(2)  # (V, n, h * w, M)
        pointers = found.pointers.unflatten(3, (-1, self.width)).flatten(2, 3)  # (V, n, 4 K, M)
        pointer_code = when.unsqueeze(2).expand_as(pointers)
        tokens = coarse.flatten(2).permute(2, 0, 1)  # (h * w, V, D)
        seen = self.attention(
            curr=tokens,
            curr_pos=self.position(coarse).flatten(2).permute(2, 0, 1),
            memory=torch.cat([memory.flatten(1, 2), pointers.flatten(1, 2)], dim=1).transpose(0, 1),
            memory_pos=torch.cat([code.flatten(1, 2), pointer_code.flatten(1, 2)], dim=1).transpose(0, 1),
            num_obj_ptr_tokens=pointers.shape[1] * pointers.shape[2],
        )  # (h * w, V, D)
        return seen.permute(1, 2, 0).view_as(coarse)

    def write(
        self,
        bank: MemoryBank | None,
        coarse: Tensor,
        *,
        masks: Tensor,
        tokens: Tensor,
        presence: Tensor,
        quality: Tensor,
        positions: Tensor,
    ) -> MemoryBank:
        """Add slices to the bank, and return it.

        Args:
            bank: The memories of the volumes; None at the beginning.
            coarse: (V, D, h, w) features at stride 16, before `read` changed them.
            masks: (V, K, h4, w4) probabilities.
            tokens: (V, K, D) of the mask decoder, one per organ.
            presence: (V, K) probability that the organ is in the slice: the weight of its token against SAM 2's of
                absence.
            quality: (V, K) predicted IoU.
            positions: (V,) numbers of the slices in their volumes.
        """
        rows, columns = coarse.shape[-2:]
        painted = torch.einsum("vkhw,vkd->vdhw", masks, self.paint(tokens))  # (V, D, h4, w4)
        union = F.interpolate(masks.amax(dim=1, keepdim=True), size=(16 * rows, 16 * columns), mode="bilinear")
        encoded = self.encoder(
            coarse + F.adaptive_avg_pool2d(painted, (rows, columns)),
            MASK_SCALE * union + MASK_BIAS,
            skip_mask_sigmoid=True,
        )["vision_features"]  # (V, M, h, w)
        absence = 1 - presence.amax(dim=1).view(-1, 1, 1, 1)  # of all organs
        encoded = encoded + absence * self.tokens.no_obj_embed_spatial.view(1, -1, 1, 1)
        here = presence.unsqueeze(2)  # (V, K, 1)
        pointers = here * self.tokens.obj_ptr_proj(tokens) + (1 - here) * self.tokens.no_obj_ptr  # (V, K, D)
        entry = MemoryBank(
            features=encoded.unsqueeze(1),
            pointers=pointers.unsqueeze(1),
            keys=make_key(coarse).unsqueeze(1),
            quality=quality.mean(dim=1, keepdim=True),
            positions=positions.unsqueeze(1),
        )
        capacity = capacity_within(entry, num_slices=self.num_slices, num_bytes=self.num_bytes)
        return remember(bank, entry, capacity=capacity, update=self.update)
