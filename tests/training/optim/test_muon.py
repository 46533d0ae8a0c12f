import pytest
import torch
from torch.nn import Parameter

from autoseg.training.optim.muon import Muon, divide_work, orthogonalize


@pytest.mark.parametrize("shape", [(8, 8), (8, 72), (72, 8), (1, 5)])
def test_orthogonalize_keeps_the_singular_vectors_and_brings_their_values_near_1(shape):
    torch.manual_seed(0)
    matrix = 100 * torch.randn(shape)
    u, values, vh = torch.linalg.svd(matrix, full_matrices=False)
    result = u.T @ orthogonalize(matrix) @ vh.T
    diagonal = result.diagonal()
    assert torch.allclose(result, torch.diag(diagonal), atol=1e-3)
    large = values > 0.01 * values.norm()
    assert large.sum() >= min(shape) - 1
    assert ((diagonal > 0.6) & (diagonal < 1.25))[large].all()


@pytest.mark.parametrize("shape", [(16, 144), (12, 12)])
def test_orthogonalize_is_the_iteration_on_the_whole_matrix(shape):
    torch.manual_seed(1)
    matrix = torch.randn(shape, dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    assert torch.allclose(orthogonalize(matrix), x, atol=1e-8)


def test_a_step_has_the_length_of_one_of_adamw_whatever_the_gradients_size():
    torch.manual_seed(0)
    for size in (1e-3, 1e3):
        kernel = Parameter(torch.zeros(16, 32, 3, 3))
        kernel.grad = size * torch.randn_like(kernel)
        Muon([kernel], lr=0.01, weight_decay=0.0).step()
        assert kernel.square().mean().sqrt().item() == pytest.approx(0.01 * 0.2, rel=0.35)
        assert (kernel * kernel.grad).sum() < 0


def test_weights_decay_by_rate_times_decay_and_one_without_gradient_stays():
    moved, still = Parameter(torch.ones(2, 2)), Parameter(torch.ones(2, 2))
    moved.grad = torch.zeros(2, 2)
    Muon([moved, still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(moved, torch.full((2, 2), 0.95)) and torch.equal(still, torch.ones(2, 2))


def test_work_goes_to_the_least_busy_rank_the_largest_first():
    assert divide_work([1, 5, 3, 3], 2) == [0, 0, 1, 1]
    assert divide_work([2, 1], 1) == [0, 0] and divide_work([], 2) == []


def test_ranks_that_divide_the_kernels_make_the_step_of_one(run_ranks):
    torch.manual_seed(0)
    gradients = [torch.randn(shape) for shape in ((4, 6, 3, 3), (8, 4), (5, 5))]

    def two_steps(ranks):
        kernels = [Parameter(torch.ones_like(gradient)) for gradient in gradients]
        optimizer = Muon(kernels, lr=0.1, weight_decay=0.5)
        for factor in (1.0, -0.3):
            for kernel, gradient in zip(kernels, gradients, strict=True):
                kernel.grad = factor * gradient
            optimizer.find_updates(ranks)
            optimizer.step()
        return [kernel.detach() for kernel in kernels]

    [alone] = run_ranks(two_steps, 1)
    for rank in run_ranks(two_steps, 2):
        assert all(torch.equal(one, other) for one, other in zip(alone, rank, strict=True))
