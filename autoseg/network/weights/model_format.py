"""Reads and writes the format of a model file: tensors and their plan in safetensors, protected by a hash.

Owns: `write_tensors` and `read_tensors`.
Does not own: what the tensors are (`model_file.py`), the plan (`config/plans.py`).

Every byte is checked: safetensors allows no byte outside of tensors and header, the hash covers tensors and plan, and
the rest of the header must be exactly as it is written here, including its blanks.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from autoseg.config.plans import Plans, parse_plans
from autoseg.errors import CheckpointError, OutputError, PlanError
from autoseg.hub.address import PREFIX
from autoseg.network.weights.load_errors import explain_load_failure
from autoseg.system.atomic_files import explain_write_error, parse_json, write_bytes

FORMAT_VERSION = 1
METADATA_KEY = "autoseg"
MODEL_FILE_NAME = "model.safetensors"
STATE_FILE_NAME = "resume.pt"  # training's own, beside the model that comes of it
LENGTH_BYTES = 8  # of the header, before it


def write_tensors(tensors: dict[str, Tensor], plans: Plans, path: Path, *, builder: str | None) -> None:
    """Write tensors on the CPU and their plan; `builder` names the user's function that built the network, if any.

    Raises:
        OutputError: The disk is full or cannot be written; an earlier file stays as it was.
    """
    text = _without_places(plans).model_dump_json()
    card = {"format_version": FORMAT_VERSION, "sha256": content_hash(tensors, plans=text), "plans": text}
    if builder is not None:
        card["builder"] = builder
    # One entry: safetensors writes several in an order that changes, and then equal models would differ as files. It
    # writes no file itself: of a full disk it says so in an error of its own kind, which is no OSError.
    content = save(tensors, metadata={METADATA_KEY: json.dumps(card)})
    try:
        write_bytes(path, content)
    except OSError as error:
        raise OutputError(explain_write_error(error, path)) from error


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Plans, str | None]:
    """Return the tensors, the plan, and the name of the user's function that built the network, if there was one.

    Raises:
        CheckpointError: The file is missing, damaged, or of another program or version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Train first, or give the path of a {MODEL_FILE_NAME}.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is not a model of autoseg, or is damaged: {explain_load_failure(error)}. {_get_again(path)}"
        ) from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} is not a model of autoseg. Give a {MODEL_FILE_NAME} that autoseg_train wrote.")
    try:
        card = parse_json(metadata[METADATA_KEY])
        version, digest, text = card["format_version"], card["sha256"], str(card["plans"])
        builder = str(card["builder"]) if "builder" in card else None
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: its description cannot be read. {_get_again(path)}") from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format {version!r:.20}; this autoseg reads {FORMAT_VERSION}. Install the autoseg that wrote "
            "it."
        )
    if digest != content_hash(tensors, plans=text) or not _header_is_as_written(path):
        raise CheckpointError(
            f"{path} is damaged: its content does not have the hash that it carries. {_get_again(path)}"
        )
    try:
        return tensors, parse_plans(parse_json(text), source=f"the plan inside {path}"), builder
    except (PlanError, ValueError) as error:
        raise CheckpointError(
            f"{path} carries no plan that this version can read; install the autoseg that wrote it: {error}"
        ) from error


def _header_is_as_written(path: Path) -> bool:
    """Say whether the header is, byte for byte, what saving its content again would give.

    The hash covers the header's meaning only, which a changed blank or escape sequence does not affect.
    """
    with path.open("rb") as file:
        raw = file.read(int.from_bytes(file.read(LENGTH_BYTES), "little"))
    text = raw.decode("utf-8")
    content = json.loads(text)  # safetensors has read it already, so it is flat
    card = content["__metadata__"][METADATA_KEY]
    is_flat = text.rstrip(" ") == json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return is_flat and card == json.dumps(json.loads(card))


def _without_places(plans: Plans) -> Plans:
    """Reduce the path of the checkpoint that training began from to its file name, since models are shared.

    A path contains names of users and machines. `network.text.weights` keeps its path: `--new-organ` reads that file.
    """
    weights = plans.network.weights
    if weights is None or weights.startswith(PREFIX) or Path(weights).name == weights:
        return plans
    texts = plans.model_dump_json(include={"overrides", "reasons"})
    path, name = (json.dumps(one, ensure_ascii=False)[1:-1] for one in (weights, Path(weights).name))
    content = plans.model_dump(mode="json") | json.loads(texts.replace(path, name))
    content["network"]["weights"] = Path(weights).name
    return Plans.model_validate(content)


def _get_again(path: Path) -> str:
    """Say how to replace a damaged model: a fold's own can be written again from its training state."""
    if (path.parent / STATE_FILE_NAME).exists():
        return f"Give the same autoseg_train command again: it writes the model again from {STATE_FILE_NAME}."
    return "Copy it again."


def content_hash(tensors: Mapping[str, Tensor], *, plans: str) -> str:
    """Return a digest of all tensors with their names, types and shapes, and of the plan's text.

    safetensors does not notice a flipped byte inside a weight.
    """
    digest = hashlib.sha256(plans.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
