import pytest
import torch

from autoseg.training.loss.targets import IGNORE, LabelSets, make_target, one_hot, shrink


def test_one_hot_puts_background_first_and_nothing_where_ignored():
    target, is_known = one_hot(torch.tensor([[[0, 1], [2, IGNORE]]]), 2)
    assert target.tolist() == [[[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]]]
    assert is_known.tolist() == [[[[1, 1], [1, 0]]]]


def test_shrink_gives_shares_among_the_known_pixels_of_a_cell():
    """Left cell: one of three known pixels is the organ. Right cell: half of it unknown, which is too little."""
    target, is_known = one_hot(torch.tensor([[[1, 0, 1, 1], [0, IGNORE, IGNORE, IGNORE]]]), 1)
    shares, known = shrink(target, is_known, torch.Size((1, 2)))
    assert shares[0, 1, 0].tolist() == pytest.approx([1 / 3, 1.0])
    assert shares[0, 0, 0].tolist() == pytest.approx([2 / 3, 0.0])
    assert known.tolist() == [[[[1.0, 0.0]]]]


def test_shrink_of_a_wholly_unknown_cell_is_finite():
    target, is_known = one_hot(torch.full((1, 2, 2), IGNORE), 1)
    shares, known = shrink(target, is_known, torch.Size((1, 1)))
    assert shares.tolist() == [[[[0.0]], [[0.0]]]] and known.item() == 0


def kidneys():
    """Organs 1 left, 2 right, 3 liver; label 4 is "kidney". This case tells no side and has no liver annotated."""
    left, right, liver = 1, 2, 3
    classes = torch.eye(4, dtype=torch.bool).repeat(1, 1, 1)
    classes = torch.cat([classes, torch.zeros(1, 1, 4, dtype=torch.bool)], dim=1)
    classes[0, 0, liver] = True  # background may be liver
    classes[0, [left, right, liver]] = True  # labels that this case cannot hold say nothing
    classes[0, 4, [left, right]] = True
    return LabelSets(classes, torch.tensor([[False, True, True, False]]))


def test_make_target_of_label_sets_says_what_is_known_of_each_item():
    target = make_target(torch.tensor([[[0, 4, 2, IGNORE]]]), num_organs=3, sets=kidneys())
    shares, known = target.of_items()
    left, right, liver, kidney = range(4)
    assert shares[0, :, 0].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert known[0, left, 0].tolist() == [1, 0, 0, 0] and known[0, right, 0].tolist() == [1, 0, 0, 0]
    assert known[0, liver, 0].tolist() == [0, 1, 0, 0]
    assert known[0, kidney, 0].tolist() == [1, 1, 0, 0]
    assert target.counts(1).tolist() == [[0, 0, 0, 1]]


def test_items_of_adds_up_the_organs_of_a_region():
    target = make_target(torch.tensor([[[0]]]), num_organs=3, sets=kidneys())
    probs = torch.tensor([0.1, 0.2, 0.3, 0.4]).view(1, 4, 1, 1)
    assert target.items_of(probs).flatten().tolist() == pytest.approx([0.2, 0.3, 0.4, 0.5])


def test_log_probs_of_a_set_is_the_log_of_the_sum_and_finite_where_it_is_none():
    target = make_target(torch.tensor([[[0]]]), num_organs=3, sets=kidneys())
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log().view(1, 4, 1, 1)
    said = target.log_probs_of(logits).exp().flatten().tolist()
    assert said == pytest.approx([0.5, 1.0, 1.0, 1.0, 0.5])
    far = torch.tensor([200.0, 0, 0, 0]).view(1, 4, 1, 1).requires_grad_()
    target.log_probs_of(far)[0, 4].sum().backward()
    assert bool(far.grad.isfinite().all())
