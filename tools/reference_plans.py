"""The plans in `plans/reference`: what the planner makes of each fingerprint there, for a CPU and for a GPU.

Owns: the record of a plan, `plans.json` of a dataset's folder, `defaults.json`.
Does not own: the fingerprints (`reference_fingerprints.py`), the command that writes all of it
(`write_reference_plans.py`), the rules (`autoseg.planning`).

A record holds the values that a rule chose or the dataset brought along, by the names that `--explain` and `--set`
take, and the facts that led to them. All others are the same in every plan and stand in `defaults.json` once. The
sentences that describe organs and the wording of the rules are left out: a rule that changes shows in its values and
facts. Of several datasets' labels those are listed that mean something else than they are called.
"""

from pathlib import Path
from typing import Any

from compact_json import lay_out, round_floats

from autoseg.config.plans import Device, Plans
from autoseg.planning.explain import find_reason, flatten
from autoseg.planning.fingerprint.fingerprint import Fingerprint
from autoseg.planning.planner import make_plans
from autoseg.system.atomic_files import read_json

REFERENCE = Path(__file__).resolve().parents[1] / "plans" / "reference"
FILE_NAME = "plans.json"
DEFAULTS_NAME = "defaults.json"
DEVICES = (Device(kind="cpu", memory_gib=16), Device(kind="cuda", memory_gib=24))
DIGITS = 5
LINE_LETTERS = 120
NEITHER = ("version", "dataset_name", "device")  # chosen nor a default
# begins the fields that datasets bring along, which are recorded where there is something in them
BROUGHT_ALONG = ("data.", "training.dataset_sampling_fractions")


def reference_folders() -> list[Path]:
    """List the folders of all datasets."""
    return sorted(path for path in REFERENCE.iterdir() if path.is_dir())


def read_devices(folder: Path) -> tuple[Device, ...]:
    """Read for which devices the plans of a folder are made; those of a new folder are `DEVICES`."""
    path = folder / FILE_NAME
    if not path.exists():
        return DEVICES
    return tuple(Device.model_validate(record["device"]) for record in read_json(path).values())


def make_text(fingerprint: Fingerprint, *, devices: tuple[Device, ...] = DEVICES) -> str:
    """Plan a dataset for every device, and lay the records out as `plans.json` has them.

    The first record is whole; each of the others holds only what differs from it.
    """
    first, *others = (make_record(make_plans(fingerprint, device=device)) for device in devices)
    records = [first, *({"device": other["device"], **differences(first, other)} for other in others)]
    names = [f"{device.kind}, {device.memory_gib:g} GiB" for device in devices]
    return lay_out(dict(zip(names, records, strict=True)), width=LINE_LETTERS)


def make_defaults_text(fingerprint: Fingerprint) -> str:
    """Lay out what no rule chooses for this dataset, nor for any other."""
    return lay_out(defaults_of(make_plans(fingerprint, device=DEVICES[0])), width=LINE_LETTERS)


def make_record(plans: Plans) -> dict[str, Any]:
    """Return device, chosen values, and the facts that led to them."""
    content = plans.model_dump(mode="json")
    content["data"]["organs"] = [organ.name for organ in plans.data.organs]
    for dataset in content["data"]["datasets"]:
        dataset["labels"] = {one["name"]: one["maps_to"] for one in dataset["labels"] if one["name"] != one["maps_to"]}
    of_dataset = [field for field, value in _without_reason(plans).items() if field.startswith(BROUGHT_ALONG) and value]
    reasons = sorted(plans.reasons.items())  # in which order the rules are asked is no difference
    chosen = {field: _look_up(content, field) for field in sorted([*of_dataset, *plans.reasons])}
    facts: dict[str, Any] = {}
    for field, reason in reasons:
        if reason.facts and reason.facts not in facts.values():  # one rule may choose several fields
            facts[field] = reason.facts
    return round_floats({"device": content["device"], "chosen": chosen, "facts": facts}, digits=DIGITS)


def defaults_of(plans: Plans) -> dict[str, Any]:
    """Return every value of a plan that neither a rule chose nor the dataset brought along."""
    return {field: value for field, value in _without_reason(plans).items() if not field.startswith(BROUGHT_ALONG)}


def _without_reason(plans: Plans) -> dict[str, Any]:
    def is_chosen(field: str) -> bool:
        below = any(reason.startswith(f"{field}.") for reason in plans.reasons)  # such as "data.channels.0"
        return below or find_reason(plans.reasons, field) is not None

    values = flatten(plans).items()
    return {field: value for field, value in values if field.split(".")[0] not in NEITHER and not is_chosen(field)}


def chosen_values(fingerprint: Fingerprint) -> list[dict[str, Any]]:
    """Return what the rules choose for a dataset on `DEVICES`, without the facts that led to it."""
    return [make_record(make_plans(fingerprint, device=device))["chosen"] for device in DEVICES]


def differences(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return what of `other` is not as in `first`, with null for what is only in `first`."""
    found: dict[str, Any] = {}
    for key in [*first, *(key for key in other if key not in first)]:
        one, two = first.get(key), other.get(key)
        if isinstance(one, dict) and isinstance(two, dict):
            if inside := differences(one, two):
                found[key] = inside
        elif one != two:
            found[key] = two
    return found


def _look_up(content: Any, field: str) -> Any:
    """Return the value of a field, such as "network.backbone" or "data.channels.0"."""
    for part in field.split("."):
        if not isinstance(content, list):
            content = content[part]
        elif part.isdecimal():
            content = content[int(part)]
        else:
            content = next(item for item in content if item["name"] == part)
    return content
