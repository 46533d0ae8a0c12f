import pytest
import torch

from autoseg.network.memory.memory_bank import MemoryBank, recall, remember


def entry(*angles, quality=1.0, position=0, volumes=None):
    """One entry a volume whose key points at the angle (degrees); its features and pointers hold its position."""
    angles = torch.tensor(angles, dtype=torch.float32).deg2rad()
    num = len(angles)
    quality = torch.as_tensor(quality, dtype=torch.float32).expand(num)
    return MemoryBank(
        features=torch.full((num, 1, 3, 2, 2), float(position)),
        pointers=torch.full((num, 1, 2, 4), float(position)),
        keys=torch.stack([angles.cos(), angles.sin()], dim=1).unsqueeze(1),
        quality=quality.unsqueeze(1),
        positions=torch.full((num, 1), position),
    )


def fill(angles, *, capacity=10, update="similarity", qualities=None):
    bank = None
    for number, angle in enumerate(angles):
        new = entry(angle, position=number, quality=qualities[number] if qualities else 1.0)
        bank = remember(bank, new, capacity=capacity, update=update)
    return bank


def positions(bank):
    return bank.positions[0].tolist()


@pytest.mark.parametrize("update", ["similarity", "fifo"])
@pytest.mark.parametrize("capacity", [1, 3])
def test_a_bank_never_holds_more_than_its_capacity(update, capacity):
    bank = None
    for number in range(12):
        bank = remember(bank, entry(17.0 * number, position=number), capacity=capacity, update=update)
        assert len(bank) == min(number + 1, capacity)
        assert len(set(positions(bank))) == len(bank)


def test_recall_finds_the_planted_twin_first_and_the_rest_in_order_of_similarity():
    bank = fill([0, 80, 40, 170])
    twin = recall(bank, entry(41).keys[:, 0], count=3)
    assert positions(twin) == [2, 1, 0]
    assert twin.features[0, 0].unique().tolist() == [2.0] and twin.pointers[0, 2].unique().tolist() == [0.0]
    assert positions(recall(bank, entry(41).keys[:, 0], count=9)) == [2, 1, 0, 3]


def test_a_full_bank_lets_go_of_a_twin_and_keeps_what_is_different():
    assert positions(fill([0, 90, 2, 180], capacity=3)) == [1, 2, 3]  # 0 and 2 are alike: the older goes
    assert positions(fill([0, 90, 180, 91], capacity=3, qualities=[1, 0.5, 1, 1])) == [0, 2, 3]


def test_of_twins_the_one_of_lower_quality_goes_also_if_it_is_the_new_one():
    assert positions(fill([0, 90, 180, 1], capacity=3, qualities=[1, 1, 1, 0.5])) == [0, 1, 2]


def test_fifo_lets_go_of_the_oldest_whatever_it_is_worth():
    assert positions(fill([0, 90, 2, 180], capacity=3, update="fifo", qualities=[1, 0, 0, 0])) == [1, 2, 3]


def test_each_volume_has_a_bank_of_its_own():
    bank = None
    for number, (one, other) in enumerate([(0, 0), (90, 1), (1, 90)]):
        bank = remember(bank, entry(one, other, position=number), capacity=2)
    assert bank.positions.tolist() == [[1, 2], [1, 2]]
    found = recall(bank, entry(90, 90).keys[:, 0], count=1)
    assert found.positions.tolist() == [[1], [2]]


@pytest.mark.parametrize(("newest", "gradients"), [(0, [0, 0, 0]), (1, [0, 0, 1]), (2, [0, 1, 1]), (5, [1, 1, 1])])
def test_gradients_flow_through_the_newest_entries_alone(newest, gradients):
    bank = fill([0, 60, 120])
    features = bank.features.clone().requires_grad_()
    kept = MemoryBank(features, bank.pointers, bank.keys, bank.quality, bank.positions).detach_all_but(newest)
    (kept.features.sum() + 0 * features.sum()).backward()
    assert features.grad[0, :, 0, 0, 0].tolist() == gradients
