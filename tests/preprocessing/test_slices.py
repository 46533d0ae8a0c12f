import numpy as np
import pytest

from autoseg.config.plans import ChannelPlan, DataPlan, OrganPlan
from autoseg.errors import DatasetError
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.preprocessing import slices as slices_module
from autoseg.preprocessing.slices import prepare_slices

CT = ChannelPlan(name="CT", normalization="ct", clip_low=-100, clip_high=300, mean=50, std=25)
MASKED = ChannelPlan(name="T1", normalization="zscore", nonzero_only=True)


def make_plan(channel: ChannelPlan, *, spacing, slice_axis="z") -> DataPlan:
    return DataPlan(
        channels=(channel,),
        organs=(OrganPlan(name="liver", value=1, sentences=("x",)),),
        target_spacing_zyx_mm=spacing,
        slice_axis=slice_axis,
    )


def make_scan(rng, shape=(60, 30, 20), spacing=(1.0, 1.5, 1.2)) -> Scan:
    array = np.zeros(shape, np.int16)
    array[2:-3, 4:-1, 1:-2] = rng.integers(-500, 600, tuple(n - m for n, m in zip(shape, (5, 5, 3), strict=True)))
    affine = np.diag([-spacing[2], spacing[1], spacing[0], 1.0])  # x runs to the left
    return Scan(array, ImageGeometry.from_affine(shape, affine))


@pytest.mark.parametrize("channel", [CT, MASKED])
@pytest.mark.parametrize("slice_axis", ["z", "x"])
@pytest.mark.parametrize("spacing", [(1.0, 1.5, 1.2), (0.7, 1.0, 2.0), (4.0, 1.0, 0.9)])
def test_slices_read_by_and_by_are_those_read_at_once(channel, slice_axis, spacing, monkeypatch, rng) -> None:
    scan, plan = make_scan(rng), make_plan(channel, spacing=spacing, slice_axis=slice_axis)
    whole = prepare_slices([scan], plan=plan)
    image = whole[:, : whole.shape[1]]
    assert image.shape == whole.shape and image.dtype == np.float32
    monkeypatch.setattr(slices_module, "BLOCK_BYTES", 4 * 7 * image[0, 0].size)  # seven slices a block
    slices = prepare_slices([scan], plan=plan)
    for start in range(0, image.shape[1], 4):
        part = slices[:, max(0, start - 2) : start + 6]
        np.testing.assert_allclose(part, image[:, max(0, start - 2) : start + 6], atol=2e-5)


def test_going_on_makes_no_slice_twice_and_keeps_few(monkeypatch, rng) -> None:
    scan = make_scan(rng, shape=(200, 12, 12))
    monkeypatch.setattr(slices_module, "BLOCK_BYTES", 4 * 5 * 7 * 9)  # five slices of what is left after the crop
    slices = prepare_slices([scan], plan=make_plan(CT, spacing=(1.0, 1.5, 1.2)))
    made: list[tuple[int, int]] = []
    make = type(slices)._make
    monkeypatch.setattr(type(slices), "_make", lambda self, *span: made.append(span) or make(self, *span))
    for start in range(0, 195, 8):
        _ = slices[:, max(0, start - 3) : min(start + 11, 195)]
        assert len(slices._kept) <= 5
    assert made == [(start, start + 5) for start in range(0, 195, 5)]


def test_reading_holds_nothing_of_the_size_of_the_scan(monkeypatch, rng) -> None:
    import tracemalloc

    scan = make_scan(rng, shape=(400, 64, 64))
    monkeypatch.setattr(slices_module, "BLOCK_BYTES", 4 * 8 * 64 * 64)
    plan = make_plan(CT, spacing=(1.0, 1.5, 1.2))
    tracemalloc.start()
    slices = prepare_slices([scan], plan=plan)
    for start in range(0, slices.shape[1], 8):
        _ = slices[:, start : start + 8]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < scan.array_zyx.nbytes / 2  # 3.3 MB; as float32 it would be twice as much


def test_channels_of_other_shapes_or_numbers_are_refused(rng) -> None:
    plan = make_plan(CT, spacing=(1, 1, 1))
    scan, other = make_scan(rng), make_scan(rng, shape=(9, 9, 9))
    with pytest.raises(DatasetError, match="2 channels given; the plan expects 1: CT"):
        prepare_slices([scan, scan], plan=plan)
    two = plan.model_copy(update={"channels": (CT, CT)})
    with pytest.raises(DatasetError, match=r"differ in shape_zyx: \(60, 30, 20\) and \(9, 9, 9\)"):
        prepare_slices([scan, other], plan=two)
