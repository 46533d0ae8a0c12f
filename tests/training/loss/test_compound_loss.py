import math

import pytest
import torch
from training_fixtures import compute_losses

from autoseg.config.plans import LossPlan
from autoseg.network.output import NetworkOutput
from autoseg.training.loss.compound_loss import CompoundLoss
from autoseg.training.loss.cross_entropy import cross_entropy_sums, focal_sums, mean_of
from autoseg.training.loss.dice import SMOOTH, dice_loss, dice_sums
from autoseg.training.loss.iou_prediction import iou_sums
from autoseg.training.loss.targets import IGNORE, LabelSets, Target, make_target


def row(*values):
    """Make one organ of one slice, a single row of pixels: (1, 1, 1, W)."""
    return torch.tensor(values, dtype=torch.float32).view(1, 1, 1, -1)


ALL = torch.ones(1, 1, 1, 4)


def dice_of(probs, target, known):
    """1 - Dice of organs of slices, (B, K, R, W)."""
    return dice_loss(dice_sums(probs, target, known, torch.ones(probs.shape[:2])))


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
    loss = dice_of(row(*probs), row(*target), ALL)
    assert loss.item() == pytest.approx(1 - (2 * overlap + SMOOTH) / (total + SMOOTH))


def test_dice_loss_is_the_mean_over_organs_of_sums_over_the_batch():
    """Organ 1 is right in both slices (Dice 1), organ 2 wrong in both; slices are summed before the division."""
    target = torch.zeros(2, 2, 1, 4)
    target[:, 0, 0, 0], target[:, 1, 0, 1] = 1, 1
    probs = torch.zeros(2, 2, 1, 4)
    probs[:, 0, 0, 0], probs[:, 1, 0, 2] = 1, 1
    loss = dice_of(probs, target, torch.ones(2, 1, 1, 4))
    smooth = SMOOTH
    assert loss.item() == pytest.approx(1 - (1 + smooth / (4 + smooth)) / 2)


def test_dice_loss_leaves_out_what_is_not_known():
    assert dice_of(row(1, 0, 1, 1), row(1, 0, 0, 0), row(1, 1, 0, 0)).item() == pytest.approx(0)


def test_dice_loss_is_the_mean_over_the_organs_that_were_annotated_anywhere():
    probs, target = torch.cat([row(1, 0, 0, 0)] * 2, dim=1), torch.cat([row(0, 1, 0, 0), row(1, 0, 0, 0)], dim=1)
    sums = dice_sums(probs, target, ALL, torch.tensor([[1.0, 0.0]]))
    assert dice_loss(sums).item() == pytest.approx(1 - SMOOTH / (2 + SMOOTH))
    assert dice_loss(dice_sums(probs, target, ALL, torch.zeros(1, 2))).item() == 0


def cross_entropy(logits, organ, known):
    target = Target(torch.cat([1 - organ, organ], dim=1), known)
    return mean_of(cross_entropy_sums(logits, target))


def test_cross_entropy_of_even_odds_is_log_2_and_counts_known_pixels_only():
    logits = torch.zeros(1, 2, 1, 4)
    organ = row(1, 0, 0.5, 0)
    assert cross_entropy(logits, organ, ALL).item() == pytest.approx(math.log(2))
    logits[..., 3] = torch.tensor([-50.0, 50.0]).view(1, 2, 1)
    assert cross_entropy(logits, organ, ALL).item() == pytest.approx((3 * math.log(2) + 100) / 4)
    assert cross_entropy(logits, organ, row(1, 1, 1, 0)).item() == pytest.approx(math.log(2))
    assert cross_entropy(logits, organ, torch.zeros(1, 1, 1, 4)).item() == 0


def focal_loss(logits, target):
    return mean_of(focal_sums(logits, target, ALL))


def test_focal_loss_of_even_odds_is_that_of_its_paper():
    """Probability 1/2, organ in two of four pixels; alpha 1/4 and gamma 2."""
    expected = (2 * 0.25 + 2 * 0.75) / 4 * 0.5**2 * math.log(2)
    assert focal_loss(torch.zeros(1, 1, 1, 4), row(1, 1, 0, 0)).item() == pytest.approx(expected)


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
    sums = iou_sums(torch.tensor([[0.7]]), row(*mask), row(*target), row(*known), torch.ones(1, 1))
    assert mean_of(sums).item() == pytest.approx(abs(0.7 - iou))


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
        iou_predictions=torch.rand(2, num_organs).requires_grad_(),
        object_score_logits=leaf(num_organs),
        semantic_object_score_logits=leaf(num_organs) if has_maps else None,
    )


