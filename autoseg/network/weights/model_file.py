"""`model.safetensors`: weights, plans and text vectors, all that prediction needs in one file that can run no code.

Owns: `save_model` and `load_model`, side by side, and `pack_models`, which makes one file of several folds' models;
`load_models` reads either, `read_model_tensors` without building a network.
Does not own: how a network is built (`build.py`), the plan (`config/plans.py`).

Every byte of such a file is vouched for: safetensors lets no byte lie outside of tensors and header, tensors and plan
are under the hash that the file carries, and the rest of the header must be as it is written here, blanks and all.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from autoseg.config.plans import Plans, parse_plans
from autoseg.errors import CheckpointError, OutputError, PlanError
from autoseg.hub.address import PREFIX
from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.network.text.cached_text import StoredText
from autoseg.network.text.learned_embedding import LearnedText
from autoseg.network.weights.load_errors import explain_load_failure
from autoseg.system.atomic_files import explain_write_error, parse_json, write_bytes

if TYPE_CHECKING:
    from autoseg.network.text.clip_image_encoder import ClipImageTower

FORMAT_VERSION = 7  # 1: before the memory; 2, 3: before SAM 2's tensors, a gate for presence; 4, 5: other inference
# plans; 6: no text tower
METADATA_KEY = "autoseg"
MODEL_FILE_NAME = "model.safetensors"
STATE_FILE_NAME = "resume.pt"  # training's own, beside the model that comes of it
READER = "reader."  # begins the names of the text tower's tensors, which only text about other organs needs
FOLD = "fold_"  # begins the tensors' names in a packed file: fold_0.refiner...
MOST_FOLDS = 1000  # three digits in a tensor's name
LENGTH_BYTES = 8  # of the header, before it


def save_model(network: AutosegNetwork, plans: Plans, path: Path) -> None:
    """Write a model; the text tower is replaced by what it says of the plan's organs, and kept to read of others.

    Raises:
        CheckpointError: The disk is full or cannot be written; a model that was there stays as it was.
    """
    was_training = network.training
    network.eval()
    with torch.no_grad():
        organs = torch.arange(len(plans.data.text_rows), device=next(network.parameters()).device)
        vectors, is_sentence = network.text(organs)
    network.train(was_training)
    tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("text.")}
    tensors |= {"text.vectors": vectors, "text.is_sentence": is_sentence}
    tensors |= {READER + key: value for key, value in _reader_state(network.text).items()}
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    _write_model_file(tensors, plans, path)


def load_model(path: Path, *, device: torch.device | None = None) -> tuple[AutosegNetwork, Plans]:
    """Read the model of one training, ready to predict.

    Raises:
        CheckpointError: As `load_models`; or the file holds several.
    """
    networks, plans = load_models(path, device=device)
    if len(networks) > 1:
        raise CheckpointError(
            f"{path} holds the models of {len(networks)} folds; expected one. Name a fold's own file."
        )
    return networks[0], plans


def load_models(path: Path, *, device: torch.device | None = None) -> tuple[list[AutosegNetwork], Plans]:
    """Read the model of one training, or all that `pack_models` put into a file, ready to predict.

    Raises:
        CheckpointError: The file is missing, damaged, of another program or version, or its weights do not fit its
            plan.
    """
    tensors, plans = _read_model_file(path)
    return [_make_network(part, plans, source=path, device=device) for part in _unpack(tensors)], plans


def read_model_tensors(path: Path) -> tuple[list[dict[str, Tensor]], Plans]:
    """Read a model file as it is, for a new network to begin from: the tensors of each fold in it, and their plan.

    Raises:
        CheckpointError: The file is missing, damaged, of another program or version.
    """
    tensors, plans = _read_model_file(path)
    return _unpack(tensors), plans


def pack_models(paths: Sequence[Path], packed: Path) -> None:
    """Put the models of several folds into one file, which predicts their average.

    Raises:
        CheckpointError: One cannot be read, or they were trained under different plans.
    """
    models = [_read_model_file(path) for path in paths]
    plans = models[0][1]
    for path, (_tensors, other) in zip(paths, models, strict=True):
        if other.data != plans.data or other.network != plans.network:
            raise CheckpointError(f"{path} was trained under another plan than {paths[0]}. Pack folds of one run.")
    plans = most_validated([other for _, other in models])
    parts = [part for tensors, _ in models for part in _unpack(tensors)]
    tensors = {f"{FOLD}{n}.{key}": value for n, part in enumerate(parts) for key, value in part.items()}
    _write_model_file(parts[0] if len(parts) == 1 else tensors, plans, packed)


def most_validated(plans: Sequence[Plans]) -> Plans:
    """Return the plan whose choice of specks was made on the most cases; of equals the first.

    The plans of a run's folds agree in all that decides a network's output; what is a speck, each fold chose on its own
    validation and those before it.
    """

    def num_cases(one: Plans) -> int:
        reason = one.reasons.get("inference.component_filter")
        count = 0 if reason is None else reason.facts.get("num_cases", 0)
        return count if isinstance(count, int) else 0

    return max(plans, key=num_cases)


def _reader_state(text: nn.Module) -> dict[str, Tensor]:
    if isinstance(text, StoredText):
        return text.reader
    if isinstance(text, LearnedText):
        return {}
    from autoseg.network.text.encode_new_text import (
        reader_state,  # with open_clip, which such a network has loaded already
    )

    return reader_state(text)


def _unpack(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Part the tensors of a packed file by fold; those of a single model are one part."""
    if not any(key.startswith(FOLD) for key in tensors):
        return [dict(tensors)]
    parts: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        fold, _, name = key.removeprefix(FOLD).partition(".")
        parts.setdefault(int(fold) if re.fullmatch("[0-9]{1,3}", fold) else -1, {})[name] = value
    return [parts[number] for number in sorted(parts)]


