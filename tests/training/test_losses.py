import math

import pytest
import torch

from autoseg.network.model import NetworkOutput
from autoseg.plans import LossPlan
from autoseg.training import losses
from autoseg.training.losses import IGNORE


def row(*values):
    """Make one organ of one slice, a single row of pixels: (1, 1, 1, W)."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


def with_background(*values):
    return torch.cat([1 - row(*values), row(*values)], dim=1)


ALL = torch.ones(1, 1, 1, 4)


def test_one_hot_puts_background_first_and_nothing_where_ignored():
    target, is_known = losses.one_hot(torch.tensor([[[0, 1], [2, IGNORE]]]), 2)
    assert target.tolist() == [[[[1, 0], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [1, 0]]]]
    assert is_known.tolist() == [[[[1, 1], [1, 0]]]]


def test_shrink_gives_shares_among_the_known_pixels_of_a_cell():
    """Left cell: one of three known pixels is the organ. Right cell: half of it unknown, which is too little."""
    target, is_known = losses.one_hot(torch.tensor([[[1, 0, 1, 1], [0, IGNORE, IGNORE, IGNORE]]]), 1)
    shares, known = losses.shrink(target, is_known, torch.Size((1, 2)))
    assert shares[0, 1, 0].tolist() == pytest.approx([1 / 3, 1.0])
    assert shares[0, 0, 0].tolist() == pytest.approx([2 / 3, 0.0])
    assert known.tolist() == [[[[1.0, 0.0]]]]


def test_shrink_of_a_wholly_unknown_cell_is_finite():
    target, is_known = losses.one_hot(torch.full((1, 2, 2), IGNORE), 1)
    shares, known = losses.shrink(target, is_known, torch.Size((1, 1)))
    assert shares.tolist() == [[[[0.0]], [[0.0]]]] and known.item() == 0


@pytest.mark.parametrize(
    ("probs", "target", "overlap", "total"),
    [
        ((1, 1, 0, 0), (1, 0, 0, 0), 1, 3),
        ((0.5, 0.5, 0, 0), (1, 0, 0, 0), 0.5, 2),
        ((1, 0, 0, 0), (1, 0, 0, 0), 1, 2),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0, 0),
        ((1, 1, 1, 1), (0, 0, 0, 0), 0, 4),
    ],
)
def test_dice_loss_of_one_organ(probs, target, overlap, total):
    loss = losses.dice_loss(with_background(*probs), with_background(*target), ALL)
    assert loss.item() == pytest.approx(1 - (2 * overlap + losses.SMOOTH) / (total + losses.SMOOTH))


def test_dice_loss_is_the_mean_over_organs_of_sums_over_the_batch():
    """Organ 1 is right in both slices (Dice 1), organ 2 wrong in both; slices are summed before the division."""
    target = torch.zeros(2, 3, 1, 4)
    target[:, 1, 0, 0], target[:, 2, 0, 1] = 1, 1
    probs = torch.zeros(2, 3, 1, 4)
    probs[:, 1, 0, 0], probs[:, 2, 0, 2] = 1, 1
    loss = losses.dice_loss(probs, target, torch.ones(2, 1, 1, 4))
    smooth = losses.SMOOTH
    assert loss.item() == pytest.approx(1 - (1 + smooth / (4 + smooth)) / 2)


def test_dice_loss_leaves_out_what_is_not_known():
    known = row(1, 1, 0, 0)
    wrong = losses.dice_loss(with_background(1, 0, 1, 1), with_background(1, 0, 0, 0), known)
    assert wrong.item() == pytest.approx(0)


def test_soft_cross_entropy_of_even_odds_is_log_2_and_counts_known_pixels_only():
    logits = torch.zeros(1, 2, 1, 4)
    target = with_background(1, 0, 0.5, 0)
    assert losses.soft_cross_entropy(logits, target, ALL).item() == pytest.approx(math.log(2))
    logits[..., 3] = torch.tensor([-50.0, 50.0]).view(1, 2, 1)
    assert losses.soft_cross_entropy(logits, target, ALL).item() == pytest.approx((3 * math.log(2) + 100) / 4)
    assert losses.soft_cross_entropy(logits, target, row(1, 1, 1, 0)).item() == pytest.approx(math.log(2))
    assert losses.soft_cross_entropy(logits, target, torch.zeros(1, 1, 1, 4)).item() == 0


def test_mask_loss_of_even_odds_is_20_focal_plus_dice():
    """Probability 1/2, organ in two of four pixels: focal as in its paper with alpha 1/4 and gamma 2."""
    loss = losses.mask_loss(torch.zeros(1, 1, 1, 4), row(1, 1, 0, 0), ALL)
    focal = (2 * 0.25 + 2 * 0.75) / 4 * 0.5**2 * math.log(2)
    dice = 1 - (2 * 1 + losses.SMOOTH) / (2 + 2 + losses.SMOOTH)
    assert loss.item() == pytest.approx(20 * focal + dice)


def test_mask_loss_of_a_sure_right_mask_is_0_and_of_a_sure_wrong_one_large():
    right = torch.tensor([20.0, 20, -20, -20]).view(1, 1, 1, 4)
    assert losses.mask_loss(right, row(1, 1, 0, 0), ALL).item() == pytest.approx(0, abs=1e-4)
    assert losses.mask_loss(-right, row(1, 1, 0, 0), ALL).item() > 100


@pytest.mark.parametrize(
    ("mask", "target", "known", "iou"),
    [
        ((0.9, 0.9, 0.1, 0.1), (1, 0, 0, 0), (1, 1, 1, 1), 0.5),
        ((0.9, 0.9, 0.9, 0.1), (1, 0, 0, 0), (1, 1, 0, 1), 0.5),
        ((0.9, 0.1, 0.1, 0.1), (0.7, 0.2, 0, 0), (1, 1, 1, 1), 1.0),
        ((0.1, 0.1, 0.1, 0.1), (0, 0, 0, 0), (1, 1, 1, 1), 1.0),
        ((0.9, 0.1, 0.1, 0.1), (0, 0, 0, 0), (1, 1, 1, 1), 0.0),
    ],
)
def test_quality_loss_is_the_distance_to_the_measured_iou(mask, target, known, iou):
    loss = losses.quality_loss(torch.tensor([[0.7]]), row(*mask), row(*target), row(*known), torch.ones(1, 1))
    assert loss.item() == pytest.approx(abs(0.7 - iou))


def test_alignment_loss_is_0_where_both_decoders_say_the_same_place():
    assert losses.alignment_loss(row(1, 1, 0, 0), row(1, 1, 0, 0), ALL).item() == pytest.approx(0)
    apart = losses.alignment_loss(row(1, 1, 0, 0), row(0, 0, 1, 1), ALL).item()
    assert apart == pytest.approx(1 - losses.SMOOTH / (4 + losses.SMOOTH))
    assert losses.alignment_loss(row(1, 1, 0, 0), row(0, 0, 1, 1), row(0, 0, 0, 0)).item() == pytest.approx(0)


def make_output(*, num_organs=2, has_maps=True):
    """Make an output of leaves for two 32 x 32 slices, the decoders' grid 8 x 8."""
    torch.manual_seed(5)

    def leaf(*shape):
        return torch.randn(2, *shape).requires_grad_()

    return NetworkOutput(
        logits=leaf(1 + num_organs, 32, 32),
        coarse_logits=leaf(1 + num_organs, 16, 16),
        mask_logits=leaf(num_organs, 8, 8),
        map_logits=leaf(1 + num_organs, 8, 8) if has_maps else None,
        quality=torch.rand(2, num_organs).requires_grad_(),
        presence_logits=leaf(num_organs),
        semantic_presence_logits=leaf(num_organs) if has_maps else None,
    )


