"""Ranks that are threads of this process; `test_two_ranks.py` has real ones."""

import pytest
import torch

from autoseg.distributed import collectives as module
from autoseg.distributed.collectives import ALONE, Sharing, share_training
from autoseg.distributed.last_words import ApartError
from autoseg.distributed.ranks import Ranks
from autoseg.distributed.state_sync import checksum, keep_alike, spread_state
from autoseg.network import model
from autoseg.network.sam2_modules import build_hiera
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import seed_dropout
from autoseg.training.micro_batches import Room
from autoseg.training.state import new_state
from autoseg.training.step import train_step
from autoseg.training.step_share import share_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def full_precision(monkeypatch):
    """What autocast keeps of the weights is shared by the threads of a process, unlike by ranks."""
    monkeypatch.setattr(model, "convolution_precision", lambda _: torch.autocast("cpu", enabled=False))


def test_alone_everything_comes_back():
    sums, gradients = torch.tensor([1.0, 2.0]), [torch.ones(2), torch.zeros(1, 3)]
    assert ALONE.leads and ALONE.add_up(sums) is sums
    assert [a is b for a, b in zip(ALONE.add_gradients(gradients), gradients, strict=True)] == [True, True]
    assert (ALONE.spread(b"x"), ALONE.spend(2.5), ALONE.are_alike(3)) == (b"x", 2.5, True)


def test_sums_and_gradients_are_added_up_in_one_exchange_each(share_ranks):
    def work(sharing):
        own = float(1 + sharing.ranks.rank)
        gradients = [torch.full((2, 2), own), torch.full((3,), 10 * own).expand(3).clone()]
        kept = gradients[0]
        total = sharing.add_up(torch.tensor([own, 0.5]))
        added = sharing.add_gradients(gradients)
        assert added[0] is kept  # with the layout that its parameter has
        return total.tolist(), [one.flatten().tolist() for one in added]

    assert share_ranks(work, 3) == [([6.0, 1.5], [[6.0] * 4, [60.0] * 3])] * 3
    assert share_ranks.group.exchanges == 2


def test_the_first_rank_tells_the_time_with_the_sums_of_a_step(share_ranks):
    """What it spent before a step's sums arrives with them; what it spends after them with those of the next step."""

    def work(sharing):
        own = 1.0 if sharing.leads else 100.0
        counted = [sharing.spend(own)]
        for _ in range(2):
            sharing.add_up(torch.zeros(1))
            counted += [sharing.spend(2 * own), sharing.spend(0.25 * own)]
        return counted

    assert share_ranks(work) == [[0.0, 1.0, 0.0, 2.25, 0.0]] * 2


def test_bytes_of_the_first_rank_reach_all_in_chunks(share_ranks, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 7)
    content = bytes(range(40))
    assert share_ranks(lambda sharing: sharing.spread(content if sharing.leads else None), 3) == [content] * 3
    assert share_ranks(lambda sharing: sharing.spread(b"")) == [b"", b""]


@pytest.mark.parametrize(
    ("numbers", "expected"), [((5, 5), True), ((5, 6), False), ((0, 0), True), ((2**61, 0), False)]
)
def test_numbers_are_compared_by_all(share_ranks, numbers, expected):
    assert share_ranks(lambda sharing: sharing.are_alike(numbers[sharing.ranks.rank])) == [expected] * 2


def test_a_connection_that_breaks_is_told_apart_from_a_full_memory(monkeypatch):
    sharing = Sharing(Ranks(0, 2), has_group=True)

    def fail_with(error):
        def fail(_values):
            raise error

        monkeypatch.setattr(module.distributed, "all_reduce", fail)

    fail_with(RuntimeError("Connection closed by peer"))
    with pytest.raises(ApartError, match="Connection closed by peer"):
        sharing.add_up(torch.zeros(1))
    fail_with(torch.OutOfMemoryError("full"))
    with pytest.raises(torch.OutOfMemoryError):
        sharing.add_up(torch.zeros(1))


def test_a_rank_that_torchrun_started_alone_has_a_group_of_its_own():
    with share_training(Ranks(is_started=True), CPU) as sharing:
        assert sharing.add_up(torch.tensor([2.0])).tolist() == [2.0]
        assert sharing.are_alike(3) and sharing.spread(b"abc") == b"abc"
    assert not torch.distributed.is_initialized()
    with share_training(Ranks(), CPU) as sharing:
        assert sharing is ALONE


def begin(plans, *, seed=0):
    plans = plans.model_copy(update={"training": plans.training.model_copy(update={"seed": seed})})
    state = new_state(plans, device=CPU, needs_scaler=False)
    state.network.train()
    return state


def weights_of(state):
    return [value.clone() for part in (state.network, state.averaged) for value in part.state_dict().values()]


def assert_equal(one, other):
    assert len(one) == len(other) > 100
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def drawn(tiny_plans, make_store):
    """Give plans of 8 slices a step for one rank, and a sampler of them."""
    plans = tiny_plans(2, training={"batch_slices": 8})
    return plans, SliceSampler(make_store(plans), ["case_0", "case_1"], plans=plans, cache_bytes=10**9)


