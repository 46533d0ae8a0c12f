import pytest
from torch import nn

from autoseg.config.plans import TrainingPlan
from autoseg.training.optim.learning_rate import set_learning_rate
from autoseg.training.optim.optimizers import build_optimizers

PLAN = TrainingPlan(learning_rate=0.01, warmup_fraction=0.1, weight_decay=0.3)


def test_optimizer_has_every_trainable_weight_once_and_decays_matrices_only(tiny_plans):
    network = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    network[2].requires_grad_(False)
    [optimizer] = build_optimizers(network, plans=tiny_plans(1).model_copy(update={"training": PLAN}))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(decay) == 4
    assert decay[id(network[0].weight)] == 0.3
    assert decay[id(network[0].bias)] == decay[id(network[1].weight)] == decay[id(network[1].bias)] == 0
    set_learning_rate([optimizer], 0.125, progress=0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


@pytest.mark.parametrize(("name", "moved"), [("muon", {"refiner.0.weight"}), ("adamw", set())])
def test_muon_moves_the_refiners_kernels_where_the_plan_says_so_and_adamw_all_others(tiny_plans, name, moved):
    refiner = nn.Sequential(nn.Conv2d(4, 16, 3), nn.Conv2d(16, 8, 3), nn.GroupNorm(8, 8), nn.Linear(16, 16))
    network = nn.ModuleDict({"refiner": refiner, "hiera": nn.Conv2d(16, 16, 3)})
    plan = PLAN.model_copy(update={"refiner_optimizer": name, "muon_learning_rate_factor": 3.0})
    optimizers = build_optimizers(network, plans=tiny_plans(1).model_copy(update={"training": plan}))
    name_of = {id(parameter): name for name, parameter in network.named_parameters()}
    adamw, *muon = ([name_of[id(p)] for group in one.param_groups for p in group["params"]] for one in optimizers)
    assert {name for names in muon for name in names} == moved
    assert set(adamw) == set(name_of.values()) - moved and len(adamw) == len(set(adamw))
    set_learning_rate(optimizers, 0.125, progress=0.5)
    assert [group["lr"] for group in optimizers[0].param_groups] == [0.125, 0.125]
    assert [group["lr"] for one in optimizers[1:] for group in one.param_groups] == ([0.375] if moved else [])