def _make_network(
    tensors: Mapping[str, Tensor], plans: Plans, *, source: Path, device: torch.device | None
) -> AutosegNetwork:
    network = build_network(
        plans,
        text=_stored_text(tensors, plans, source=source),
        image_tower=_stored_image_tower(tensors, plans, source=source),
    )
    try:
        network.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(READER)})
    except RuntimeError as error:  # torch names keys and shapes that differ
        raise CheckpointError(
            f"{source}: the weights do not fit the plan inside: {explain_load_failure(error)}. Copy it again, or train "
            "again."
        ) from error
    return network.to(device or torch.device("cpu")).eval()


def _write_model_file(tensors: dict[str, Tensor], plans: Plans, path: Path) -> None:
    text = _without_places(plans).model_dump_json()
    card = {"format_version": FORMAT_VERSION, "sha256": content_hash(tensors, plans=text), "plans": text}
    # One entry: safetensors writes several in an order that changes, and then equal models would differ as files. It
    # writes no file itself: of a full disk it says so in an error of its own kind, which is no OSError.
    content = save(tensors, metadata={METADATA_KEY: json.dumps(card)})
    try:
        write_bytes(path, content)
    except OSError as error:
        raise OutputError(explain_write_error(error, path)) from error


def _read_model_file(path: Path) -> tuple[dict[str, Tensor], Plans]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Train first, or give the path of a {MODEL_FILE_NAME}.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no model of autoseg, or is damaged: {explain_load_failure(error)}. {_get_again(path)}"
        ) from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(f"{path} is no model of autoseg. Give a {MODEL_FILE_NAME} that autoseg_train wrote.")
    try:
        card = parse_json(metadata[METADATA_KEY])
        version, digest, text = card["format_version"], card["sha256"], str(card["plans"])
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
        return tensors, parse_plans(parse_json(text), source=f"the plan inside {path}")
    except (PlanError, ValueError) as error:
        raise CheckpointError(
            f"{path} carries no plan that this version can read; install the autoseg that wrote it: {error}"
        ) from error


def _header_is_as_written(path: Path) -> bool:
    """Say whether the header is, byte for byte, what saving its content again would give.

    The hash is over what the header means. A blank that became another, or a letter of an escape that became a capital,
    means the same: no harm, but not the file that was written either.
    """
    with path.open("rb") as file:
        raw = file.read(int.from_bytes(file.read(LENGTH_BYTES), "little"))
    text = raw.decode("utf-8")
    content = json.loads(text)  # safetensors has read it already, so it is flat
    card = content["__metadata__"][METADATA_KEY]
    is_flat = text.rstrip(" ") == json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    return is_flat and card == json.dumps(json.loads(card))


def _without_places(plans: Plans) -> Plans:
    """Name a checkpoint that training began from by its file alone: prediction does not need it, and models are shared.

    A folder's path holds names of users and machines. Those of `network.text.weights` stay: `--organ` reads that file.
    """
    weights = plans.network.weights
    if weights is None or weights.startswith(PREFIX) or Path(weights).name == weights:
        return plans
    told = plans.model_dump_json(include={"overrides", "reasons"})
    path, name = (json.dumps(one, ensure_ascii=False)[1:-1] for one in (weights, Path(weights).name))
    content = plans.model_dump(mode="json") | json.loads(told.replace(path, name))
    content["network"]["weights"] = Path(weights).name
    return Plans.model_validate(content)


def _get_again(path: Path) -> str:
    """Say how a damaged model is had again: a fold's own is in its training state."""
    if (path.parent / STATE_FILE_NAME).exists():
        return f"Give the same autoseg_train command again: it writes the model anew from {STATE_FILE_NAME}."
    return "Copy it again."


def _stored_text(tensors: Mapping[str, Tensor], plans: Plans, *, source: Path) -> StoredText:
    vectors, is_sentence = tensors.get("text.vectors"), tensors.get("text.is_sentence")
    if vectors is None or is_sentence is None:
        raise CheckpointError(f"{source} has no text vectors. Copy it again.")
    wanted = (len(plans.data.text_rows), plans.network.feature_channels)
    if vectors.ndim != 3 or vectors.shape[::2] != wanted or is_sentence.shape != vectors.shape[:2]:
        raise CheckpointError(
            f"{source} has text vectors of {vectors.shape[0]} organs and shape {tuple(vectors.shape)}; its plan has "
            f"{wanted[0]} (organs times modalities) and width {wanted[1]}. Copy it again."
        )
    reader = {key.removeprefix(READER): value for key, value in tensors.items() if key.startswith(READER)}
    return StoredText(vectors, is_sentence.bool(), reader=reader)


def _stored_image_tower(tensors: Mapping[str, Tensor], plans: Plans, *, source: Path) -> "ClipImageTower | None":
    if plans.network.interaction_image_encoder != "clip":
        return None
    from autoseg.network.text.clip_image_encoder import restore_clip_image  # open_clip loads for a second

    return restore_clip_image(tensors, plans.network, source=source)


def content_hash(tensors: Mapping[str, Tensor], *, plans: str) -> str:
    """Return a digest of all tensors with their names, types and shapes, and of the plan's text.

    safetensors checks its own form only: a byte that was flipped inside a weight would go unnoticed.
    """
    digest = hashlib.sha256(plans.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
