import threading

import pytest
import torch

from autoseg.inference.cpu_threads import ONE_CORE, Cores, side_by_side


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("num", "slices", "parts"),
    [
        (2, 8, [slice(0, 4), slice(4, 8)]),
        (2, 3, [slice(0, 2), slice(2, 3)]),
        (3, 8, [slice(0, 3), slice(3, 5), slice(5, 8)]),
        (4, 1, [slice(0, 1)]),
    ],
)
def test_parts_cover_the_batch_evenly(num, slices, parts):
    assert Cores(num=num, pool=None).parts(slices) == parts


def test_map_runs_side_by_side_and_keeps_the_order(two_threads):
    meet = threading.Barrier(2, timeout=10)  # passes only if both calls are under way at once

    def call(number):
        meet.wait()
        return 10 * number

    with side_by_side(torch.device("cpu")) as cores:
        assert torch.get_num_threads() == 1
        assert cores.map(call, [1, 2]) == [10, 20]
    assert torch.get_num_threads() == 2


def test_one_core_calls_in_this_thread():
    assert ONE_CORE.map(lambda _: threading.current_thread(), [1, 2]) == [threading.current_thread()] * 2
    with side_by_side(torch.device("meta")) as cores:
        assert cores is ONE_CORE
