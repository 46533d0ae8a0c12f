from types import SimpleNamespace

import numpy as np
import pytest
import torch

from autoseg.inference import sliding_window
from autoseg.inference.cpu_threads import Cores
from autoseg.inference.sliding_window import gaussian_weight, predict_slices
from autoseg.network.build import build_network
from autoseg.network.context_slices import context_slice_numbers
from autoseg.training.data.sampler import cut_slices

CPU = torch.device("cpu")


def predict(network, image, plans, organs=(0,)):
    networks = network if isinstance(network, list) else [network]
    return torch.cat(list(predict_slices(networks, image, plans=plans, organs=organs, device=CPU))).numpy()


def softmax(*logits):
    exponents = np.exp(np.stack(np.broadcast_arrays(*logits)))
    return exponents / exponents.sum(axis=0)


@pytest.mark.parametrize(
    ("rows", "columns"), [(32, 32), (20, 24), (100, 32), (40, 75), (1, 1), (33, 31)], ids=lambda size: str(size)
)
def test_tiles_of_any_slice_are_joined_without_a_seam(tiny_plans, brightness_as_logit, rng, rows, columns):
    image = rng.normal(size=(1, 6, rows, columns)).astype(np.float32)
    probs = predict(brightness_as_logit, image, tiny_plans(2), organs=(0, 1))
    assert probs.shape == (6, 3, rows, columns) and probs.dtype == np.float32
    assert np.allclose(probs, softmax(0 * image[0], image[0], 2 * image[0]).swapaxes(0, 1), atol=1e-5)


@pytest.mark.parametrize("axes", [["row"], ["column"], ["row", "column"]])
def test_mirrored_predictions_are_turned_back_before_they_are_averaged(tiny_plans, brightness_as_logit, rng, axes):
    image = rng.normal(size=(1, 3, 40, 32)).astype(np.float32)
    plans = tiny_plans(1, inference={"mirror_axes": axes})
    probs = predict(brightness_as_logit, image, plans)
    assert np.allclose(probs[:, 1], softmax(0 * image[0], image[0])[1], atol=1e-5)


def test_each_combination_of_mirrored_axes_is_seen_once(tiny_plans):
    """The corner that the brightest pixel comes to tells how the image was mirrored."""
    corners = []

    def network(images, organs, **_rest):
        row, column = np.unravel_index(int(images[0, 1].argmax()), (32, 32))
        corners.append((int(row > 16), int(column > 16)))
        return SimpleNamespace(logits=torch.zeros(len(images), 1 + len(organs), 32, 32))

    image = np.zeros((1, 1, 32, 32), np.float32)
    image[0, 0, 2, 2] = 1
    for axes, expected in (
        ([], [(0, 0)]),
        (["column"], [(0, 0), (0, 1)]),
        (["row", "column"], [(0, 0), (0, 1), (1, 0), (1, 1)]),
    ):
        corners.clear()
        predict(network, image, tiny_plans(1, inference={"mirror_axes": axes}))
        assert sorted(corners) == expected


def test_networks_of_several_folds_are_averaged_as_probabilities(tiny_plans):
    def network_that_says(logit):
        return lambda images, organs, **_rest: SimpleNamespace(
            logits=torch.tensor([0.0, logit]).view(1, 2, 1, 1).expand(len(images), 2, 32, 32)
        )

    probs = predict(
        [network_that_says(0.0), network_that_says(100.0)], np.zeros((1, 2, 32, 32), np.float32), tiny_plans(1)
    )
    assert np.allclose(probs[:, 1], (0.5 + 1.0) / 2)


