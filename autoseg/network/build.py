"""Builds the whole network from the numbers of a plan, on one page."""

from typing import TYPE_CHECKING

from torch import nn

from autoseg.config.plans import NetworkPlan, Plans
from autoseg.network.backbones.hiera import HieraBackbone
from autoseg.network.backbones.protocol import ImageBackbone
from autoseg.network.backbones.semantic_injection import SemanticInjection
from autoseg.network.interaction import CrossModalInteraction
from autoseg.network.mask_decoder import SemanticMaskDecoder
from autoseg.network.memory.slice_memory import SliceMemory
from autoseg.network.model import AutosegNetwork
from autoseg.network.point_prompts import PointPromptEncoder
from autoseg.network.prompt_projector import PromptProjector
from autoseg.network.refiner import Refiner
from autoseg.network.sam2_modules import (
    HIERA_SIZES,
    MemoryTokens,
    PositionEmbeddingRandom,
    PositionEmbeddingSine,
    build_hiera,
    build_mask_decoder,
    build_memory_attention,
    build_memory_encoder,
    build_neck,
    build_prompt_encoder,
    build_two_way_transformer,
)
from autoseg.network.semantic_decoder import SemanticAwareDecoder
from autoseg.network.text.learned_embedding import LearnedText

if TYPE_CHECKING:
    from autoseg.network.text.clip_image_encoder import ClipImageTower

FINAL_STRIDE = 16  # of the features that SAM's decoder takes
SLICES_TO_ENCODER = 3  # so that a pretrained patch embedding for color images fits


def build_network(
    plans: Plans,
    *,
    text: nn.Module | None = None,
    image_tower: "ClipImageTower | None" = None,
    image_backbone: ImageBackbone | None = None,
    offline: bool = False,
) -> AutosegNetwork:
    """Build the network of a plan with new weights; `weights/sam2_checkpoint.py` loads those of a checkpoint.

    Args:
        plans: The resolved plan.
        text: A module that turns organ positions into sentence vectors; None builds the plan's text encoder.
        image_tower: CLIP's image encoder, where the plan uses it and `text` is given; otherwise it is built too.
        image_backbone: A module that encodes slices, in place of the plan's Hiera.
        offline: Whether the text model comes from the hub's cache alone.

    Raises:
        CheckpointError: The text model that the plan names cannot be loaded.

    Example:
        >>> network = autoseg.build_network(plans)
        >>> output = network(images, torch.arange(2))  # (B, N * C, R, W) slices, the first two organs of the plan
        >>> output.logits.shape
        torch.Size([4, 3, 128, 128])
    """
    network = plans.network
    channels = network.feature_channels
    num_channels = len(plans.data.channels)
    encoder_channels = SLICES_TO_ENCODER * num_channels
    if text is None:
        text, image_tower = _build_towers(plans, offline=offline)
    assert (image_tower is not None) == (network.interaction_image_encoder == "clip")
    backbone = image_backbone or _build_hiera_backbone(network)
    decoder = build_mask_decoder(network.backbone, feature_channels=channels)
    point_prompts = None
    if network.point_prompts:
        point_prompts = PointPromptEncoder(build_prompt_encoder(feature_channels=channels, side=network.image_size_px))
    position = PositionEmbeddingRandom(channels // 2) if point_prompts is None else point_prompts.encoder.pe_layer
    memory = _build_memory(network) if network.memory_slices else None
    return AutosegNetwork(
        text=text,
        image_tower=image_tower,
        stem=nn.Identity() if encoder_channels == 3 else nn.Conv2d(encoder_channels, 3, kernel_size=1),
        interaction=CrossModalInteraction(
            image_channels=image_tower.channels if image_tower else backbone.token_channels,
            channels=channels,
            num_levels=network.interaction_levels,
        ),
        image_encoder=backbone,
        prompt_projector=PromptProjector(channels=channels, num_tokens=network.prompt_tokens),
        point_prompt_encoder=point_prompts,
        mask_decoder=SemanticMaskDecoder(decoder=decoder, channels=channels),
        semantic_decoder=SemanticAwareDecoder(transformer=build_two_way_transformer(channels), channels=channels)
        if network.semantic_decoder
        else None,
        memory=memory,
        refiner=Refiner(
            image_channels=(2 * network.context_slices + 1) * num_channels,
            channels=channels,
            stage_channels=network.refiner_channels,
            stride=network.refiner_stride,
            point_prompts=network.point_prompts,
        )
        if network.refiner_channels
        else None,
        position=position,
        image_size_px=network.image_size_px,
        encoder_channels=encoder_channels,
    )


def _build_hiera_backbone(network: NetworkPlan) -> HieraBackbone:
    stages = HIERA_SIZES[network.backbone].stage_channels
    return HieraBackbone(
        hiera=build_hiera(network.backbone),
        neck=build_neck(network.backbone, feature_channels=network.feature_channels),
        injection=SemanticInjection(
            channels=network.feature_channels,
            stage_channels={stage: stages[max(0, stage - 1)] for stage in network.injection_stages},
        ),
        token_channels=stages[0],
    )


def _build_towers(plans: Plans, *, offline: bool) -> tuple[nn.Module, "ClipImageTower | None"]:
    network = plans.network
    channels = network.feature_channels
    if network.text.model == "learned":
        return LearnedText(len(plans.data.text_rows), channels=channels), None
    # open_clip loads for a second: only where one of its towers is needed
    from autoseg.network.text.clip_image_encoder import build_clip_image
    from autoseg.network.text.open_clip_models import load_clip
    from autoseg.network.text.text_encoder import build_text_encoder

    clip = None if network.text.model == "nano" else load_clip(network.text, offline=offline)  # once, for both towers
    sentences = plans.data.text_rows
    text = build_text_encoder(network.text, sentences, feature_channels=channels, clip=clip)
    return text, build_clip_image(network, clip) if network.interaction_image_encoder == "clip" else None


def _build_memory(network: NetworkPlan) -> SliceMemory:
    channels = network.feature_channels
    return SliceMemory(
        attention=build_memory_attention(
            network.backbone, feature_channels=channels, side=network.image_size_px // FINAL_STRIDE
        ),
        encoder=build_memory_encoder(feature_channels=channels),
        tokens=MemoryTokens(channels),
        position=PositionEmbeddingSine(num_pos_feats=channels, normalize=True),
        channels=channels,
        num_slices=network.memory_slices,
        num_bytes=int(network.memory_mib * 2**20),
        num_recalled=network.memory_attended_slices,
        update=network.memory_update,
    )
