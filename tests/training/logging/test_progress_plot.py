import matplotlib.image
import pytest

from autoseg.training.logging.progress_plot import plot_progress


def record(step, *, dice=None, losses=True, organs=2):
    return {
        "step": step,
        "seconds": 60.0 * step,
        "learning_rate": 0.001,
        "losses": {"total": 3.0 / step, "dice": 0.5, "cross_entropy": 0.2} if losses else {},
        "validation": None
        if dice is None
        else {"seen_in_training": False, "cases": 1, "dice": {f"organ {k}": dice for k in range(organs)}},
    }


@pytest.mark.parametrize(
    "records",
    [
        [record(1)],
        [record(1), record(2, dice=0.5), record(3, dice=0.7)],
        [record(1, losses=False), record(2)],
        [{key: value for key, value in record(1).items() if key != "validation"}],
        [record(1, dice=0.4, organs=20)],
    ],
    ids=["no look", "two looks", "an epoch of bad losses alone", "an epoch without a look", "many organs"],
)
def test_plot_of_any_records_is_a_picture(records, tmp_path):
    plot_progress(records, tmp_path / "progress.png")
    picture = matplotlib.image.imread(tmp_path / "progress.png")
    assert picture.shape[0] > 400 and picture.shape[1] > 600 and picture.std() > 0.02
