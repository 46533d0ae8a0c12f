"""Two blobs that look alike: after training, the point says which of them is asked for, and the text cannot."""

import pytest
import torch
from training_fixtures import compute_losses

from autoseg.network.build import build_network
from autoseg.network.point_prompts import INSIDE, PointPrompts

SIDE = 32
STEPS = 50


def draw_pair(generator):
    """Draw a slice with a blob in each half, and the pixel in the middle of each: (1, 3, R, W), (2, R, W), (2, 2)."""
    rows = torch.arange(SIDE).float()
    middles = torch.stack(
        [
            torch.randint(6, 26, (2,), generator=generator),
            torch.stack(
                [torch.randint(5, 11, (), generator=generator), torch.randint(21, 27, (), generator=generator)]
            ),
        ],
        dim=1,
    )  # (2, 2)
    distance = (rows.view(1, -1, 1) - middles[:, :1, None]) ** 2 + (rows.view(1, 1, -1) - middles[:, 1:, None]) ** 2
    masks = distance <= 16
    image = masks.any(dim=0).float() * 2 + 0.2 * torch.randn(SIDE, SIDE, generator=generator)
    return image.expand(1, 3, -1, -1), masks, middles.float()


def draw_batch(generator, size):
    """Draw slices; in each one of the two blobs is asked for by a point in its middle."""
    pairs = [draw_pair(generator) for _ in range(size)]
    asked = torch.randint(0, 2, (size,), generator=generator)
    images = torch.cat([image for image, _, _ in pairs])
    masks = torch.stack([masks[which] for (_, masks, _), which in zip(pairs, asked, strict=True)])
    places = torch.stack([middles[which] for (_, _, middles), which in zip(pairs, asked, strict=True)])
    return images, masks, PointPrompts(places.view(size, 1, 1, 2), torch.full((size, 1, 1), INSIDE))


@pytest.mark.slow
def test_the_point_decides_between_two_that_look_alike(tiny_plans):
    plans = tiny_plans(1, network={"point_prompts": True})
    generator = torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    network = build_network(plans).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        images, masks, point_prompts = draw_batch(generator, 8)
        output = network(images, torch.arange(1), point_prompts=point_prompts)
        compute_losses(output, masks.long(), weights=plans.training.loss)["total"].backward()
        optimizer.step()
        optimizer.zero_grad()
    images, masks, point_prompts = draw_batch(generator, 16)
    with torch.no_grad():
        found = network.eval()(images, torch.arange(1), point_prompts=point_prompts).logits.argmax(dim=1) == 1
    overlap = 2 * (found & masks).sum() / (found.sum() + masks.sum())
    assert overlap > 0.8  # of both blobs alike it would be two thirds
