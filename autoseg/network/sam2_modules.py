"""Builds the modules of sam2 in the sizes that a plan can name; no other file imports that package.

Owns: the table of backbone sizes; Hiera, its neck, SAM's decoder, memory and prompt encoder, with sam2's own names
inside, so that Meta's weights fit key by key.
Does not own: the data flow between them (`backbones/hiera.py`, `mask_decoder.py`, `model.py`), pretrained weights
(`weights/sam2_checkpoint.py`).
"""

from dataclasses import dataclass

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingRandom as PositionEmbeddingRandom
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.prompt_encoder import PromptEncoder
from sam2.modeling.sam.transformer import Attention as Attention
from sam2.modeling.sam.transformer import RoPEAttention, TwoWayTransformer
from sam2.modeling.sam2_utils import MLP
from sam2.modeling.sam2_utils import LayerNorm2d as LayerNorm2d
from sam2.modeling.sam2_utils import get_1d_sine_pe as get_1d_sine_pe
from torch import Tensor, nn

from autoseg.config.plans import Backbone

MEMORY_RANKS = 7  # SAM 2's codes for the age of a memory: one for the prompted frame, six for the last ones


@dataclass(frozen=True)
class HieraSize:
    """The numbers that distinguish the sizes of Hiera; all but nano are sam2's own configurations."""

    width: int
    num_heads: int
    blocks: tuple[int, int, int, int]
    global_blocks: tuple[int, ...]
    window_background: tuple[int, int]
    windows: tuple[int, int, int, int] = (8, 4, 14, 7)

    @property
    def stage_channels(self) -> tuple[int, int, int, int]:
        """Channels of the four stages, finest first."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)


# A global-attention block must not be the first of its stage: there the queries are pooled inside windows.
HIERA_SIZES: dict[Backbone, HieraSize] = {
    "nano": HieraSize(32, 1, (1, 2, 3, 1), (4,), (4, 4), (8, 4, 4, 2)),
    "tiny": HieraSize(96, 1, (1, 2, 7, 2), (5, 7, 9), (7, 7)),
    "small": HieraSize(96, 1, (1, 2, 11, 2), (7, 10, 13), (7, 7)),
    "base_plus": HieraSize(112, 2, (2, 3, 16, 3), (12, 16, 20), (14, 14)),
    "large": HieraSize(144, 2, (2, 6, 36, 4), (23, 33, 43), (7, 7), (8, 4, 16, 8)),
}


def build_hiera(size: Backbone) -> Hiera:
    """Build the image backbone; its stages have strides 4, 8, 16 and 32."""
    numbers = HIERA_SIZES[size]
    hiera = Hiera(
        embed_dim=numbers.width,
        num_heads=numbers.num_heads,
        stages=numbers.blocks,
        global_att_blocks=numbers.global_blocks,
        window_pos_embed_bkg_spatial_size=numbers.window_background,
        window_spec=numbers.windows,
    )
    nn.init.trunc_normal_(hiera.pos_embed, std=0.02)
    nn.init.trunc_normal_(hiera.pos_embed_window, std=0.02)
    return hiera


def build_neck(size: Backbone, *, feature_channels: int) -> FpnNeck:
    """Build the feature pyramid: D channels at each stride, top-down at strides 16 and 32 as in SAM2."""
    return FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=feature_channels, normalize=True),
        d_model=feature_channels,
        backbone_channel_list=list(HIERA_SIZES[size].stage_channels[::-1]),
        # A pretrained neck was trained with top-down features at the two coarse levels only.
        fpn_top_down_levels=None if size == "nano" else [2, 3],
        fpn_interp_model="nearest",
    )


def build_two_way_transformer(feature_channels: int) -> TwoWayTransformer:
    """Build the token-image transformer of SAM's decoder, in SAM2's proportions."""
    return TwoWayTransformer(
        depth=2,
        embedding_dim=feature_channels,
        num_heads=8,
        mlp_dim=8 * feature_channels if feature_channels >= 256 else 2 * feature_channels,
    )


def build_mask_decoder(size: Backbone, *, feature_channels: int) -> MaskDecoder:
    """Build SAM2's mask decoder with high-resolution features; the nano size leaves out the multimask tokens."""
    return MaskDecoder(
        transformer_dim=feature_channels,
        transformer=build_two_way_transformer(feature_channels),
        num_multimask_outputs=0 if size == "nano" else 3,
        iou_head_hidden_dim=feature_channels,
        use_high_res_features=True,
        iou_prediction_use_sigmoid=True,
        pred_obj_scores=True,
        pred_obj_scores_mlp=True,
    )


