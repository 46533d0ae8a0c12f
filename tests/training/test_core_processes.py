import pytest
import torch

from autoseg.network.sam2_modules import build_hiera
from autoseg.training.core_processes import start_processes
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import PartGradients, add_parts, find_gradients
from autoseg.training.micro_batches import Room
from autoseg.training.state import new_state
from autoseg.training.step_share import StepShare, cut_slices

CPU = torch.device("cpu")


@pytest.fixture(
    scope="module",
    params=[{}, {"memory_slices": 2}, {"point_prompts": True, "interaction_image_encoder": "clip"}],
    ids=["slices", "clips", "clicks"],
)
def plans(tiny_plans, request):
    return tiny_plans(
        2,
        network=request.param,
        training={"batch_slices": 8, "steps_per_epoch": 2, "memory_clip_slices": 2},
    )


@pytest.fixture(scope="module")
def store(plans, make_store, tmp_path_factory):
    return make_store(plans, folder=tmp_path_factory.mktemp("store") / "preprocessed")


@pytest.fixture
def sampler(plans, store):
    return SliceSampler(store, ["case_0", "case_1"], plans=plans, cache_bytes=10**9)


def test_parts_of_a_batch_are_the_slices_of_the_whole(sampler):
    whole = sampler.make_batch(3)
    parts = [sampler.make_batch(3, part=part) for part in (slice(0, 4), slice(4, 8))]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    if whole.positions is not None:
        assert torch.equal(torch.cat([part.positions for part in parts]), whole.positions)


def test_add_parts_adds_the_gradients_and_keeps_the_losses_that_all_share():
    one = PartGradients({"total": 1.0}, [torch.tensor([2.0]), torch.zeros(2, 1)])
    other = PartGradients({"total": 1.0}, [torch.tensor([6.0]), torch.tensor([[4.0], [8.0]])])
    whole = add_parts([one, other])
    assert whole.losses == {"total": 1.0}
    assert whole.gradients[0].tolist() == [8.0]
    assert whole.gradients[1].tolist() == [[4.0], [8.0]]
    assert one.gradients[0].tolist() == [2.0]  # left as it was


def begin(plans):
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    return state


def start(state, sampler, store):
    share = StepShare(slice(0, sampler.draws.slices_per_step))
    return start_processes(state, sampler, store=store, share=share, num_processes=2)


def find_together(state, sampler, processes, plans):
    """Find losses and gradients of `state.step` in this process and the others."""

    def add_up(own):
        total = processes.add_sums(own, state)
        assert torch.equal(processes.add_sums(own, state), total)  # asked again, after a full memory
        processes.tell(total)
        return total

    processes.start_step()
    batch = sampler.make_batch(state.step, part=processes.part)
    own = find_gradients(state.network, state.parameters, batch, plan=plans.training, add_up=add_up)
    return add_parts([own, *processes.finish_step(state)])


def find_alone(state, sampler, plans):
    """Find them of the whole batch in this process; in two blocks, as two processes have it."""
    batch = sampler.make_batch(state.step)
    blocks = tuple(cut_slices(slice(0, 8), 2, memory_clip_slices=plans.memory_clip_slices))
    return find_gradients(state.network, state.parameters, batch, plan=plans.training, room=Room(blocks=blocks))


def assert_equal(one, other):
    assert one.losses == other.losses
    for ours, theirs in zip(one.gradients, other.gradients, strict=True):
        assert torch.equal(ours, theirs)


def test_a_process_gives_what_one_core_finds_to_the_bit_and_its_death_is_made_up_for(plans, store, sampler, caplog):
    state = begin(plans)
    with start(state, sampler, store) as processes:
        assert processes.part == slice(0, 4)
        own_memory = begin(plans)  # weights that no file holds: one core that trains by itself
        assert_equal(find_together(state, sampler, processes, plans), find_alone(own_memory, sampler, plans))

        with torch.no_grad():  # the process sees the moved weights without being told
            for parameter in state.parameters:
                parameter.mul_(0.9)
        state.step = 1
        assert_equal(find_together(state, sampler, processes, plans), find_alone(state, sampler, plans))

        [worker] = processes._workers
        real = worker.send

        def send(text):
            if text.startswith("["):  # it has said its sums, and is about to be told those of all
                worker._process.kill()
            real(text)

        worker.send, state.step = send, 2
        assert_equal(find_together(state, sampler, processes, plans), find_alone(state, sampler, plans))
        assert "ended by itself" in caplog.text
        worker.send, state.step = real, 3
        assert_equal(find_together(state, sampler, processes, plans), find_alone(state, sampler, plans))


def test_a_small_batch_starts_no_process(plans, store, sampler):
    share = StepShare(slice(8, 11))
    with start_processes(begin(plans), sampler, store=store, share=share, num_processes=2) as processes:
        assert processes.part == slice(8, 11) and processes._workers == []


def test_a_process_needs_no_checkpoint_since_the_first_one_has_loaded_it(tiny_plans, make_store, tmp_path):
    """Nor the SHA-256 of one, nor a network to fetch it over."""
    path = tmp_path / "sam2.pt"
    weights = {f"image_encoder.trunk.{key}": value for key, value in build_hiera("nano").state_dict().items()}
    torch.save({"model": weights}, path)
    plans = tiny_plans(2, network={"weights": str(path)}, training={"batch_slices": 8})
    store = make_store(plans)
    state = begin(plans)
    path.unlink()
    sampler = SliceSampler(store, ["case_0", "case_1"], plans=plans, cache_bytes=10**9)
    with start(state, sampler, store) as processes:
        assert_equal(find_together(state, sampler, processes, plans), find_alone(state, sampler, plans))
        assert processes._workers[0]._process is not None