def test_where_windows_overlap_the_nearer_middle_counts_more(tiny_plans):
    """Two windows of 32 in 48 columns: the first says organ, the second says none."""
    calls = []

    def network(images, organs, **_rest):
        calls.append(1)
        logit = 100.0 if len(calls) == 1 else -100.0
        return SimpleNamespace(logits=torch.tensor([0.0, logit]).view(1, 2, 1, 1).expand(len(images), 2, 32, 32))

    organ = predict(network, np.zeros((1, 1, 32, 48), np.float32), tiny_plans(1))[0, 1, 0]
    assert len(calls) == 2
    assert np.allclose(organ[:16], 1) and np.allclose(organ[32:], 0)
    assert np.all(np.diff(organ[15:33]) < 0) and organ[23] + organ[24] == pytest.approx(1)


@pytest.mark.parametrize(("num_slices", "batch"), [(1, 4), (4, 4), (5, 4), (3, 1)])
@pytest.mark.parametrize("reach", [1, 2])
def test_slices_come_in_order_each_between_its_neighbors_as_in_training(tiny_plans, rng, num_slices, batch, reach):
    image = rng.normal(size=(2, num_slices, 32, 32)).astype(np.float32)
    seen = []

    def network(images, organs, **_rest):
        seen.extend(images.clone())
        return SimpleNamespace(logits=torch.zeros(len(images), 2, 32, 32))

    plans = tiny_plans(1, num_channels=2, network={"context_slices": reach}, inference={"slices_per_batch": batch})
    assert predict(network, image, plans).shape == (num_slices, 2, 32, 32)
    whole = slice(0, 32)
    assert len(seen) == num_slices
    for number, given in enumerate(seen):
        numbers = context_slice_numbers(number, num_slices=num_slices, reach=reach)
        trained_on = cut_slices(image, numbers, rows=whole, columns=whole).reshape(-1, 32, 32)
        assert np.array_equal(given.numpy(), trained_on)


def test_only_the_organs_asked_for_are_predicted(tiny_plans):
    asked = []

    def network(images, organs, **_rest):
        asked.append(organs.tolist())
        return SimpleNamespace(logits=torch.zeros(len(images), 1 + len(organs), 32, 32))

    probs = predict(network, np.zeros((1, 2, 32, 32), np.float32), tiny_plans(4), organs=(3, 1))
    assert probs.shape == (2, 3, 32, 32) and asked == [[3, 1]]


def test_slices_are_made_one_batch_at_a_time(tiny_plans, brightness_as_logit):
    """A scan of 1,500 slices must not be predicted whole before the first slice comes out."""
    calls = []

    def network(images, organs, **_rest):
        calls.append(len(images))
        return brightness_as_logit(images, organs)

    slices = predict_slices(
        [network], np.zeros((1, 1500, 32, 32), np.float32), plans=tiny_plans(1), organs=(0,), device=CPU
    )
    next(slices)
    assert calls == [4]


@pytest.mark.parametrize(("organs", "num_cores", "expected"), [((0,), 1, 4), ((0, 1, 2), 1, 2), ((0, 1, 2), 3, 3)])
def test_many_organs_make_batches_smaller_but_leave_no_core_idle(tiny_plans, monkeypatch, organs, num_cores, expected):
    monkeypatch.setitem(sliding_window.MAPS_BYTES, "cpu", 4 * 32 * 32 * 8)  # eight maps
    calls = []

    def network(images, organs, **_rest):
        calls.append(len(images))
        return SimpleNamespace(logits=torch.zeros(len(images), 1 + len(organs), 32, 32))

    image, cores = np.zeros((1, 12, 32, 32), np.float32), Cores(num=num_cores, pool=None)
    list(predict_slices([network], image, plans=tiny_plans(3), organs=organs, device=CPU, cores=cores))
    assert sum(calls) == 12 and max(calls) * (1 if num_cores == 1 else num_cores) == expected


