"""`model.safetensors`: weights, plans and text vectors, all that prediction needs in one file that can run no code.

Owns: `save_model` and `load_model`, side by side.
"""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from autoseg.errors import CheckpointError
from autoseg.files import atomic_path
from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.network.stored_text import StoredText
from autoseg.plans import Plans, parse_plans

FORMAT_VERSION = "1"
MODEL_FILE_NAME = "model.safetensors"


def save_model(network: AutosegNetwork, plans: Plans, path: Path) -> None:
    """Write a model; the text tower is replaced by what it says of the plan's organs."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        organs = torch.arange(len(plans.data.organs), device=next(network.parameters()).device)
        vectors, is_sentence = network.text(organs)
    network.train(was_training)
    tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("text.")}
    tensors |= {"text.vectors": vectors, "text.is_sentence": is_sentence}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    metadata = {"format": "autoseg", "format_version": FORMAT_VERSION, "plans": plans.model_dump_json()}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_model(path: Path, *, device: torch.device | None = None) -> tuple[AutosegNetwork, Plans]:
    """Read a model, ready to predict.

    Raises:
        CheckpointError: The file is missing, damaged, of another program or version, or its weights do not fit its
            plan.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Train first, or give the path of a {MODEL_FILE_NAME}.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is no model of autoseg, or is damaged: {error}. Copy it again.") from error
    if metadata.get("format") != "autoseg" or metadata.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(f"{path} is no model of this version of autoseg (format {metadata.get('format')!r}).")
    try:
        content = json.loads(metadata["plans"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} carries no readable plan: {error}. Copy it again.") from error
    plans = parse_plans(content, source=f"the plan inside {path}")
    # The weights of any checkpoint that the plan began from are in the file itself by now.
    fresh = plans.model_copy(update={"network": plans.network.model_copy(update={"weights": None})})
    if "text.vectors" not in tensors or "text.is_sentence" not in tensors:
        raise CheckpointError(f"{path} has no text vectors. Copy it again.")
    text: nn.Module = StoredText(tensors["text.vectors"], tensors["text.is_sentence"])
    network = build_network(fresh, text=text)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:  # torch names keys and shapes that differ
        raise CheckpointError(f"{path}: the weights do not fit the plan inside: {error}") from error
    return network.to(device or torch.device("cpu")).eval(), plans
