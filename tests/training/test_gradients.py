"""What the optimizers are handed: gradients that lie in memory as their parameters do."""

import copy

import torch

from autoseg.training.data.sampler import SliceSampler
from autoseg.training.gradients import find_gradients
from autoseg.training.state import new_state

CPU = torch.device("cpu")


def find(tiny_plans, make_store):
    plans = tiny_plans(2, training={"batch_slices": 2})
    state = new_state(plans, device=CPU, needs_scaler=False)
    store = make_store(plans)
    batch = SliceSampler(store, store.case_ids(), plans=plans, cache_bytes=10**9).make_batch(0)
    return state, find_gradients(state.network, state.parameters, batch, plan=plans.training).gradients


def test_gradients_lie_as_their_parameters(tiny_plans, make_store):
    state, gradients = find(tiny_plans, make_store)
    assert [gradient.stride() for gradient in gradients] == [parameter.stride() for parameter in state.parameters]


def test_fused_adamw_moves_the_weights_as_the_plain_one(tiny_plans, make_store):
    # its kernel goes through weight and gradient by address, whatever their strides
    state, gradients = find(tiny_plans, make_store)
    moved = {}
    for is_fused in (True, False):
        parameters = copy.deepcopy(list(state.parameters))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()  # keeps the strides
        torch.optim.AdamW(parameters, lr=1e-3, fused=is_fused).step()
        moved[is_fused] = parameters
    for fused, plain in zip(moved[True], moved[False], strict=True):
        torch.testing.assert_close(fused, plain, rtol=0, atol=1e-5)