@pytest.mark.parametrize("order", ["outwards", "ascending", "similarity"])
def test_with_a_memory_the_maps_come_in_order_whatever_the_order_of_the_visits(tiny_plans, rng, order):
    """The stand-in says in each map which slice it saw, and how many it had seen before in the same window."""
    image = np.broadcast_to(np.arange(10, dtype=np.float32)[None, :, None, None], (1, 10, 32, 48)).copy()
    image += rng.normal(size=(1, 10, 1, 1)).astype(np.float32) * 0.1
    visits = []

    def network(images, organs, *, point_prompts, positions, bank):
        assert positions.shape == (1, len(images))
        assert torch.allclose(images[:, 1, 0, 0].round(), positions[0].float())
        seen = [*(bank or []), *positions[0].tolist()]
        visits.append((len(bank or []), positions[0].tolist()))
        logits = torch.zeros(len(images), 2, 32, 32)
        logits[:, 1] = positions[0].view(-1, 1, 1) / 10
        return SimpleNamespace(logits=logits, bank=seen)

    plans = tiny_plans(
        1, network={"memory_slices": 3}, inference={"slices_per_batch": 2, "slab_slices": 6, "slice_order": order}
    )
    probs = predict(network, image, plans)
    assert np.allclose(probs[:, 1, 0, 0], 1 / (1 + np.exp(-np.arange(10) / 10)), atol=1e-5)
    first = [numbers for _, numbers in visits[::2]]  # of the first of two windows
    assert [before for before, _ in visits[::2]] == [before for before, _ in visits[1::2]] == [0, 2, 4, 6, 8]
    slabs = [sorted(number for numbers in part for number in numbers) for part in (first[:3], first[3:])]
    assert slabs == [list(range(6)), list(range(6, 10))]
    if order == "ascending":
        assert first == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]


def test_every_mirrored_copy_and_fold_has_a_memory_of_its_own_which_ends_with_the_case(tiny_plans):
    banks = []

    def make(name):
        def network(images, organs, *, point_prompts, positions, bank):
            banks.append((name, bank))
            return SimpleNamespace(logits=torch.zeros(len(images), 2, 32, 32), bank=f"{name}{bank or ''}")

        return network

    plans = tiny_plans(1, network={"memory_slices": 3}, inference={"slices_per_batch": 1, "mirror_axes": ["row"]})
    image = np.zeros((1, 2, 32, 32), np.float32)
    for _case in range(2):
        list(predict_slices([make("a"), make("b")], image, plans=plans, organs=(0,), device=torch.device("cpu")))
        assert banks == [("a", None), ("b", None)] * 2 + [("a", "a"), ("b", "b")] * 2
        banks.clear()


@pytest.mark.parametrize("memory_slices", [0, 2])
@pytest.mark.parametrize("num_organs", [1, 3])
def test_each_window_is_encoded_once_whatever_the_number_of_organs(tiny_plans, rng, num_organs, memory_slices):
    """40 x 32 px in windows of 32 x 32 are two windows a slice, overlapping by more than half."""
    plans = tiny_plans(3, network={"memory_slices": memory_slices})
    network = build_network(plans).eval()
    seen = []
    network.image_encoder.register_forward_hook(lambda _module, args, _output: seen.append(len(args[0])))
    image = rng.normal(size=(1, 5, 40, 32)).astype(np.float32)
    maps = torch.cat(list(predict_slices([network], image, plans=plans, organs=range(num_organs), device=CPU)))
    assert maps.shape == (5, 1 + num_organs, 40, 32)
    assert sum(seen) == 5 * 2


def test_gaussian_weight_is_largest_in_the_middle_symmetric_and_nowhere_zero():
    weight = gaussian_weight((9, 16))
    assert weight.shape == (9, 16) and weight.dtype == np.float32
    assert np.array_equal(weight, weight[::-1, ::-1]) and weight[4, 7] == weight.max() <= 1
    assert weight.min() > 0.001
    assert np.all(np.diff(weight[4, :8]) > 0)
    assert weight[4, 0] / weight[4, 7] == pytest.approx(np.exp(-0.5 * (7.5 / 4) ** 2 + 0.5 * (0.5 / 4) ** 2), rel=1e-5)
