import torch

from autoseg.network.mask_decoder import SemanticMaskDecoder
from autoseg.network.prompt_projector import Prompts
from autoseg.network.sam2_modules import PositionEmbeddingRandom, build_mask_decoder


def test_decode_without_the_semantic_head_equals_sam2s_own_decoder():
    """SAM2 takes our semantic token for one more prompt; then its first mask must be ours, organ by organ."""
    channels, num_slices, num_organs = 32, 2, 3
    sams = build_mask_decoder("tiny", feature_channels=channels).eval()
    ours = SemanticMaskDecoder(decoder=sams, channels=channels).eval()
    torch.nn.init.zeros_(ours.semantic_head[-1].weight)
    torch.nn.init.zeros_(ours.semantic_head[-1].bias)
    pyramid = [torch.randn(num_slices, channels, side, side) for side in (16, 8, 4)]
    prompts = Prompts(
        sparse=torch.randn(num_slices, num_organs, 3, channels),
        dense=torch.randn(num_slices, num_organs, channels, 4, 4),
    )
    position = PositionEmbeddingRandom(channels // 2)((4, 4)).unsqueeze(0)
    with torch.no_grad():
        decoded = ours(pyramid, prompts, position)
        for b in range(num_slices):
            for k in range(num_organs):
                masks, quality, tokens, presence = sams.predict_masks(
                    image_embeddings=pyramid[2][b : b + 1],
                    image_pe=position,
                    sparse_prompt_embeddings=torch.cat([ours.semantic_token, prompts.sparse[b : b + 1, k]], dim=1),
                    dense_prompt_embeddings=prompts.dense[b : b + 1, k],
                    repeat_image=False,
                    high_res_features=[sams.conv_s0(pyramid[0][b : b + 1]), sams.conv_s1(pyramid[1][b : b + 1])],
                )
                close = {"atol": 1e-5, "rtol": 1e-4}
                torch.testing.assert_close(decoded.mask_logits[b, k], masks[0, 0], **close)
                torch.testing.assert_close(decoded.iou_predictions[b, k], quality[0, 0], **close)
                torch.testing.assert_close(decoded.object_score_logits[b, k], presence[0, 0], **close)
                torch.testing.assert_close(decoded.tokens[b, k], tokens[0, 0], **close)
