"""The only door to the sam2 package: its modules, in the sizes that a plan can name.

Owns: the table of backbone sizes, the building of Hiera, its neck, SAM's decoder and memory, and the loading of Meta's
checkpoints.
Does not own: what happens between the parts (`image_encoder.py`, `mask_decoder.py`, `model.py`).

The parts keep sam2's own names inside, so Meta's weights fit key by key.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from sam2.modeling.backbones.hieradet import Hiera, MultiScaleBlock
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingRandom, PositionEmbeddingSine
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import Attention, RoPEAttention, TwoWayTransformer
from sam2.modeling.sam2_utils import LayerNorm2d, get_1d_sine_pe
from torch import nn

from autoseg.errors import CheckpointError
from autoseg.plans import Backbone

__all__ = [
    "Attention",
    "FpnNeck",
    "Hiera",
    "LayerNorm2d",
    "MaskDecoder",
    "MemoryAttention",
    "MemoryEncoder",
    "MultiScaleBlock",
    "PositionEmbeddingRandom",
    "PositionEmbeddingSine",
    "TwoWayTransformer",
    "build_hiera",
    "build_mask_decoder",
    "build_memory_attention",
    "build_memory_encoder",
    "build_neck",
    "build_two_way_transformer",
    "get_1d_sine_pe",
    "load_sam2_checkpoint",
]

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class HieraSize:
    """The numbers that tell one Hiera from another; all but nano are sam2's own configurations."""

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


def memory_channels(feature_channels: int) -> int:
    """Return the width of a memory: a quarter of D, as in SAM2."""
    return feature_channels // 4


def build_memory_attention(size: Backbone, *, feature_channels: int, side: int) -> MemoryAttention:
    """Build the attention of a slice to its memory, SAM2's four layers, one for nano.

    Args:
        size: Of the backbone.
        feature_channels: D.
        side: Of the stride-16 grid, which must be a square for the rotary positions.
    """
    is_nano = size == "nano"
    numbers = {"embedding_dim": feature_channels, "num_heads": 1, "dropout": 0.0 if is_nano else 0.1}
    layer = MemoryAttentionLayer(
        activation="relu",
        cross_attention=RoPEAttention(
            **numbers, feat_sizes=(side, side), rope_k_repeat=True, kv_in_dim=memory_channels(feature_channels)
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
    """Build what makes a memory of a slice's features and its mask, in SAM2's proportions."""
    width = memory_channels(feature_channels)
    return MemoryEncoder(
        out_dim=width,
        in_dim=feature_channels,
        mask_downsampler=MaskDownSampler(embed_dim=feature_channels, kernel_size=3, stride=2, padding=1),
        fuser=Fuser(CXBlock(dim=feature_channels, layer_scale_init_value=1e-6), num_layers=2),
        position_encoding=PositionEmbeddingSine(num_pos_feats=width, normalize=True),
    )


def load_sam2_checkpoint(
    path: Path,
    *,
    hiera: Hiera,
    neck: FpnNeck,
    mask_decoder: MaskDecoder,
    position: PositionEmbeddingRandom,
    memory: tuple[MemoryAttention, MemoryEncoder] | None = None,
) -> dict[str, list[str]]:
    """Load a checkpoint in Meta's format, `{"model": state_dict}`, into the parts that autoseg shares with SAM2.

    Hiera must fit whole: sizes share some shapes, so half of another size's weights would fit and mean nothing. Neck,
    decoder and positional code fit where the plan has SAM2's own width (256), and stay new elsewhere.

    Returns:
        The keys that were "loaded", "skipped" (no part of ours, such as the memory encoder) and "missing".

    Raises:
        CheckpointError: The file is no such checkpoint, or its Hiera is not of the plan's size.
    """
    weights = _read_checkpoint(path)
    parts: dict[str, nn.Module] = {
        "image_encoder.trunk.": hiera,
        "image_encoder.neck.": neck,
        "sam_mask_decoder.": mask_decoder,
        "sam_prompt_encoder.pe_layer.": position,  # the decoder learned to read this very code
    }
    if memory is not None:
        parts |= {"memory_attention.": memory[0], "memory_encoder.": memory[1]}
    fitting: dict[str, dict[str, torch.Tensor]] = {}
    report: dict[str, list[str]] = {"loaded": [], "skipped": [], "missing": []}
    for prefix, part in parts.items():
        own = part.state_dict()
        given = {key[len(prefix) :]: value for key, value in weights.items() if key.startswith(prefix)}
        fitting[prefix] = {key: value for key, value in given.items() if key in own and own[key].shape == value.shape}
        report["loaded"] += [prefix + key for key in fitting[prefix]]
        report["skipped"] += [prefix + key for key in given if key not in fitting[prefix]]
        report["missing"] += [prefix + key for key in own if key not in fitting[prefix]]
    odd = [key for key in report["missing"] + report["skipped"] if key.startswith("image_encoder.trunk.")]
    if odd:
        raise CheckpointError(
            f"{path}: its Hiera is of another size than the plan's: {len(odd)} tensors differ, such as {odd[0]}. "
            "Plan with network.backbone as in the checkpoint: tiny, small, base_plus or large."
        )
    for prefix, part in parts.items():
        part.load_state_dict(fitting[prefix], strict=False)
    report["skipped"] += [key for key in weights if not key.startswith(tuple(parts))]
    log.info("%s: %d tensors loaded, %d skipped, %d missing", path.name, *(len(report[k]) for k in report))
    return report


def _read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: there is no such file. Give the path of a SAM2 checkpoint, or a name such as "
            "sam2.1_hiera_tiny for one of the hub's."
        ) from None
    except Exception as error:  # torch names damage in a dozen ways
        raise CheckpointError(f"{path} cannot be read as a SAM2 checkpoint: {error}") from error
    weights = content.get("model") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise CheckpointError(f"{path} is no SAM2 checkpoint: it has no 'model' with weights in it.")
    if not all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in weights.items()):
        raise CheckpointError(f"{path} is no SAM2 checkpoint: its 'model' holds more than named tensors.")
    return weights
