"""Wires the whole network, in the order in which a slice flows through it.

Owns: `AutosegNetwork.forward`.
Does not own: its output (`output.py`), how the parts are built (`build.py`), the loss (`training/loss/`).

Legend: B slices, of V volumes T each where the memory is used, K requested organs, D channels, C image channels, N
neighboring slices, R x W the window at target spacing, h4 x w4 the grid at stride 4 of the image encoder.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autoseg.network.backbones.protocol import ImageBackbone
from autoseg.network.interaction import CrossModalInteraction
from autoseg.network.mask_decoder import DecodedMasks, SemanticMaskDecoder
from autoseg.network.memory.memory_bank import MemoryBank
from autoseg.network.memory.slice_memory import SliceMemory
from autoseg.network.output import DecodedSlices, NetworkOutput
from autoseg.network.point_prompts import EncodedPrompts, PointPromptEncoder, PointPrompts, no_point_prompts
from autoseg.network.prompt_projector import PromptProjector, Prompts
from autoseg.network.refiner import Refiner
from autoseg.network.sam2_modules import PositionEmbeddingRandom
from autoseg.network.semantic_decoder import SemanticAwareDecoder, SemanticMap
from autoseg.system.torch_device import convolution_precision


class AutosegNetwork(nn.Module):
    """A text-guided SAM2: it takes slices and organs, and returns one map over all requested organs."""

    def __init__(
        self,
        *,
        text: nn.Module,
        image_tower: nn.Module | None,
        stem: nn.Module,
        interaction: CrossModalInteraction,
        image_encoder: ImageBackbone,
        prompt_projector: PromptProjector,
        point_prompt_encoder: PointPromptEncoder | None,
        mask_decoder: SemanticMaskDecoder,
        semantic_decoder: SemanticAwareDecoder | None,
        memory: SliceMemory | None,
        refiner: Refiner | None,
        position: PositionEmbeddingRandom,
        image_size_px: int,
        encoder_channels: int,
    ) -> None:
        """Take the built parts, of which a plan may leave out those that are None; `build.py` shows how they are built.

        The stem maps `encoder_channels`, from the middle of the input, to the three that the image encoder takes; the
        image encoder sees a square of `image_size_px`. Without CLIP's `image_tower` the text attends to Hiera's own
        patches, and `position` is the positional code of the stride-16 grid.
        """
        super().__init__()
        self.text = text
        self.image_tower = image_tower
        self.stem = stem
        self.interaction = interaction
        self.image_encoder = image_encoder
        self.prompt_projector = prompt_projector
        self.point_prompt_encoder = point_prompt_encoder
        self.mask_decoder = mask_decoder
        self.semantic_decoder = semantic_decoder
        self.memory = memory
        self.refiner = refiner
        self.position = position
        self.image_size_px = image_size_px
        self.encoder_channels = encoder_channels
        # of SAM's decoder, of the semantic-aware decoder, of both decoders' presence
        self.fusion_gates = nn.Parameter(torch.tensor([0.1, 0.1, 0.1]))

    def forward(
        self,
        images: Tensor,
        organs: Tensor,
        *,
        point_prompts: PointPrompts | None = None,
        positions: Tensor | None = None,
        bank: MemoryBank | None = None,
        gradient_slices: int = 0,
    ) -> NetworkOutput:
        """Segment some organs in some slices; each slice is encoded once.

        Args:
            images: (B, N * C, R, W) normalized slices, each in the middle of its neighbors.
            organs: (K,) rows of the text, `plans.data.text_row`.
            point_prompts: Points and boxes for these slices and organs; None: text alone.
            positions: (V, T) numbers of the slices in their volumes, in the order in which the memory visits them;
                B = V * T, one volume after the other. None: each slice is segmented by itself.
            bank: The memory of the V volumes; None at their beginning.
            gradient_slices: The number of most recently visited slices through whose memory gradients flow.
        """
        vectors, is_sentence = self.text(organs)  # (K, S, D)
        small = self._to_square(self.stem(self._middle(images)))  # (B, 3, side, side)
        tokens = self.image_encoder.embed(small)  # (B, h4, w4, C0)
        seen = tokens if self.image_tower is None else self.image_tower(small)  # (B, H, W, C)
        semantics = self.interaction(seen, vectors, is_sentence)  # (B, K, D)
        pyramid = self.image_encoder(tokens, semantics)  # (B, D, h, w) at strides 4, 8, 16
        encoded_prompts = self._encode_point_prompts(
            point_prompts, semantics, window=(images.shape[-2], images.shape[-1])
        )
        if positions is None or self.memory is None:
            decoded = self._decode(pyramid, semantics, encoded_prompts)
        else:
            decoded, bank = self._decode_in_turn(
                pyramid, semantics, encoded_prompts, positions=positions, bank=bank, gradient_slices=gradient_slices
            )
        mapped = decoded.mapped
        refined, coarse_logits = self._refine(images, decoded, semantics, encoded_prompts)
        return NetworkOutput(
            logits=self._fuse(refined, decoded.masks, mapped),
            coarse_logits=coarse_logits,
            mask_logits=decoded.masks.mask_logits,
            map_logits=mapped.map_logits if mapped else None,
            iou_predictions=decoded.masks.iou_predictions,
            object_score_logits=decoded.masks.object_score_logits,
            semantic_object_score_logits=mapped.object_score_logits if mapped else None,
            bank=bank,
        )

    def _refine(
        self, images: Tensor, decoded: DecodedSlices, semantics: Tensor, encoded_prompts: EncodedPrompts | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.refiner is None:
            num_slices, num_organs, _ = semantics.shape
            return images.new_zeros(num_slices, 1 + num_organs, *images.shape[-2:]), None
        known = semantics + decoded.masks.tokens  # (B, K, D)
        with convolution_precision(images.device) if self.training else nullcontext():
            return self.refiner(
                images,
                fine=decoded.fine,
                masks=decoded.probs,
                organs=known,
                point_prompts=None if encoded_prompts is None else encoded_prompts.picture,
            )

    def _encode_point_prompts(
        self, point_prompts: PointPrompts | None, semantics: Tensor, *, window: tuple[int, int]
    ) -> EncodedPrompts | None:
        """Encode points and boxes; a network that takes them sees empty ones where none are given, as in training."""
        if self.point_prompt_encoder is None:
            if point_prompts is not None:
                raise ValueError("this network takes no point_prompts: network.point_prompts is off in its plan")
            return None
        if point_prompts is None:
            num_slices, num_organs, _ = semantics.shape
            point_prompts = no_point_prompts(num_slices, num_organs).to(semantics.device)
        return self.point_prompt_encoder(point_prompts, window=window)

    def _decode(
        self, pyramid: Sequence[Tensor], semantics: Tensor, encoded_prompts: EncodedPrompts | None
    ) -> DecodedSlices:
        """Make the prompts and run both decoders."""
        prompts, fused = self.prompt_projector(pyramid, semantics)
        if self.point_prompt_encoder is not None:
            prompts = Prompts(prompts.sparse, prompts.dense + self.point_prompt_encoder.no_mask)
        if encoded_prompts is not None:
            sparse = torch.cat([prompts.sparse, encoded_prompts.tokens], dim=2)
            prompts = Prompts(sparse, prompts.dense + encoded_prompts.dense)
        position = self.position(pyramid[-1].shape[-2:]).unsqueeze(0)  # (1, D, h, w)
        masks = self.mask_decoder(pyramid, prompts, position)
        mapped = self.semantic_decoder(fused, semantics, position) if self.semantic_decoder is not None else None
        return DecodedSlices(masks, mapped, fused[0])

    def _decode_in_turn(
        self,
        pyramid: Sequence[Tensor],
        semantics: Tensor,
        encoded_prompts: EncodedPrompts | None,
        *,
        positions: Tensor,
        bank: MemoryBank | None,
        gradient_slices: int,
    ) -> tuple[DecodedSlices, MemoryBank | None]:
        """Decode one slice of each volume after the other: each attends to the bank, then enters it."""
        assert self.memory is not None
        num_volumes, num_turns = positions.shape
        decoded: list[DecodedSlices] = []
        for turn in range(num_turns):
            rows = torch.arange(num_volumes, device=positions.device) * num_turns + turn  # (V,)
            *finer, coarse = (level[rows] for level in pyramid)
            seen = self.memory.read(coarse, bank, positions[:, turn])  # (V, D, h, w)
            one = self._decode(
                [*finer, seen], semantics[rows], None if encoded_prompts is None else encoded_prompts.take(rows)
            )
            decoded.append(one)
            if self.training and turn == num_turns - 1:
                break  # nobody reads what the last slice of a clip would leave
            bank = self.memory.write(
                bank,
                coarse,
                masks=one.probs,
                tokens=one.masks.tokens,
                presence=one.masks.object_score_logits.sigmoid(),
                quality=one.masks.iou_predictions,
                positions=positions[:, turn],
            ).detach_all_but(gradient_slices)
        return _join(decoded), bank

    def _middle(self, images: Tensor) -> Tensor:
        """Cut out the slice with one neighbor on each side, from the middle of the channels."""
        first = (images.shape[1] - self.encoder_channels) // 2
        return images[:, first : first + self.encoder_channels]

    def _to_square(self, images: Tensor) -> Tensor:
        size = (self.image_size_px, self.image_size_px)
        if images.shape[-2:] == size:
            return images
        is_smaller = images.shape[-2] < size[0] and images.shape[-1] < size[1]
        # In full precision: a stem gives less under autocast, in which not every device can smooth.
        return F.interpolate(images.float(), size=size, mode="bilinear", align_corners=False, antialias=not is_smaller)

    def _fuse(self, refined: Tensor, masks: DecodedMasks, mapped: SemanticMap | None) -> Tensor:
        """Add the decoders' coarse logits to the refined map, each times its learned gate.

        An organ that both decoders consider absent is suppressed in the whole slice: the log of its presence is added.
        """
        absence = F.logsigmoid(masks.object_score_logits)  # (B, K), 0 where surely present
        organs = self.fusion_gates[0] * masks.mask_logits
        if mapped is not None:
            absence = 0.5 * (absence + F.logsigmoid(mapped.object_score_logits))
        organs = organs + self.fusion_gates[2] * absence[..., None, None]
        coarse = F.pad(organs, (0, 0, 0, 0, 1, 0))  # background gets none
        if mapped is not None:
            coarse = coarse + self.fusion_gates[1] * mapped.map_logits
        return refined + F.interpolate(coarse, size=refined.shape[-2:], mode="bilinear", align_corners=False)


def _join(turns: Sequence[DecodedSlices]) -> DecodedSlices:
    """Put the slices of T turns, V in each, back into the order of the input: one volume after the other."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors), dim=1).flatten(0, 1)  # (V * T, ..)

    masks = DecodedMasks(**{name: join([vars(turn.masks)[name] for turn in turns]) for name in vars(turns[0].masks)})
    maps = [turn.mapped for turn in turns if turn.mapped is not None]
    mapped = SemanticMap(**{name: join([vars(one)[name] for one in maps]) for name in vars(maps[0])}) if maps else None
    return DecodedSlices(masks, mapped, join([turn.fine for turn in turns]))