def make_labels():
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[:, 4:12, 4:12], labels[0, 16:24, 4:20] = 1, 2
    labels[:, :, 20:] = IGNORE  # five cells of the decoders' grid, of four pixels each, come before
    return labels


def test_compute_losses_ignored_pixels_have_exactly_no_gradient():
    output = make_output()
    compute_losses(output, make_labels(), weights=LossPlan())["total"].backward()
    for name, first in (("logits", 20), ("coarse_logits", 10), ("mask_logits", 5), ("map_logits", 5)):
        gradient = getattr(output, name).grad
        assert gradient[..., first:].eq(0).all(), name
        assert gradient[..., :first].ne(0).any(), name


def test_compute_losses_presence_of_an_organ_that_may_lie_where_it_is_ignored_does_not_count():
    """Organ 2 is in the first slice only; the second one is ignored in part, so it may be there too."""
    output, labels = make_output(), make_labels()
    compute_losses(output, labels, weights=LossPlan())["object_score"].backward()
    for logits in (output.object_score_logits, output.semantic_object_score_logits):
        assert logits.grad.ne(0).tolist() == [[True, True], [True, False]]
    whole = make_output()
    compute_losses(whole, labels.clamp(min=0), weights=LossPlan())["object_score"].backward()
    assert whole.object_score_logits.grad.ne(0).all()


def test_compute_losses_of_a_slice_without_any_known_pixel_teaches_no_presence_and_no_quality():
    output, labels = make_output(), make_labels()
    labels[1] = IGNORE
    compute_losses(output, labels, weights=LossPlan())["total"].backward()
    for values in (output.object_score_logits, output.semantic_object_score_logits, output.iou_predictions):
        assert values.grad[1].eq(0).all() and values.grad[0].ne(0).all()


def test_compute_losses_terms_follow_their_weights_and_sum_to_the_total():
    output, labels = make_output(), make_labels()
    weights = LossPlan()
    terms = compute_losses(output, labels, weights=weights)
    assert sum(value.item() for name, value in terms.items() if name != "total") == pytest.approx(terms["total"].item())
    for name in set(terms) - {"total"}:
        doubled = weights.model_copy(update={name: 2 * getattr(weights, name)})
        changed = compute_losses(output, labels, weights=doubled)
        assert changed[name].item() == pytest.approx(2 * terms[name].item())
        assert terms[name].item() > 0


def test_compute_losses_of_a_batch_without_any_known_pixel_is_finite():
    output = make_output()
    labels = torch.full((2, 32, 32), IGNORE)
    terms = compute_losses(output, labels, weights=LossPlan())
    terms["total"].backward()
    assert bool(terms["total"].isfinite())
    assert bool(output.logits.grad.eq(0).all())


def every_label_one_class(num_slices=2, num_organs=2):
    return torch.eye(1 + num_organs, dtype=torch.bool).expand(num_slices, -1, -1).clone()


def label_sets(classes, *regions):
    return LabelSets(classes, torch.tensor(regions, dtype=torch.bool).view(len(regions), classes.shape[-1]))


def not_annotated():
    """In slice 0 nobody annotated organ 2: background may be it, and its label says nothing."""
    classes = every_label_one_class()
    classes[0, 0, 2] = True
    classes[0, 2] = True
    return label_sets(classes)


@pytest.mark.parametrize("has_maps", [True, False])
def test_compute_losses_masks_of_an_organ_that_was_not_annotated_have_exactly_no_gradient_there(has_maps):
    output = make_output(has_maps=has_maps)
    terms = compute_losses(output, make_labels(), weights=LossPlan(), sets=not_annotated())
    terms["total"].backward()
    for name in ("mask_logits", "iou_predictions"):
        gradient = getattr(output, name).grad
        assert gradient[0, 1].eq(0).all(), name
        assert gradient[0, 0].ne(0).any() and gradient[1, 1].ne(0).any(), name
    output = make_output(has_maps=has_maps)
    labels = make_labels().clamp(min=0)
    compute_losses(output, labels, weights=LossPlan(), sets=not_annotated())["object_score"].backward()
    for presence in (output.object_score_logits, output.semantic_object_score_logits):
        if presence is not None:
            assert presence.grad.ne(0).tolist() == [[True, False], [True, True]]


def test_compute_losses_cross_entropy_of_a_set_is_that_of_the_summed_probability():
    output = make_output()
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    classes = every_label_one_class()
    classes[:, 0, 1] = True
    terms = compute_losses(output, labels, weights=LossPlan(), sets=label_sets(classes))
    probs = output.logits.softmax(dim=1)
    assert terms["cross_entropy"].item() == pytest.approx(-(probs[:, 0] + probs[:, 1]).log().mean().item(), rel=1e-5)


