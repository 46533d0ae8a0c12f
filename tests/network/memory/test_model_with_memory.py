"""The network with its memory: slices of volumes visited in turn."""

import pytest
import torch
from training_fixtures import compute_losses

MEMORY = {"memory_slices": 3, "memory_attended_slices": 2}


@pytest.fixture
def network_and_inputs(make_network):
    network, plans = make_network(2, **MEMORY)
    images = torch.randn(6, 3, 32, 32)
    return network, images, torch.arange(2), plans


def test_slices_visited_in_two_calls_are_those_visited_in_one(network_and_inputs):
    network, images, organs, _ = network_and_inputs
    positions = torch.tensor([[3, 4, 2, 5, 1, 0]])
    with torch.no_grad():
        whole = network(images, organs, positions=positions)
        first = network(images[:2], organs, positions=positions[:, :2])
        second = network(images[2:], organs, positions=positions[:, 2:], bank=first.bank)
    torch.testing.assert_close(torch.cat([first.logits, second.logits]), whole.logits, atol=1e-4, rtol=1e-3)
    assert len(first.bank) == 2 and len(second.bank) == len(whole.bank) == 3
    assert second.bank.positions.tolist() == whole.bank.positions.tolist()


def test_what_was_visited_before_matters_and_the_first_slice_stands_alone(network_and_inputs):
    network, images, organs, _ = network_and_inputs
    other = torch.cat([torch.randn(1, 3, 32, 32), images[1:2]])
    with torch.no_grad():
        pair, changed = (network(x, organs, positions=torch.tensor([[0, 1]])).logits for x in (images[:2], other))
        alone = network(images[1:2], organs, positions=torch.tensor([[1]])).logits
    assert not torch.allclose(pair[1], changed[1], atol=1e-3)
    assert not torch.allclose(pair[1], alone[0], atol=1e-3)


def test_volumes_side_by_side_are_those_one_after_the_other_and_nothing_leaks(network_and_inputs):
    network, images, organs, _ = network_and_inputs
    with torch.no_grad():
        together = network(images, organs, positions=torch.tensor([[0, 1, 2], [5, 6, 7]])).logits
        first = network(images[:3], organs, positions=torch.tensor([[0, 1, 2]])).logits
        second = network(images[3:], organs, positions=torch.tensor([[5, 6, 7]])).logits
        again = network(images[:3], organs, positions=torch.tensor([[0, 1, 2]])).logits
    torch.testing.assert_close(together, torch.cat([first, second]), atol=1e-4, rtol=1e-3)
    assert torch.equal(first, again)


def test_permuting_the_organs_permutes_the_maps(network_and_inputs):
    network, images, organs, _ = network_and_inputs
    positions = torch.tensor([[0, 1, 2]])
    with torch.no_grad():
        one = network(images[:3], organs, positions=positions).logits
        other = network(images[:3], organs.flip(0), positions=positions).logits
    torch.testing.assert_close(other[:, [0, 2, 1]], one, atol=1e-4, rtol=1e-3)


def test_backward_reaches_every_parameter_of_the_memory_too(network_and_inputs):
    network, images, organs, plans = network_and_inputs
    network.train()
    output = network(images, organs, positions=torch.tensor([[0, 1, 2], [4, 5, 6]]), gradient_slices=2)
    compute_losses(output, torch.randint(0, 3, (6, 32, 32)), weights=plans.training.loss)["total"].backward()
    trained = dict(network.named_parameters())
    assert sum(name.startswith("memory.") for name in trained) > 20
    assert [name for name, p in trained.items() if p.grad is None or not p.grad.any()] == []


def test_without_gradient_slices_nothing_flows_into_what_writes_the_memory(network_and_inputs):
    network, images, organs, plans = network_and_inputs
    output = network(images[:3], organs, positions=torch.tensor([[0, 1, 2]]), gradient_slices=0)
    compute_losses(output, torch.randint(0, 3, (3, 32, 32)), weights=plans.training.loss)["total"].backward()
    assert all(p.grad is None for p in network.memory.encoder.parameters())
    assert network.memory.tokens.no_mem_embed.grad.any()


def test_slices_given_without_positions_leave_the_memory_alone(network_and_inputs):
    network, images, organs, _ = network_and_inputs
    with torch.no_grad():
        output = network(images, organs)
        single = network(images[2:3], organs)
    assert output.bank is None
    torch.testing.assert_close(output.logits[2:3], single.logits, atol=1e-4, rtol=1e-3)


def test_in_training_the_last_slice_of_a_clip_is_not_remembered_and_the_maps_are_the_same(network_and_inputs):
    network, images, organs, _ = network_and_inputs
    positions = torch.tensor([[0, 1, 2], [5, 6, 7]])
    with torch.no_grad():
        seen = network(images, organs, positions=positions)
        trained = network.train()(images, organs, positions=positions)
        single = network(images, organs, positions=torch.arange(6).unsqueeze(1))
    assert len(seen.bank) == 3 and len(trained.bank) == 2 and single.bank is None
    torch.testing.assert_close(trained.mask_logits, seen.mask_logits, atol=1e-4, rtol=1e-3)
