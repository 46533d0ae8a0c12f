"""Implements Muon, momentum whose steps are orthogonalized, for the kernels of convolutions.

Sources: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks" (the iteration and its three
numbers); Liu et al. 2025, "Muon is scalable for LLM training" (the factor that makes a step as long as AdamW's, so
that one learning rate serves both). torch.optim.Muon takes matrices only, and works in bfloat16, which most CPUs have
to emulate.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

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

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update every weight that has a gradient; `closure` is part of torch's interface and not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
                direction = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov's
                update = orthogonalize(direction).view_as(parameter)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * ADAMW_LENGTH * max(direction.shape) ** 0.5)


def orthogonalize(matrix: Tensor) -> Tensor:
    """Return an (m, n) matrix with the same singular vectors and every singular value near 1 (0.7 to 1.2); zeros stay.

    The iteration X <- (a + b G + c G^2) X with G = X X^T multiplies from the left only. So it runs on the small side,
    on
    G and on the product of the factors, which all commute, and the long side is multiplied twice instead of ten times.
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
