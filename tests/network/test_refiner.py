import pytest
import torch
import torch.nn.functional as F

from autoseg.network.refiner import PixelHead, Refiner, TextKernels


def test_text_kernels_give_the_dot_product_of_pixel_and_kernel_plus_its_bias():
    kernels = TextKernels(2, 2)
    with torch.no_grad():
        kernels.make.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))  # kernel = organ, bias = its sum
        kernels.make.bias.zero_()
        kernels.background.copy_(torch.tensor([0.0, 0.0, 7.0]))
    pixels = torch.tensor([[[[1.0, 2.0]], [[3.0, 4.0]]]])  # (1, 2, 1, 2)
    logits = kernels(pixels, torch.tensor([[[10.0, 1.0]]]))
    assert logits.tolist() == [[[[7.0, 7.0]], [[1 * 10 + 3 * 1 + 11, 2 * 10 + 4 * 1 + 11]]]]


@pytest.mark.parametrize("stride", [2, 4])
def test_pixels_inside_a_cell_are_those_that_shuffling_first_would_give(stride):
    head, kernels = PixelHead(6, stride=stride), TextKernels(5, 12)
    x, organs = torch.randn(2, 6, 3, 2), torch.randn(2, 3, 5)
    cells = kernels(head(x), organs)
    shuffled = F.leaky_relu(F.pixel_shuffle(head.conv(x), stride), 0.1)  # (2, 12, 3 stride, 2 stride)
    expected = kernels(shuffled, organs)
    assert torch.allclose(F.pixel_shuffle(cells.flatten(1, 2), stride), expected, atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_refiner_gives_every_pixel_of_the_window_and_half_of_the_finest_stage(stride):
    refiner = Refiner(image_channels=3, channels=16, stage_channels=(4, 8), stride=stride)
    logits, coarse_logits = refiner(
        torch.randn(2, 3, 16, 24),
        fine=torch.randn(2, 16, 4, 4),
        masks=torch.rand(2, 5, 4, 4),
        organs=torch.randn(2, 5, 16),
    )
    assert logits.shape == (2, 6, 16, 24)
    assert coarse_logits.shape == (2, 6, 8 // stride, 12 // stride)
