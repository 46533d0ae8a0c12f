import pytest

from autoseg.errors import DatasetError
from autoseg.planning.multi_dataset.joint_checks import refuse_other_channels, warn_of_other_channels


def checks_of(make_check, *channels):
    return {"AB"[number]: make_check(("liver",), channels=names) for number, names in enumerate(channels)}


def test_other_numbers_of_channels_are_refused_with_what_there_is(make_check):
    with pytest.raises(DatasetError, match=r"different numbers of channels \(A: CT; B: T1, T2\), so no network"):
        refuse_other_channels(checks_of(make_check, ("CT",), ("T1", "T2")))


def test_the_same_channels_in_another_order_are_refused(make_check):
    """Both are MRI: T2 of B would be normalized, and seen, as T1 of A."""
    with pytest.raises(DatasetError, match=r"A has the channels T1, T2, and B the same in another order: t2, t1\."):
        refuse_other_channels(checks_of(make_check, ("T1", "T2"), ("t2", "t1")))


@pytest.mark.parametrize(
    "channels", [(("CT",), ("MRI",)), (("T1", "T2"), ("t1", "T2")), (("T1", "T2"), ("T1", "FLAIR")), (("a", "a"),) * 2]
)
def test_channels_that_go_together_are_taken(make_check, channels):
    refuse_other_channels(checks_of(make_check, *channels))


def test_channels_of_one_modality_with_other_names_are_told(make_check):
    (problem,) = warn_of_other_channels(checks_of(make_check, ("T1", "T2"), ("T1", "FLAIR")))
    assert problem.message == "B: its channels are taken for those of A, FLAIR for T2." and not problem.is_error
    assert warn_of_other_channels(checks_of(make_check, ("T1", "T2"), ("CT", "CECT"))) == ()
    assert warn_of_other_channels(checks_of(make_check, ("T1",), ("T2",))) == ()
