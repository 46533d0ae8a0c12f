"""What a GPU makes of a scan itself is what `PreparedSlices` makes; here on a CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from autoseg.config.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.inference.device_slices import SlicesOnDevice, bring_to
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.preprocessing.normalization import Scaling
from autoseg.preprocessing.slices import prepare_slices

CPU = torch.device("cpu")


def make_slices(rng, *, target, slice_axis="z", dtype=np.int16, **channel):
    affine = np.diag([-0.9, 0.8, 2.0, 1.0])  # x runs to the left
    array = (rng.normal(size=(70, 24, 20)) * 100).astype(dtype)
    array[:, :4] = 0
    plan = DataPlan(
        channels=(ChannelPlan(name="a", **channel), ChannelPlan(name="b", normalization="zscore")),
        organs=(OrganPlan(name="organ", value=1, sentences=("x",)),),
        target_spacing_zyx_mm=target,
        slice_axis=slice_axis,
    )
    geometry = ImageGeometry.from_affine(array.shape, affine)
    return prepare_slices([Scan(array, geometry), Scan(2 * array, geometry)], plan=plan)


CT = {"normalization": "ct", "clip_low": -80, "clip_high": 60, "mean": 3, "std": 20}


@pytest.mark.parametrize("target", [(2, 0.8, 0.9), (1.5, 1, 1), (3, 0.5, 0.9), (2, 0.2, 0.2), (9, 0.8, 0.7)])
@pytest.mark.parametrize("slice_axis", ["z", "x"])
def test_slices_made_on_the_device_are_those_of_the_host(rng, target, slice_axis):
    slices = make_slices(rng, target=target, slice_axis=slice_axis, **CT)
    there = SlicesOnDevice(slices, CPU, is_made_there=True)
    num_slices = slices.shape[1]
    for start, stop in ((0, num_slices), (0, 1), (num_slices // 3, num_slices // 2 + 1), (num_slices - 1, num_slices)):
        made = there.read(start, stop)
        assert made.dtype == torch.float32
        np.testing.assert_allclose(made.numpy(), slices[:, start:stop], atol=2e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.uint32, np.int64, np.float64, ">i2"])
def test_any_type_of_voxel_comes_to_the_device(rng, dtype):
    slices = make_slices(rng, target=(1.5, 1, 1), dtype=dtype, normalization="zscore", nonzero_only=True)
    made = SlicesOnDevice(slices, CPU, is_made_there=True).read(5, 9)
    np.testing.assert_allclose(made.numpy(), slices[:, 5:9], atol=2e-4)


def test_a_constant_channel_is_zero(rng):
    slices = make_slices(rng, target=(1.5, 1, 1), normalization="zscore")
    slices = replace(slices, scalings=(Scaling(mean=5, deviation=0), slices.scalings[1]))
    made = SlicesOnDevice(slices, CPU, is_made_there=True).read(0, 3)
    assert not made[0].any() and made[1].any()


def test_slices_are_read_ahead_in_order_and_a_fault_comes_out(rng):
    image = rng.normal(size=(2, 9, 4, 5)).astype(np.float32)
    spans = [(0, 4), (2, 7), (6, 9)]
    parts = list(bring_to(CPU, image).read_ahead(spans))
    assert all(np.array_equal(part, image[:, a:b]) for part, (a, b) in zip(parts, spans, strict=True))
    with pytest.raises(TypeError):
        list(bring_to(CPU, image).read_ahead([(0, 2), (2, "x")]))


def test_on_a_cpu_nothing_is_made_another_way(rng):
    assert not bring_to(CPU, make_slices(rng, target=(1.5, 1, 1), **CT)).is_made_there