def make_labels():
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[:, 4:12, 4:12], labels[0, 16:24, 4:20] = 1, 2
    labels[:, :, 20:] = IGNORE  # five cells of the decoders' grid, of four pixels each, come before
    return labels


def test_compute_losses_ignored_pixels_have_exactly_no_gradient():
    output = make_output()
    losses.compute_losses(output, make_labels(), weights=LossPlan())["total"].backward()
    for name, first in (("logits", 20), ("coarse_logits", 10), ("mask_logits", 5), ("map_logits", 5)):
        gradient = getattr(output, name).grad
        assert gradient[..., first:].eq(0).all(), name
        assert gradient[..., :first].ne(0).any(), name


def test_compute_losses_what_is_predicted_where_it_is_ignored_changes_nothing():
    output, labels = make_output(), make_labels()
    before = losses.compute_losses(output, labels, weights=LossPlan())
    with torch.no_grad():
        output.logits[..., 20:] += 9
        output.map_logits[..., 5:] -= 9
        output.mask_logits[..., 5:] += 9
        output.coarse_logits[..., 10:] += 9
    after = losses.compute_losses(output, labels, weights=LossPlan())
    assert {name: value.item() for name, value in before.items()} == {n: v.item() for n, v in after.items()}


def test_compute_losses_presence_of_an_organ_that_may_lie_where_it_is_ignored_does_not_count():
    """Organ 2 is in the first slice only; the second one is ignored in part, so it may be there too."""
    output, labels = make_output(), make_labels()
    losses.compute_losses(output, labels, weights=LossPlan())["presence"].backward()
    for logits in (output.presence_logits, output.semantic_presence_logits):
        assert logits.grad.ne(0).tolist() == [[True, True], [True, False]]
    whole = make_output()
    losses.compute_losses(whole, labels.clamp(min=0), weights=LossPlan())["presence"].backward()
    assert whole.presence_logits.grad.ne(0).all()


