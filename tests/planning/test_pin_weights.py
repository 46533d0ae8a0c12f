import hashlib

import pytest

from autoseg.config.plans import Device, Plans
from autoseg.errors import CheckpointError, PlanError
from autoseg.planning.pin_weights import pin_weights
from autoseg.planning.planner import make_plans

ADDRESS = "hf://owner/repo/weights.pt"
SHA256 = hashlib.sha256(b"some weights").hexdigest()


@pytest.fixture
def pinned_address(hub):
    hub.files["owner/repo", "weights.pt"] = b"some weights"
    return f"hf://owner/repo@{hub.revisions['main']}/weights.pt"


@pytest.fixture
def plan_with(make_fingerprint_of):
    def make(*settings: str) -> Plans:
        return make_plans(
            make_fingerprint_of(),
            device=Device(kind="cpu", memory_gib=8),
            settings=[f"network.{setting}" for setting in settings],
        )

    return make


def test_commit_and_sha256_go_into_the_plan_with_what_was_asked_for(hub, plan_with, pinned_address):
    plans = pin_weights(plan_with(f"weights={ADDRESS}"))
    assert (plans.network.weights, plans.network.weights_sha256) == (pinned_address, SHA256)
    reason = plans.reasons["network.weights"]
    assert reason.rule == f"Set by --set network.weights={ADDRESS}, not by the planner."
    assert reason.facts["asked"] == ADDRESS
    assert "training takes no other" in plans.reasons["network.weights_sha256"].rule
    assert plans.overrides == (f"--set network.weights={ADDRESS}",)
    assert Plans.model_validate(plans.model_dump(mode="json")) == plans


@pytest.mark.parametrize(
    "settings", [(), ("weights=/weights/sam2.pt",), ("weights=sam2.pt", f"weights_sha256={SHA256}")]
)
def test_a_plan_without_weights_of_the_hub_stays_as_it_is_and_asks_nobody(hub, plan_with, settings):
    plans = plan_with(*settings)
    assert pin_weights(plans) is plans
    assert hub.asked == []


def test_what_the_user_pinned_stays_and_asks_nobody(hub, plan_with, pinned_address):
    plans = plan_with(f"weights={pinned_address}", f"weights_sha256={SHA256}")
    assert pin_weights(plans) is plans
    assert hub.asked == []


def test_the_same_question_keeps_its_pin_when_the_hub_moves_on(hub, plan_with, pinned_address):
    earlier = pin_weights(plan_with(f"weights={ADDRESS}"))
    hub.revisions["main"] = "f" * 40
    hub.asked.clear()
    plans = plan_with(f"weights={ADDRESS}")
    assert pin_weights(plans, earlier=earlier) == pin_weights(plans, earlier=earlier, offline=True) == earlier
    assert hub.asked == []
    assert pin_weights(plans).network.weights == f"hf://owner/repo@{'f' * 40}/weights.pt"


@pytest.mark.parametrize("other", ["hf://owner/repo@main/weights.pt", "hf://owner/repo/other.pt"])
def test_another_question_is_asked_anew(hub, plan_with, pinned_address, other):
    hub.files["owner/repo", "other.pt"] = b"other"
    earlier = pin_weights(plan_with(f"weights={ADDRESS}"))
    hub.asked.clear()
    plans = pin_weights(plan_with(f"weights={other}"), earlier=earlier)
    assert plans.network.weights == pinned_address.replace("weights.pt", other.rpartition("/")[2])
    assert len(hub.asked) == 2


def test_a_sha256_that_the_user_gave_is_compared(plan_with, pinned_address):
    plans = pin_weights(plan_with(f"weights={ADDRESS}", f"weights_sha256={SHA256}"))
    assert plans.network.weights == pinned_address
    with pytest.raises(CheckpointError, match="not " + "a" * 64):
        pin_weights(plan_with(f"weights={ADDRESS}", f"weights_sha256={'a' * 64}"), earlier=plans)


def test_offline_without_a_cache_is_refused(hub, plan_with):
    with pytest.raises(CheckpointError, match="is not in the hub's cache"):
        pin_weights(plan_with(f"weights={ADDRESS}"), offline=True)
    assert hub.asked == []


def test_metas_weights_of_another_size_than_the_backbone_are_refused_before_anybody_is_asked(hub, plan_with):
    message = (
        "sam2.1_hiera_base_plus does not fit network.backbone = nano. --set network.backbone=base_plus plans for it"
    )
    with pytest.raises(PlanError, match=message):
        pin_weights(plan_with("weights=sam2.1_hiera_base_plus"))
    assert hub.asked == []
    hub.files["facebook/sam2.1-hiera-base-plus", "sam2.1_hiera_base_plus.pt"] = b"base"
    plans = pin_weights(plan_with("weights=sam2.1_hiera_base_plus", "backbone=base_plus"))
    assert plans.network.weights.startswith("hf://facebook/sam2.1-hiera-base-plus@")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (f"weights_sha256={SHA256}", "network.weights is not"),
        ("weights=hf://weights.pt", "expected hf://OWNER/REPO/FILE"),
    ],
)
def test_half_a_question_is_refused(plan_with, setting, message):
    with pytest.raises(PlanError, match=message):
        pin_weights(plan_with(setting))


@pytest.mark.parametrize("value", ["abc", "A" * 64, "g" * 64, "a" * 65])
def test_a_sha256_of_another_form_is_refused(plan_with, value):
    with pytest.raises(PlanError, match=r"network\.weights_sha256"):
        plan_with("weights=sam2.pt", f"weights_sha256={value}")
