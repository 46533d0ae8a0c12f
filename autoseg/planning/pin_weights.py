"""Pins pretrained weights of the hub in a plan to a commit and a SHA-256.

Owns: `pin_weights`, and the reasons that it writes.
Does not own: addresses (`hub/address.py`), the hub (`hub/download.py`), changes by the user (`overrides.py`).
"""

import logging

from autoseg.config.plans import NetworkPlan, Plans, Reason
from autoseg.errors import PlanError
from autoseg.hub.address import SHORT_NAMES, SIZES, parse_address
from autoseg.hub.download import pin

log = logging.getLogger("autoseg")


def pin_weights(plans: Plans, *, earlier: Plans | None = None, offline: bool = False) -> Plans:
    """Return the plan with the commit and SHA-256 of its weights, if they are from the hub.

    Args:
        plans: The plan with all changes.
        earlier: The earlier plan of the same run folder, whose pin is kept if the address is the same.
        offline: Whether to use only the hub's cache on this machine.

    Raises:
        CheckpointError: The hub or its cache does not have the file, or it has another SHA-256 than the plan says.
        PlanError: The address is not valid, or the weights cannot fit the plan's backbone.
    """
    network = plans.network
    asked = network.weights
    if asked is None:
        if network.weights_sha256 is not None:
            raise PlanError("network.weights_sha256 is set, but network.weights is not. Set both, or neither.")
        return plans
    file = parse_address(asked)
    if file is None:
        return plans
    _check_backbone(network)
    pinned = None if earlier is None else _earlier_pin(earlier, asked=network)
    if pinned is None:
        found, sha256 = pin(file, sha256=network.weights_sha256, offline=offline)
        pinned = (str(found), sha256)
        log.info("network.weights: %s, SHA-256 %s", *pinned)
    if pinned == (asked, network.weights_sha256):
        return plans
    reasons = dict(plans.reasons)
    own = reasons.get("network.weights", Reason(rule="Set by the user."))
    reasons["network.weights"] = own.model_copy(update={"facts": {**own.facts, "asked": asked}})
    reasons["network.weights_sha256"] = Reason(
        rule="The file's SHA-256 at the commit that its revision meant when it was planned; training takes no other.",
        facts={"asked": network.weights_sha256},
    )
    changes = {"weights": pinned[0], "weights_sha256": pinned[1]}
    return plans.model_copy(update={"network": network.model_copy(update=changes), "reasons": reasons})


def _earlier_pin(earlier: Plans, *, asked: NetworkPlan) -> tuple[str, str] | None:
    """Return the address and SHA-256 that an earlier plan found for the same address, or None."""
    old, none = earlier.network, Reason(rule="")
    questions = [
        earlier.reasons.get(f"network.{field}", none).facts.get("asked") for field in ("weights", "weights_sha256")
    ]
    if questions != [asked.weights, asked.weights_sha256] or old.weights is None or old.weights_sha256 is None:
        return None
    return old.weights, old.weights_sha256


def _check_backbone(network: NetworkPlan) -> None:
    """Refuse Meta's weights of another size than the backbone, before anything is downloaded."""
    if network.weights not in SHORT_NAMES:
        return
    size = next(size for size in SIZES if network.weights.endswith(f"_{size}"))
    if size != network.backbone:
        raise PlanError(
            f"network.weights = {network.weights} does not fit network.backbone = {network.backbone}. "
            f"--set network.backbone={size} plans for it."
        )
