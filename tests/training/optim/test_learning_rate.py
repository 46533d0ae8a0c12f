import itertools

import pytest

from autoseg.config.plans import TrainingPlan
from autoseg.training.optim.learning_rate import learning_rate

PLAN = TrainingPlan(learning_rate=0.01, warmup_fraction=0.1)


@pytest.mark.parametrize(
    ("progress", "rate"), [(0.0, 0.0001), (0.05, 0.00505), (0.1, 0.01), (0.55, 0.005), (1.0, 0.00001), (1.5, 0.00001)]
)
def test_learning_rate_rises_in_a_line_then_falls_as_a_cosine(progress, rate):
    assert learning_rate(PLAN, progress=progress) == pytest.approx(rate)


def test_learning_rate_without_warmup_begins_at_the_peak():
    plan = PLAN.model_copy(update={"warmup_fraction": 0.0})
    assert learning_rate(plan, progress=0.0) == pytest.approx(0.01)


def test_learning_rate_never_jumps():
    rates = [learning_rate(PLAN, progress=step / 1000) for step in range(1001)]
    assert max(abs(b - a) for a, b in itertools.pairwise(rates)) < 0.00011
    assert all(rate > 0 for rate in rates)