def test_compute_losses_where_nothing_was_annotated_nothing_is_learnt_and_all_stays_finite():
    sets = label_sets(torch.ones(2, 3, 3, dtype=torch.bool))
    output = make_output()
    terms = compute_losses(output, make_labels(), weights=LossPlan(), sets=sets)
    terms["total"].backward()
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(dict.fromkeys(terms, 0), abs=1e-6)
    for name in ("logits", "coarse_logits", "mask_logits", "map_logits", "iou_predictions", "object_score_logits"):
        assert getattr(output, name).grad.abs().max().item() < 1e-7, name


def region_of_both():
    """Label 3 is "organ 1 or 2", which nobody told apart in slice 0; in slice 1 somebody did."""
    classes = torch.cat([every_label_one_class(), torch.tensor([[[False, True, True]]] * 2)], dim=1)
    classes[0, 1:3] = True
    return label_sets(classes, [False, True, True])


def test_compute_losses_of_a_region_asks_for_the_sum_of_its_organs():
    """How a region's pixels are shared out among its organs changes nothing, but whether they are background does."""
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[0, 4:20, 4:20] = 3
    output = make_output()
    with torch.no_grad():
        output.logits.zero_()

    def cost(first, second):
        with torch.no_grad():
            output.logits[0, 1, 4:20, 4:20], output.logits[0, 2, 4:20, 4:20] = first, second
        terms = compute_losses(output, labels, weights=LossPlan(), sets=region_of_both())
        return terms["dice"].item() + terms["cross_entropy"].item()

    assert cost(9.0, -9.0) == pytest.approx(cost(-9.0, 9.0), rel=1e-5)
    assert cost(9.0, -9.0) < cost(0.0, 0.0) < cost(-9.0, -9.0)


def test_compute_losses_of_a_region_says_nothing_of_the_masks_of_its_organs_inside_it():
    output, labels = make_output(), torch.zeros(2, 32, 32, dtype=torch.int64)
    labels[0, 4:20, 4:20] = 3
    compute_losses(output, labels, weights=LossPlan(), sets=region_of_both())["total"].backward()
    assert output.mask_logits.grad[0].eq(0).all()
    assert output.object_score_logits.grad[0].eq(0).all() and output.object_score_logits.grad[1].ne(0).all()


def test_compute_losses_with_labels_that_are_single_organs_is_that_without_sets():
    output, labels = make_output(), make_labels()
    said = compute_losses(output, labels, weights=LossPlan(), sets=label_sets(every_label_one_class()))
    for name, value in compute_losses(output, labels, weights=LossPlan()).items():
        assert said[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("sets", [None, not_annotated(), region_of_both()])
def test_the_loss_of_two_ranks_is_that_of_the_whole_batch(sets, run_ranks):
    """Each rank has the loss of the whole batch, and the mean of the ranks' gradients is the whole one's."""
    labels = make_labels()
    whole = make_output()
    terms = compute_losses(whole, labels, weights=LossPlan(), sets=sets)
    terms["total"].backward()

    halves = [half_of(make_output(), slice(rank, rank + 1)) for rank in range(2)]

    def work(ranks):
        rows, half = slice(ranks.rank, ranks.rank + 1), halves[ranks.rank]
        target = make_target(labels[rows], num_organs=2, sets=None if sets is None else sets.take(rows))
        said = CompoundLoss(LossPlan(), ranks=ranks)(half, target)
        said["total"].backward()
        return half, said

    for rank, (half, said) in enumerate(run_ranks(work)):
        for name, value in terms.items():
            assert said[name].item() == pytest.approx(value.item(), rel=1e-5), name
        for name in ("logits", "coarse_logits", "mask_logits", "map_logits", "iou_predictions", "object_score_logits"):
            expected = getattr(whole, name).grad[rank : rank + 1]
            assert torch.allclose(getattr(half, name).grad / 2, expected, atol=1e-6), name


def test_a_network_that_gives_the_final_map_alone_has_the_terms_of_that_map():
    logits = make_output().logits.detach()
    target = make_target(make_labels(), num_organs=2)
    assert set(CompoundLoss(LossPlan())(NetworkOutput(logits), target)) == {"dice", "cross_entropy", "total"}


def half_of(output, rows):
    values = {name: value.detach()[rows].requires_grad_() for name, value in vars(output).items() if value is not None}
    return NetworkOutput(**{**vars(output), **values})
