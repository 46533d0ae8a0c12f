import numpy as np
import pytest

from autoseg.config.plans import ComponentFilter
from autoseg.training.validation.component_filter_choice import (
    OrganPieces,
    choose_component_filter,
    dice_after,
    list_pieces,
)


def test_pieces_are_listed_with_what_they_hit():
    predicted, reference = np.zeros((2, 2, 6, 6), np.uint8)
    reference[0, :3, :3] = 1  # nine voxels
    predicted[0, :3, :2] = 1  # six of them
    predicted[1, 5, 5] = 1  # a speck
    predicted[0, 5, 0] = 2  # an organ that is not there
    predicted[1, 0, 5], reference[1, 0, 5] = 1, 255  # ignored
    pieces = list_pieces(predicted, reference, names=["liver", "spleen"], voxel_ml=0.5)
    assert sorted(zip(pieces["liver"].sizes, pieces["liver"].hits, strict=True)) == [(1, 0), (6, 6)]
    assert pieces["liver"].reference == 9
    assert pieces["spleen"] == OrganPieces(0.5, 0, (1,), (0,))


@pytest.mark.parametrize(
    ("share", "volume", "expected"),
    [
        (0.0, 0.0, 2 * 10 / (12 + 17)),
        (0.4, 0.0, 2 * 10 / (12 + 16)),  # the piece of one goes
        (1.0, 0.0, 2 * 8 / (12 + 10)),  # the largest alone
        (0.0, 3.5, 2 * 8 / (12 + 10)),  # seven voxels
        (0.0, 100.0, 0.0),  # all
    ],
)
def test_dice_after_a_rule_by_hand(share, volume, expected):
    pieces = OrganPieces(voxel_ml=0.5, reference=12, sizes=(10, 6, 1), hits=(8, 2, 0))
    rule = ComponentFilter(organ="liver", min_fraction=share, min_volume_ml=volume)
    assert pieces.dice(rule) == pytest.approx(expected)


def test_nothing_on_either_side_is_right():
    assert OrganPieces(0.5, 0, (), ()).dice(ComponentFilter(organ="liver")) == 1.0
    assert OrganPieces(0.5, 0, (3,), (0,)).dice(ComponentFilter(organ="liver", min_volume_ml=2.0)) == 1.0


def test_a_rule_is_kept_only_where_it_raises_dice():
    """Specks of the liver are wrong; the small pieces of the vessels are right."""
    speckled = OrganPieces(0.1, 100, (90, 4), (88, 0))
    branched = OrganPieces(0.1, 100, (60, 30, 5), (60, 30, 5))
    clean = OrganPieces(0.1, 50, (48,), (47,))
    cases = [{"liver": speckled, "vessels": branched, "heart": clean} for _ in range(3)]
    chosen, reason = choose_component_filter(cases, names=["liver", "vessels", "heart"], planned=())
    assert chosen == (ComponentFilter(organ="liver", min_fraction=0.05),)
    facts = reason.facts["organs"]
    assert facts["liver"] == {
        "cases": 3,
        "dice_without": round(176 / 194, 4),
        "dice_with_the_best": round(176 / 190, 4),
    }
    assert facts["vessels"]["dice_without"] == round(190 / 195, 4) and reason.facts["num_cases"] == 3


def test_an_organ_that_is_found_where_there_is_none_goes_by_volume():
    real = OrganPieces(0.1, 400, (390,), (380,))
    ghost = OrganPieces(0.1, 0, (8,), (0,))
    chosen, _ = choose_component_filter(
        [{"spleen": real}, {"spleen": ghost}, {"spleen": ghost}], names=["spleen"], planned=()
    )
    assert chosen == (ComponentFilter(organ="spleen", min_volume_ml=1.0),)


def test_too_few_cases_leave_the_plans_rule_and_more_may_drop_it():
    planned = (ComponentFilter(organ="vessels", min_fraction=1.0),)
    branched = {"vessels": OrganPieces(0.1, 100, (60, 30), (60, 30))}
    absent = {"vessels": OrganPieces(0.1, 0, (), ())}
    assert choose_component_filter([branched] * 2 + [absent] * 9, names=["vessels"], planned=planned)[0] == planned
    assert choose_component_filter([branched] * 3, names=["vessels"], planned=planned)[0] == ()


def test_cases_in_which_an_organ_was_not_annotated_do_not_choose_its_rule():
    """Their pieces lack it; with them as cases without the organ, what is found in them would count as a fault."""
    speckled = OrganPieces(0.1, 100, (90, 4), (88, 0))
    with_it, without = {"liver": speckled, "spleen": speckled}, {"spleen": speckled}
    chosen, reason = choose_component_filter([with_it] * 2 + [without] * 5, names=["liver", "spleen"], planned=())
    assert [rule.organ for rule in chosen] == ["spleen"]
    assert reason.facts["organs"]["liver"] == {"cases": 2, "kept": "too few cases"}
    assert dice_after(without, chosen) == {"spleen": pytest.approx(2 * 88 / 190)}
