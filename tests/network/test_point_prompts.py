import pytest
import torch

from autoseg.network.point_prompts import (
    BOX_FIRST,
    BOX_LAST,
    INSIDE,
    NOTHING,
    OUTSIDE,
    PointPromptEncoder,
    PointPrompts,
    paint_point_prompts,
)
from autoseg.network.sam2_modules import build_prompt_encoder

WINDOW = (16, 48)


def make_points(*, kinds, places):
    return PointPrompts(torch.tensor(places, dtype=torch.float32), torch.tensor(kinds))


@pytest.fixture
def encoder():
    return PointPromptEncoder(build_prompt_encoder(feature_channels=16, side=32)).eval()


def test_a_token_is_sams_own_of_the_same_place_and_kind(encoder):
    """Window 16 x 48, square 32 x 32: the middle of row 3, 3.5 of 16, is 7 of 32; of column 11, 11.5 of 48, is 7.67."""
    point_prompts = make_points(kinds=[[[INSIDE]]], places=[[[[3, 11]]]])
    tokens = encoder(point_prompts, window=WINDOW).tokens
    assert tokens.shape == (1, 1, 2, 16)
    place = torch.tensor([[[11.5 / 48 * 32, 7.0]]])  # x, y in the middle of a pixel
    code = encoder.encoder.pe_layer.forward_with_coords(place, (32, 32))[0, 0]
    torch.testing.assert_close(tokens[0, 0, 0], code + encoder.encoder.point_embeddings[1].weight[0])
    torch.testing.assert_close(tokens[0, 0, 1], encoder.encoder.not_a_point_embed.weight[0])


def test_flipping_mirrors_places_and_keeps_a_boxs_first_corner_the_smaller():
    kinds = [[[INSIDE, BOX_FIRST, BOX_LAST]], [[OUTSIDE, NOTHING, NOTHING]]]
    places = [[[[0, 1], [2, 10], [5, 20]]], [[[15, 47], [0, 0], [0, 0]]]]
    point_prompts = make_points(kinds=kinds, places=places)
    columns = point_prompts.flip((3,), window=WINDOW)
    assert columns.places[0, 0].tolist() == [[0, 46], [2, 27], [5, 37]]
    assert columns.places[1, 0, 0].tolist() == [15, 0]
    both = point_prompts.flip((2, 3), window=WINDOW)
    assert both.places[0, 0].tolist() == [[15, 46], [10, 27], [13, 37]]
    assert torch.equal(both.flip((2, 3), window=WINDOW).places[0], point_prompts.places[0])
    assert torch.equal(point_prompts.flip((), window=WINDOW).places, point_prompts.places)
    assert torch.equal(both.kinds, point_prompts.kinds)


def test_points_change_the_slice_and_organ_pointed_at_and_a_network_without_them_refuses(make_network):
    network, _ = make_network(2, point_prompts=True)
    images, organs = torch.randn(2, 3, 32, 32), torch.arange(2)
    kinds = torch.full((2, 2, 1), NOTHING)
    none = PointPrompts(torch.zeros(2, 2, 1, 2), kinds)
    encoded_prompts = PointPrompts(torch.full((2, 2, 1, 2), 9.0), kinds.clone())
    encoded_prompts.kinds[1, 0] = INSIDE
    with torch.no_grad():
        before, after = (
            network(images, organs, point_prompts=point_prompts) for point_prompts in (none, encoded_prompts)
        )
        elsewhere = network(
            images, organs, point_prompts=PointPrompts(encoded_prompts.places + 9, encoded_prompts.kinds)
        )
    torch.testing.assert_close(before.logits[0], after.logits[0])
    torch.testing.assert_close(before.mask_logits[1, 1], after.mask_logits[1, 1])
    assert not torch.allclose(before.mask_logits[1, 0], after.mask_logits[1, 0], atol=1e-3)
    assert not torch.allclose(before.logits[1], after.logits[1], atol=1e-4)
    assert not torch.allclose(elsewhere.mask_logits[1, 0], after.mask_logits[1, 0], atol=1e-3)
    without, _ = make_network(2)
    with pytest.raises(ValueError, match="takes no point_prompts"):
        without(images, organs, point_prompts=none)


def test_points_are_drawn_as_bumps_and_boxes_on_their_own_organ():
    kinds = [[[INSIDE, OUTSIDE, NOTHING], [BOX_FIRST, BOX_LAST, NOTHING]]]
    places = [[[[2.5, 1.5], [6.5, 5.5], [4.5, 4.5]], [[1.2, 2.0], [3.9, 4.0], [0.0, 0.0]]]]
    picture = paint_point_prompts(make_points(kinds=kinds, places=places), grid=(8, 6))
    points, boxes = picture[0, :, 0], picture[0, :, 1]
    assert points[0, 2, 1] == pytest.approx(1, abs=1e-3) and points[0, 6, 5] == pytest.approx(-1, abs=1e-3)
    assert points[0, 2, 2] == pytest.approx(0.6065, abs=1e-3)  # one cell away, exp(-1/2)
    assert not points[1].any() and not boxes[0].any()
    expected = torch.zeros(8, 6)
    expected[1:4, 2:4] = 1
    assert torch.equal(boxes[1], expected)