def make_halves(sampler, *, steps):
    """Make the batches of both ranks; not in their threads, which share numpy's random numbers."""
    parts = [share_of(sampler.plans, slices_per_step=8, rank=rank, num_ranks=2).part for rank in range(2)]
    assert parts == [slice(0, 4), slice(4, 8)]
    return [[sampler.make_batch(step, part=part) for step in range(steps)] for part in parts]


def train_alone(plans, sampler, *, steps=3):
    state = begin(plans)
    state.room = Room(blocks=(slice(0, 4), slice(4, 8)))
    return [train_step(state, sampler.make_batch(step), plans=plans) for step in range(steps)], weights_of(state)


def test_two_ranks_move_their_weights_as_one_does_to_the_bit(drawn, share_ranks):
    plans, sampler = drawn
    states, batches = [begin(plans), begin(plans)], make_halves(sampler, steps=3)

    def work(sharing):
        rank = sharing.ranks.rank
        return [train_step(states[rank], batch, plans=plans, sharing=sharing) for batch in batches[rank]]

    losses = share_ranks(work)
    expected, weights = train_alone(plans, sampler)
    assert losses == [expected, expected]
    assert_equal(weights_of(states[0]), weights)
    assert_equal(weights_of(states[1]), weights)
    assert checksum(states[0]) == checksum(states[1])


def test_a_rank_whose_memory_is_full_asks_the_others_once(drawn, share_ranks, monkeypatch):
    """It is full on the way back, when the sums are told: the tries that follow need no answer."""
    plans, sampler = drawn
    states, batches = [begin(plans), begin(plans)], make_halves(sampler, steps=1)
    grad, full = torch.autograd.grad, [1, 1]

    def fill(loss, parameters, **named):
        if parameters[0] is states[1].parameters[0] and full:
            full.pop()
            raise torch.OutOfMemoryError("full")
        return grad(loss, parameters, **named)

    def work(sharing):
        rank = sharing.ranks.rank
        return train_step(states[rank], batches[rank][0], plans=plans, sharing=sharing)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", fill)
        found = share_ranks(work)
    assert full == [] and [state.room.slices for state in states] == [None, 1]
    assert share_ranks.group.exchanges == 2  # the sums and the gradients
    expected, _ = train_alone(plans, sampler, steps=1)
    assert found[0] == found[1] == pytest.approx(expected[0], rel=1e-4)
    assert checksum(states[0]) == checksum(states[1])


def test_a_loss_that_is_not_finite_on_one_rank_is_so_on_all(drawn, share_ranks, caplog):
    plans, sampler = drawn
    states, batches = [begin(plans), begin(plans)], make_halves(sampler, steps=1)
    before = weights_of(states[0])
    batches[1][0].images.fill_(float("nan"))

    def work(sharing):
        rank = sharing.ranks.rank
        return train_step(states[rank], batches[rank][0], plans=plans, sharing=sharing)

    assert share_ranks(work) == [None, None]
    assert [state.bad_steps for state in states] == [1, 1]
    assert_equal(weights_of(states[0]), before)
    warned = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "its batch is skipped" in warned[0].getMessage()


def test_a_state_is_spread_with_all_that_it_holds(drawn, share_ranks):
    plans, sampler = drawn
    states = [begin(plans), begin(plans)]
    train_step(states[0], sampler.make_batch(0), plans=plans)
    states[0].seconds, states[0].rate_factor, states[0].slices_per_step = 12.5, 0.3, 16
    assert checksum(states[0]) != checksum(states[1])
    share_ranks(lambda sharing: spread_state(states[sharing.ranks.rank], plans, sharing))
    assert_equal(weights_of(states[1]), weights_of(states[0]))
    one, other = states
    assert (other.step, other.seconds, other.rate_factor, other.slices_per_step) == (1, 12.5, 0.3, 16)
    assert len(other.optimizers[0].state) == len(one.optimizers[0].state) > 50


def test_weights_that_are_not_alike_any_more_become_those_of_the_first_rank(drawn, share_ranks, caplog):
    plans, _ = drawn
    states = [begin(plans), begin(plans)]
    share_ranks(lambda sharing: keep_alike(states[sharing.ranks.rank], plans, sharing))
    assert caplog.text == ""
    with torch.no_grad():  # the last bit of one weight
        weight = states[1].parameters[7].view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(9.0))
    share_ranks(lambda sharing: keep_alike(states[sharing.ranks.rank], plans, sharing))
    assert caplog.text.count("the ranks' weights are not the same any more") == 1
    assert_equal(weights_of(states[1]), weights_of(states[0]))


def test_a_checksum_sees_two_weights_that_change_places():
    hiera = build_hiera("nano")
    state = type("State", (), {"parameters": list(hiera.parameters())})
    before = checksum(state)
    assert 0 <= before < 2**61
    first, second = [p for p in state.parameters if p.shape == state.parameters[-1].shape][:2]
    with torch.no_grad():
        first.fill_(1.0)
        second.fill_(2.0)
        one = checksum(state)
        first.fill_(2.0)
        second.fill_(1.0)
    assert checksum(state) != one


def test_dropout_of_a_part_depends_on_its_first_slice():
    """As for the processes of the cores: parts draw numbers of their own."""
    drawn = []
    for first in (0, 4, 0):
        seed_dropout(0, step=3, first_slice=first)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
