"""Loads open_clip's models for both of their encoders; no other file imports that package.

Owns: loading a model by name, and building an image encoder from its description alone.
Does not own: sentence vectors (`text_encoder.py`), image tokens (`clip_image_encoder.py`).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip import tokenize as tokenize
from open_clip.transformer import TextTransformer as TextTransformer
from torch import Tensor, nn

from autoseg.config.plans import TextPlan
from autoseg.errors import CheckpointError
from autoseg.hub.download import cache_folder, explain_no_network, hub_access, is_absence
from autoseg.network.weights.load_errors import explain_load_failure

MOST_IMAGE_PX = 2048  # side of a tower's input; as much as Hiera's in a plan
# open_clip builds both towers or none; this text tower is the least that it takes, and is thrown away
NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}

Tokenizer = Callable[[list[str]], Tensor]


@dataclass(frozen=True)
class ClipModel:
    """One of open_clip's models, taken apart.

    Attributes:
        text: A module from (N, L) tokens to (N, width).
        visual: The image encoder.
        visual_config: The description from which `build_visual` builds such an image encoder.
        tokenizer: A function from sentences to (N, L) tokens, L being its `context_length`.
    """

    text: nn.Module
    visual: nn.Module
    visual_config: dict[str, Any]
    tokenizer: Any


def load_clip(plan: TextPlan, *, offline: bool = False) -> ClipModel:
    """Create the model that the plan names, with its weights where the plan names some.

    Where `offline` is set, weights come from the hub's cache alone.

    Raises:
        CheckpointError: open_clip does not know the model, or its weights cannot be loaded.
    """
    is_on_hub = plan.model.startswith("hf-hub:") or bool(open_clip.get_pretrained_cfg(plan.model, plan.weights or ""))
    fault = None
    with hub_access(offline=offline) as may_ask:
        if is_on_hub:
            fault = explain_no_network() if may_ask else "nothing may be fetched (--offline, or HF_HUB_OFFLINE)"
        try:
            with hub_access(offline=fault is not None):  # without a network the cache may have everything
                return _load(plan)
        except Exception as error:  # open_clip raises RuntimeError, KeyError, FileNotFoundError and hub errors alike
            reason = explain_load_failure(error)
            if fault is not None and is_absence(error):
                reason = (
                    f"{fault}, and the hub's cache, {cache_folder()}, does not have all of it. Run once with a "
                    "network, or set network.text.weights to a file."
                )
            raise CheckpointError(
                f"text model {plan.model!r} with weights {plan.weights!r} cannot be loaded: {reason.rstrip('.')}. "
                "Check network.text.model and network.text.weights."
            ) from error


def _load(plan: TextPlan) -> ClipModel:
    # pretrained_text: without weights in the plan nothing is fetched from a hub, not even for a part of the model
    model = open_clip.create_model(
        plan.model,
        pretrained=plan.weights,
        load_weights=plan.weights is not None,
        pretrained_text=False,
        force_patch_dropout=0.0,  # the patches must form a complete grid
    )
    tokenizer = open_clip.get_tokenizer(plan.model)
    has_scheme = plan.model.startswith(("hf-hub:", "local-dir:"))
    config = open_clip.get_model_config(plan.model if has_scheme else plan.model.replace("/", "-"))
    visual = model.visual
    return ClipModel(
        text=_ClipTextTower(model),
        visual=visual,
        visual_config={key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config},
        tokenizer=tokenizer,
    )


class _ClipTextTower(nn.Module):
    """A whole CLIP model, of which only the text half is called and kept."""

    def __init__(self, model: open_clip.CLIP | open_clip.CustomTextCLIP) -> None:
        super().__init__()
        del model.visual
        del model.logit_scale
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        vectors: Tensor = self.model.encode_text(tokens)
        return vectors


def build_visual(config: Mapping[str, Any]) -> nn.Module:
    """Build an image encoder with new weights from a description as in open_clip's model files; nothing is fetched."""
    vision = dict(config["vision_cfg"]) | {"patch_dropout": 0.0, "timm_model_pretrained": False}
    model = open_clip.CLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=vision,
        text_cfg=dict(NO_TEXT),
        quick_gelu=config.get("quick_gelu", False),
    )
    visual: nn.Module = model.visual
    return visual


def check_visual(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that an untrusted description fits the shapes of its weights, before it takes any memory.

    Raises:
        ValueError: It would need the network, exceeds the limits, or does not fit.
    """
    vision = config["vision_cfg"]
    side = vision.get("image_size", 0)
    if max(side if isinstance(side, list) else [side]) > MOST_IMAGE_PX:
        raise ValueError(f"its input of {side} px is larger than {MOST_IMAGE_PX}")
    name = vision.get("timm_model_name")
    if name is not None and not re.fullmatch(r"[\w.]+", name):  # another form would be an address
        raise ValueError(f"{name!r} is not a name in timm")
    if vision.get("layers", 0) > len(shapes):
        raise ValueError(f"it has {vision['layers']} layers, more than weights")
    with torch.device("meta"):
        wanted = keep_patches(build_visual(config)).state_dict()
    if {key: tuple(value.shape) for key, value in wanted.items()} != dict(shapes):
        raise ValueError("its description and its weights differ")


def keep_patches(visual: nn.Module) -> nn.Module:
    """Remove what follows the patch tokens from an image encoder, and return it.

    Raises:
        TypeError: The encoder is not made of stages that end in patch tokens.
    """
    trunk: Any = getattr(visual, "trunk", visual)  # timm's models are wrapped in an adapter
    if not (hasattr(trunk, "prune_intermediate_layers") and hasattr(visual, "forward_intermediates")):
        raise TypeError(f"{type(trunk).__name__} does not give them")
    trunk.prune_intermediate_layers(1, prune_norm=True, prune_head=True)
    for name in ("head", "attn_pool", "attn_pool_contrastive"):  # timm's adapter has the first, CoCa the others
        if isinstance(getattr(visual, name, None), nn.Module):
            setattr(visual, name, None)
    return visual
