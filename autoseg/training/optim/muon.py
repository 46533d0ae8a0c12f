"""Implements Muon, momentum whose steps are orthogonalized, for the kernels of convolutions.

Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (the iteration and its three
numbers); Liu et al. 2025, "Muon is scalable for LLM training" (the factor that makes a step as long as AdamW's, so
that one learning rate serves both). torch.optim.Muon takes matrices only, and works in bfloat16, which most CPUs have
to emulate.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from autoseg.distributed.ranks import Ranks

QUINTIC = (3.4445, -4.7750, 2.0315)
NUM_ITERATIONS = 5
MOMENTUM = 0.95
ADAMW_LENGTH = 0.2  # root mean square of AdamW's usual step, in learning rates


class Muon(torch.optim.Optimizer):
    """Updates weights by their orthogonalized momentum; one of more than two axes is a matrix (first, all others)."""

    def __init__(
        self, parameters: Iterable[Parameter] | Iterable[dict[str, Any]], *, lr: float, weight_decay: float
    ) -> None:
        """Take weights of at least two axes; a learning rate and a decoupled weight decay that suit AdamW suit here."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self._found: list[tuple[Tensor, Tensor]] | None = None  # the new momentum and the update of each weight

    @torch.no_grad()
    def find_updates(self, ranks: Ranks) -> None:
        """Find the updates of the next step, each on one rank, and exchange them; nothing is changed yet.

        Orthogonalizing takes a sixth of a training step on a CPU, so the ranks divide it.
        """
        momenta, directions = [], []
        for _group, parameter, gradient in self._with_gradients():
            momentum = self.state[parameter].get("momentum", torch.zeros_like(parameter))
            momenta.append(momentum.lerp(gradient, 1 - MOMENTUM))
            directions.append(gradient.lerp(momenta[-1], MOMENTUM).flatten(1))  # Nesterov's
        owners = divide_work([matrix.numel() * min(matrix.shape) for matrix in directions], ranks.world_size)
        updates = [
            orthogonalize(matrix) if owner == ranks.rank else torch.zeros_like(matrix)
            for matrix, owner in zip(directions, owners, strict=True)
        ]
        if ranks.world_size > 1 and updates:
            vector = ranks.all_reduce(torch.cat([update.flatten() for update in updates]))
            parts = vector.split([update.numel() for update in updates])
            updates = [part.view_as(update) for part, update in zip(parts, updates, strict=True)]
        self._found = list(zip(momenta, updates, strict=True))

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; `closure` is part of torch's interface and not used."""
        if self._found is None:
            self.find_updates(Ranks())
        for (group, parameter, _gradient), (momentum, update) in zip(
            self._with_gradients(), self._found or (), strict=True
        ):
            self.state[parameter]["momentum"] = momentum
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(update.view_as(parameter), alpha=-group["lr"] * ADAMW_LENGTH * max(update.shape) ** 0.5)
        self._found = None

    def _with_gradients(self) -> Iterator[tuple[dict[str, Any], Parameter, Tensor]]:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    yield group, parameter, parameter.grad


def divide_work(costs: Sequence[float], num_ranks: int) -> list[int]:
    """Assign each item to a rank so that the sums of costs are similar: the largest first, to the least busy rank."""
    busy, owners = [0.0] * num_ranks, [0] * len(costs)
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        owners[index] = busy.index(min(busy))
        busy[owners[index]] += costs[index]
    return owners


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return an (m, n) matrix with the same singular vectors and every singular value near 1 (0.7 to 1.2); zeros stay.

    The iteration X <- (a + b G + c G^2) X with G = X X^T multiplies from the left only. So it runs on the small side
    (on G and on the product of the factors, which all commute), and the long side is multiplied twice instead of ten
    times.
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.T).T
    a, b, c = QUINTIC
    x = matrix / matrix.norm().clamp(min=1e-7)  # no singular value over 1
    gram = x @ x.T  # (m, m)
    identity = torch.eye(len(x), dtype=x.dtype, device=x.device)
    product = identity
    for _ in range(NUM_ITERATIONS):
        factor = a * identity + torch.addmm(gram, gram, gram, beta=b, alpha=c)
        product = factor @ product
        gram = factor @ gram @ factor
    return product @ x
