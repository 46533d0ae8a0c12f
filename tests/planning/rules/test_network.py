import numpy as np
import pytest

from autoseg.config.plans import Device
from autoseg.planning.rules.network import (
    choose_backbone,
    choose_context_slices,
    choose_feature_channels,
    choose_image_size,
    choose_memory_slices,
    choose_refiner_channels,
    choose_refiner_stride,
    choose_window,
    find_smallest_width_px,
)

CPU = Device(kind="cpu", memory_gib=8)


def cuda(memory_gib):
    return Device(kind="cuda", memory_gib=memory_gib)


def test_window_takes_the_95th_percentile_where_it_is_near_the_median():
    sizes = np.array([[50, 35]] * 18 + [[62, 35]] * 2)  # 62 is within 1.25 x 50
    assert choose_window(sizes, device=CPU).value == (64, 48)


def test_window_takes_the_median_where_some_cases_are_far_larger():
    sizes = np.array([[50, 35]] * 18 + [[150, 35]] * 2)
    assert choose_window(sizes, device=CPU).value == (64, 48)
    assert choose_window(np.array([[48, 35]] * 18 + [[150, 35]] * 2), device=CPU).value == (48, 48)


@pytest.mark.parametrize(
    ("device", "limit"), [(CPU, 192), (cuda(6), 256), (cuda(10), 320), (cuda(16), 384), (cuda(80), 512)]
)
def test_window_is_limited_by_the_device(device, limit):
    choice = choose_window(np.array([[1000, 900]]), device=device)
    assert choice.value == (limit, limit)
    assert choice.facts["is_limited"] is True


def test_window_of_a_tiny_scan_is_16():
    assert choose_window(np.array([[3, 16]]), device=CPU).value == (16, 16)


def test_window_over_128_px_is_a_multiple_of_32():
    assert choose_window(np.array([[129, 128]]), device=CPU).value == (160, 128)


@pytest.mark.parametrize(
    ("device", "backbone"),
    [
        (CPU, "nano"),
        (cuda(4), "tiny"),
        (cuda(11.9), "tiny"),
        (cuda(12), "small"),
        (cuda(23.9), "small"),
        (cuda(24), "base_plus"),
        (cuda(47), "base_plus"),
        (cuda(48), "large"),
    ],
)
def test_backbone_grows_with_the_memory(device, backbone):
    assert choose_backbone(device).value == backbone


@pytest.mark.parametrize(("side", "size"), [(64, 32), (80, 64), (192, 64), (208, 96), (256, 96), (272, 128)])
def test_image_size_of_nano_follows_the_window(side, size):
    choice = choose_image_size((48, side), smallest_width_px=5, backbone="nano", device=CPU)
    assert choice.value == size


@pytest.mark.parametrize(
    ("window", "width", "memory", "size"),
    [
        ((304, 304), 40, 24, 320),
        ((128, 112), 15.9, 24, 256),  # a small organ in a small view: doubled
        ((128, 112), 16, 24, 128),
        ((272, 272), 4, 24, 288),  # not a small view
        ((1040, 512), 40, 24, 1024),
        ((1040, 512), 40, 16, 512),
    ],
)
def test_image_size_on_cuda_follows_window_organ_and_memory(window, width, memory, size):
    choice = choose_image_size(window, smallest_width_px=width, backbone="small", device=cuda(memory))
    assert choice.value == size
    assert "fitted to measurements" in choice.rule


def test_feature_channels_are_sam2s_but_for_nano():
    assert (choose_feature_channels("nano").value, choose_feature_channels("tiny").value) == (64, 256)


@pytest.mark.parametrize(
    ("window", "width", "device", "stride"),
    [
        ((64, 48), 2, CPU, 1),
        ((64, 128), 30, CPU, 1),
        ((160, 192), 30, CPU, 2),
        ((144, 64), 3, CPU, 2),
        ((160, 192), 2.9, CPU, 1),
        ((160, 192), 30, cuda(24), 1),
    ],
)
def test_refiner_stride_on_a_cpu_grows_with_the_window(window, width, device, stride):
    assert choose_refiner_stride(window, smallest_width_px=width, device=device).value == stride


@pytest.mark.parametrize(("spacing", "context_slices"), [(1.0, 2), (0.5, 2), (2.0, 1), (5.0, 1)])
def test_neighbors_reach_two_millimeters(spacing, context_slices):
    assert choose_context_slices(spacing).value == context_slices


@pytest.mark.parametrize(
    ("window", "width", "device", "channels"),
    [
        ((96, 96), 12, CPU, (24, 48, 96, 192)),
        ((96, 112), 12, CPU, (16, 32, 64, 128)),
        ((64, 16), 12, CPU, (24, 48)),
        ((160, 160), 32, CPU, (16, 32, 64, 128, 256)),
        ((160, 160), 31, CPU, (16, 32, 64, 128)),
        ((160, 144), 60, CPU, (16, 32, 64, 128)),  # blocks of 2 x 2, halved four times, need multiples of 32
        ((160, 144), 60, cuda(24), (32, 64, 128, 256, 512)),
        ((160, 160), 12, cuda(24), (32, 64, 128, 256)),
        ((160, 160), 32, cuda(24), (32, 64, 128, 256, 512)),
        ((160, 112), 32, cuda(24), (32, 64, 128, 256)),
    ],
)
def test_refiner_stages_follow_window_and_smallest_organ(window, width, device, channels):
    choice = choose_refiner_channels(window, smallest_width_px=width, device=device)
    assert choice.value == channels
    assert choice.facts["smallest_organ_width_in_decoder_pixels"] == width / 4


@pytest.mark.parametrize(
    ("correlation", "extent", "slices"),
    [
        (0.5**0.125, 30, 8),  # falls to a half within 8 slices
        (0.5**0.125, 6, 6),  # the organ is shorter
        (0.1, 30, 4),
        (-0.2, 30, 4),
        (1.0, 100, 16),
    ],
)
def test_memory_slices_follow_correlation_and_extent(correlation, extent, slices):
    choice = choose_memory_slices(np.array([correlation]), extents_slices=[extent])
    assert choice.value == 0 and "gained nothing" in choice.rule
    assert choice.facts["best_memory_slices"] == slices


def test_find_smallest_width_px_divides_by_the_pixel():
    assert find_smallest_width_px({"liver": 100.0, "gallbladder": 30.0}, pixel_mm=1.5) == 20.0