def test_compute_losses_of_a_slice_without_any_known_pixel_teaches_no_presence_and_no_quality():
    output, labels = make_output(), make_labels()
    labels[1] = IGNORE
    losses.compute_losses(output, labels, weights=LossPlan())["total"].backward()
    for values in (output.presence_logits, output.semantic_presence_logits, output.quality):
        assert values.grad[1].eq(0).all() and values.grad[0].ne(0).all()


def test_compute_losses_terms_follow_their_weights_and_sum_to_the_total():
    output, labels = make_output(), make_labels()
    weights = LossPlan()
    terms = losses.compute_losses(output, labels, weights=weights)
    assert sum(value.item() for name, value in terms.items() if name != "total") == pytest.approx(terms["total"].item())
    for name in set(terms) - {"total"}:
        doubled = weights.model_copy(update={name: 2 * getattr(weights, name)})
        changed = losses.compute_losses(output, labels, weights=doubled)
        assert changed[name].item() == pytest.approx(2 * terms[name].item())
        assert terms[name].item() > 0


def test_compute_losses_without_the_semantic_decoder_and_deep_supervision_has_fewer_terms():
    output = make_output(has_maps=False)
    terms = losses.compute_losses(output, make_labels(), weights=LossPlan())
    assert not {"semantic", "alignment"} & set(terms)
    assert bool(terms["total"].isfinite())


def test_compute_losses_of_a_batch_without_any_known_pixel_is_finite():
    output = make_output()
    labels = torch.full((2, 32, 32), IGNORE)
    terms = losses.compute_losses(output, labels, weights=LossPlan())
    terms["total"].backward()
    assert bool(terms["total"].isfinite())
    assert bool(output.logits.grad.eq(0).all())


def test_compute_losses_a_better_output_costs_less():
    output, labels = make_output(), make_labels()
    before = losses.compute_losses(output, labels, weights=LossPlan())
    before["total"].backward()
    with torch.no_grad():
        for name in ("logits", "coarse_logits", "mask_logits", "map_logits", "presence_logits"):
            getattr(output, name).sub_(0.1 * getattr(output, name).grad.sign())
    after = losses.compute_losses(output, labels, weights=LossPlan())
    for name in ("dice", "cross_entropy", "mask", "semantic", "presence", "total"):
        assert after[name].item() < before[name].item(), name


NOT_ANNOTATED = torch.tensor([[True, False], [True, True]])  # organ 2 in slice 0


@pytest.mark.parametrize("has_maps", [True, False])
def test_compute_losses_an_organ_that_was_not_annotated_has_exactly_no_gradient_there(has_maps):
    output = make_output(has_maps=has_maps)
    terms = losses.compute_losses(output, make_labels(), weights=LossPlan(), annotated=NOT_ANNOTATED)
    terms["total"].backward()
    for name, first in (("logits", 1), ("coarse_logits", 1), ("map_logits", 1), ("mask_logits", 0), ("quality", 0)):
        if getattr(output, name) is not None:
            gradient = getattr(output, name).grad
            assert gradient[0, first + 1].eq(0).all(), name
            assert gradient[0, first].ne(0).any() and gradient[1, first + 1].ne(0).any(), name
    output = make_output(has_maps=has_maps)
    labels = make_labels().clamp(min=0)
    losses.compute_losses(output, labels, weights=LossPlan(), annotated=NOT_ANNOTATED)["presence"].backward()
    for presence in (output.presence_logits, output.semantic_presence_logits):
        if presence is not None:
            assert presence.grad.ne(0).tolist() == [[True, False], [True, True]]


def test_compute_losses_what_is_predicted_of_an_organ_that_was_not_annotated_changes_nothing():
    output = make_output()
    before = losses.compute_losses(output, make_labels(), weights=LossPlan(), annotated=NOT_ANNOTATED)
    with torch.no_grad():
        for name in ("logits", "coarse_logits", "map_logits"):
            getattr(output, name)[0, 2] += 9
        for name in ("mask_logits", "quality", "presence_logits", "semantic_presence_logits"):
            getattr(output, name)[0, 1] -= 9
    after = losses.compute_losses(output, make_labels(), weights=LossPlan(), annotated=NOT_ANNOTATED)
    assert {name: value.item() for name, value in before.items()} == {n: v.item() for n, v in after.items()}


def test_compute_losses_with_all_organs_annotated_is_that_without_saying_so():
    output, labels = make_output(), make_labels()
    said = losses.compute_losses(output, labels, weights=LossPlan(), annotated=torch.ones(2, 2, dtype=torch.bool))
    for name, value in losses.compute_losses(output, labels, weights=LossPlan()).items():
        assert said[name].item() == pytest.approx(value.item()), name


def test_compute_losses_of_slices_without_any_annotated_organ_is_finite():
    output = make_output()
    nothing = torch.zeros(2, 2, dtype=torch.bool)
    terms = losses.compute_losses(output, make_labels(), weights=LossPlan(), annotated=nothing)
    terms["total"].backward()
    assert bool(terms["total"].isfinite())
    assert output.logits.grad[:, 1:].eq(0).all() and output.mask_logits.grad.eq(0).all()
