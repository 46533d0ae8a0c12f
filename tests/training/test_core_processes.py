import numpy as np
import pytest
import torch

from autoseg.network.sam2_parts import build_hiera
from autoseg.training.core_processes import cut_batch, start_processes
from autoseg.training.gradients import PartGradients, average_parts, find_gradients
from autoseg.training.sampling import SliceSampler
from autoseg.training.state import new_state

CPU = torch.device("cpu")


@pytest.fixture(
    scope="module",
    params=[{}, {"memory_slices": 2}, {"takes_clicks": True, "interaction_image": "clip"}],
    ids=["slices", "clips", "clicks"],
)
def plans(tiny_plans, request):
    return tiny_plans(
        2,
        network=request.param,
        training={"batch_slices": 8, "steps_per_epoch": 2, "clip_slices": 2},
    )


@pytest.fixture(scope="module")
def store(plans, make_store, tmp_path_factory):
    return make_store(plans, folder=tmp_path_factory.mktemp("store") / "preprocessed")


@pytest.fixture
def sampler(plans, store):
    return SliceSampler(store, ["case_0", "case_1"], plans=plans, cache_bytes=10**9)


@pytest.mark.parametrize(
    ("slices", "processes", "parts"),
    [(8, 2, [slice(0, 4), slice(4, 8)]), (7, 2, [slice(0, 7)]), (13, 9, [slice(0, 4), slice(4, 9), slice(9, 13)])],
)
def test_cut_batch_gives_every_process_four_slices_at_least(slices, processes, parts):
    assert cut_batch(slices, processes) == parts


@pytest.mark.parametrize(
    ("slices", "clip", "parts"),
    [
        (12, 4, [slice(0, 8), slice(8, 12)]),
        (8, 8, [slice(0, 8)]),
        (6, 2, [slice(0, 6)]),
        (12, 3, [slice(0, 6), slice(6, 12)]),
    ],
)
def test_cut_batch_keeps_clips_whole(slices, clip, parts):
    assert cut_batch(slices, 2, clip_slices=clip) == parts


def test_parts_of_a_batch_are_the_slices_of_the_whole(sampler):
    whole = sampler.make_batch(3)
    parts = [sampler.make_batch(3, part=part) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    if whole.positions is not None:
        assert torch.equal(torch.cat([part.positions for part in parts]), whole.positions)


def test_average_parts_weighs_by_slices():
    one = PartGradients({"total": 1.0}, [torch.tensor([2.0]), torch.zeros(2, 1)], num_slices=3)
    other = PartGradients({"total": 5.0}, [torch.tensor([6.0]), torch.tensor([[4.0], [8.0]])], num_slices=1)
    losses, gradients = average_parts([one, other])
    assert losses == {"total": 2.0}
    assert gradients[0].tolist() == [3.0]
    assert gradients[1].tolist() == [[1.0], [2.0]]
    assert one.gradients[0].tolist() == [2.0]  # left as it was


def expected_gradients(state, sampler, plans, *, step, part):
    batch = sampler.make_batch(step, part=part)
    return find_gradients(state.network, state.parameters, batch, plan=plans.training)


def test_a_process_gives_the_gradients_of_its_part_then_its_death_is_made_up_for(plans, store, sampler, caplog):
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    with start_processes(state.network, sampler, store=store, first_step=0, num_processes=2) as (part, processes):
        assert part == slice(0, 4)
        processes.start_step()
        [found] = processes.finish_step(0, state.network, state.parameters)
        expected = expected_gradients(state, sampler, plans, step=0, part=slice(4, 8))
        assert found.losses == pytest.approx(expected.losses, rel=1e-4)
        for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
            assert torch.allclose(ours, theirs, atol=1e-5)

        with torch.no_grad():  # the process sees the moved weights without being told
            for parameter in state.parameters:
                parameter.mul_(0.9)
        processes.start_step()
        [found] = processes.finish_step(1, state.network, state.parameters)
        expected = expected_gradients(state, sampler, plans, step=1, part=slice(4, 8))
        assert found.losses["total"] == pytest.approx(expected.losses["total"], rel=1e-4)

        processes._workers[0]._process.kill()
        processes.start_step()
        [found] = processes.finish_step(2, state.network, state.parameters)
        assert "ended by itself" in caplog.text
        assert np.isfinite(found.losses["total"])
        assert found.num_slices == 4


def test_a_process_needs_no_checkpoint_since_the_first_one_has_loaded_it(tiny_plans, make_store, tmp_path):
    """Nor the SHA-256 of one, nor a network to fetch it over."""
    path = tmp_path / "sam2.pt"
    weights = {f"image_encoder.trunk.{key}": value for key, value in build_hiera("nano").state_dict().items()}
    torch.save({"model": weights}, path)
    plans = tiny_plans(2, network={"weights": str(path)}, training={"batch_slices": 8})
    store = make_store(plans)
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    path.unlink()
    sampler = SliceSampler(store, ["case_0", "case_1"], plans=plans, cache_bytes=10**9)
    with start_processes(state.network, sampler, store=store, first_step=0, num_processes=2) as (_, processes):
        processes.start_step()
        found = processes._workers[0].receive(state.parameters)
        assert found is not None
        expected = expected_gradients(state, sampler, plans, step=0, part=slice(4, 8))
        assert found.losses == pytest.approx(expected.losses, rel=1e-4)
