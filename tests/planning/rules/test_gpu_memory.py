import itertools
from pathlib import Path

import pytest

from autoseg.config.plans import Device
from autoseg.planning.rules.gpu_memory import BACKBONE_COSTS, RESERVED_GIB, estimate_training_gib, usable_gib
from autoseg.planning.rules.network import choose_backbone
from autoseg.system.atomic_files import read_json

MEASURED = Path(__file__).parents[3] / "docs" / "results" / "cuda_memory.json"
CASE = {"image_size_px": 512, "window_px": 512 * 512, "refiner_width": 32, "batch_slices": 4, "num_organs": 8}


def test_estimate_of_no_slices_is_five_float32_a_parameter_and_the_reserve():
    gib = estimate_training_gib("tiny", **{**CASE, "batch_slices": 0})
    assert gib == pytest.approx(45e6 * 5 * 4 / 2**30 + RESERVED_GIB)


def test_estimate_meets_what_was_measured():
    for step in read_json(MEASURED)["results"]:
        gib = estimate_training_gib(
            step["backbone"],
            image_size_px=step["side_px"],
            window_px=step["side_px"] ** 2,
            refiner_width=32,
            batch_slices=step["batch_slices"],
            num_organs=step["organs"],
        )
        assert gib >= step["peak_gib"]
        if step["peak_gib"] > 3:
            assert gib - RESERVED_GIB == pytest.approx(step["peak_gib"], rel=0.08)


@pytest.mark.parametrize("name", ["image_size_px", "window_px", "refiner_width", "batch_slices", "num_organs"])
def test_estimate_grows_with_everything(name):
    assert estimate_training_gib("small", **{**CASE, name: 2 * CASE[name]}) > estimate_training_gib("small", **CASE)


def test_larger_backbones_cost_more_and_need_more():
    for one, other in itertools.pairwise(BACKBONE_COSTS):
        assert estimate_training_gib(one, **CASE) < estimate_training_gib(other, **CASE)
        assert BACKBONE_COSTS[one].least_memory_gib <= BACKBONE_COSTS[other].least_memory_gib


@pytest.mark.parametrize("memory_gib", [8, 12, 24, 48])
def test_chosen_backbone_fits_its_device_with_one_full_slice(memory_gib):
    backbone = choose_backbone(Device(kind="cuda", memory_gib=memory_gib)).value
    side = 1024 if memory_gib >= 24 else 512
    gib = estimate_training_gib(
        backbone, image_size_px=side, window_px=512 * 512, refiner_width=32, batch_slices=1, num_organs=32
    )
    assert gib <= usable_gib(memory_gib)