def build_memory_attention(size: Backbone, *, feature_channels: int, side: int) -> MemoryAttention:
    """Build the attention of a slice to its memory, SAM2's four layers, one for nano.

    The stride-16 grid must be a square of `side` cells for the rotary positions.
    """
    is_nano = size == "nano"
    numbers = {"embedding_dim": feature_channels, "num_heads": 1, "dropout": 0.0 if is_nano else 0.1}
    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=RoPEAttention(
            **numbers, feat_sizes=(side, side), rope_k_repeat=True, kv_in_dim=feature_channels // 4
        ),
        self_attention=RoPEAttention(**numbers, feat_sizes=(side, side)),
        d_model=feature_channels,
        dim_feedforward=(2 if is_nano else 8) * feature_channels,
        dropout=0.0 if is_nano else 0.1,
        pos_enc_at_attn=False,
        pos_enc_at_cross_attn_keys=True,
        pos_enc_at_cross_attn_queries=False,
    )
    return MemoryAttention(d_model=feature_channels, pos_enc_at_input=True, layer=layer, num_layers=1 if is_nano else 4)


def build_memory_encoder(*, feature_channels: int) -> MemoryEncoder:
    """Build the encoder that turns a slice's features and mask into a memory, in SAM2's proportions."""
    width = feature_channels // 4  # as in SAM2
    return MemoryEncoder(
        out_dim=width,
        in_dim=feature_channels,
        mask_downsampler=MaskDownSampler(embed_dim=feature_channels, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(dim=feature_channels, layer_scale_init_value=1e-6), num_layers=2),
        position_encoding=PositionEmbeddingSine(num_pos_feats=width, normalize=True),
    )


class MemoryTokens(nn.Module):
    """The tensors and small layers of SAM 2's model outside memory attention and encoder, under its names."""

    def __init__(self, channels: int) -> None:
        """Draw them as sam2 does, for D = `channels` and memories of M = D / 4."""
        super().__init__()
        width = channels // 4
        self.no_mem_embed = _new_token(1, 1, channels)
        self.maskmem_tpos_enc = _new_token(MEMORY_RANKS, 1, 1, width)
        self.no_obj_ptr = _new_token(1, channels)
        self.no_obj_embed_spatial = _new_token(1, width)
        self.obj_ptr_proj = MLP(channels, channels, channels, 3)
        self.obj_ptr_tpos_proj = nn.Linear(channels, width)

    def rank_code(self, count: int) -> Tensor:
        """Return (count, M) codes of the most similar memory, the second, and so on.

        They are SAM 2's codes of the last frame, the one before, and so on; from the sixth memory on they are equal.
        """
        rows = [max(0, MEMORY_RANKS - 2 - rank) for rank in range(count)]
        return self.maskmem_tpos_enc[rows, 0, 0]


def _new_token(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.zeros(shape), std=0.02))


def build_prompt_encoder(*, feature_channels: int, side: int) -> PromptEncoder:
    """Build SAM's prompt encoder for points and boxes in a square of `side` pixels, without mask prompts."""
    grid = (side // 16, side // 16)
    encoder = PromptEncoder(feature_channels, grid, (side, side), mask_in_chans=16)
    encoder.mask_downscaling = nn.Identity()
    return encoder
