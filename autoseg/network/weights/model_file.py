"""Saves and loads `model.safetensors`: weights, plans and text vectors, all that prediction needs, and no code.

Owns: `save_model` beside `load_model`, `pack_models` for several folds in one file beside `load_models`, and
`read_model_tensors`, which builds no network.
Does not own: how a network is built (`build.py`), the format of the file (`model_format.py`).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from autoseg.config.plans import Plans
from autoseg.errors import CheckpointError
from autoseg.network.build import build_network
from autoseg.network.text.cached_text import StoredText
from autoseg.network.weights.load_errors import explain_load_failure
from autoseg.network.weights.model_format import MODEL_FILE_NAME, STATE_FILE_NAME, read_tensors, write_tensors

__all__ = ["MODEL_FILE_NAME", "STATE_FILE_NAME"]

READER = "reader."  # begins the names of the text tower's tensors, which only text about other organs needs
FOLD = "fold_"  # begins the tensors' names in a packed file: fold_0.refiner...
MOST_FOLDS = 1000  # three digits in a tensor's name
BuildNetwork = Callable[[Plans], nn.Module]


def save_model(network: nn.Module, plans: Plans, path: Path) -> None:
    """Write a model, with the text vectors of the plan's organs in place of the text encoder.

    The weights needed to read new texts are kept. A network built by a user's function is written as it is, with the
    function's name.

    Raises:
        OutputError: The disk is full or cannot be written; an earlier model stays as it was.
    """
    builder = getattr(network, "builder", None)
    tensors = dict(network.state_dict()) if builder else _with_cached_text(network, plans)
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_tensors(tensors, plans, path, builder=builder)


def call_builder(build: BuildNetwork, plans: Plans) -> nn.Module:
    """Build a network by a user's function, and store the function's name with it for the model file."""
    network = build(plans)
    network.builder = f"{build.__module__}.{build.__qualname__}"  # type: ignore[assignment]
    return network


def _with_cached_text(network: nn.Module, plans: Plans) -> dict[str, Tensor]:
    """Return the tensors of autoseg's own network, with text vectors in place of the text encoder."""
    text = network.get_submodule("text")
    was_training = network.training
    network.eval()
    with torch.no_grad():
        organs = torch.arange(len(plans.data.text_rows), device=next(network.parameters()).device)
        vectors, is_sentence = text(organs)
    network.train(was_training)
    tensors = {key: value for key, value in network.state_dict().items() if not key.startswith("text.")}
    tensors |= {"text.vectors": vectors, "text.is_sentence": is_sentence}
    reader: dict[str, Tensor] = getattr(text, "reader", {})  # a learned vector per organ reads no text
    return tensors | {READER + key: value for key, value in reader.items()}


def load_model(
    path: Path, *, device: torch.device | None = None, build_network: BuildNetwork | None = None
) -> tuple[nn.Module, Plans]:
    """Read the model of one training, ready to predict.

    Raises:
        CheckpointError: The file is not as `load_models` needs it, or holds several models.
    """
    networks, plans = load_models(path, device=device, build_network=build_network)
    if len(networks) > 1:
        raise CheckpointError(
            f"{path} holds the models of {len(networks)} folds; expected one. Name a fold's own file."
        )
    return networks[0], plans


def load_models(
    path: Path, *, device: torch.device | None = None, build_network: BuildNetwork | None = None
) -> tuple[list[nn.Module], Plans]:
    """Read the model of one training, or all models of a packed file, ready to predict.

    Args:
        path: The model file.
        device: The device to load it to; None: the CPU.
        build_network: The function that built the network, if it was not autoseg's own.

    Raises:
        CheckpointError: The file is missing, damaged, of another program or version, its weights do not fit its plan,
            or it needs a `build_network` that is not given.
    """
    tensors, plans, builder = read_tensors(path)
    if builder is not None and build_network is None:
        raise CheckpointError(
            f"{path} holds the weights of a network that the function {builder!r:.200} built. Pass this function as "
            "build_network, in Python: autoseg.predict_files(..., build_network=...)."
        )
    build = build_network if builder is not None else None
    networks = [_make_network(part, plans, source=path, build=build) for part in _unpack(tensors)]
    return [network.to(device or torch.device("cpu")) for network in networks], plans


def read_model_tensors(path: Path) -> tuple[list[dict[str, Tensor]], Plans]:
    """Read a model file without building a network: the tensors of each fold, and their plan.

    Raises:
        CheckpointError: The file is missing, damaged, of another program or version.
    """
    tensors, plans, _builder = read_tensors(path)
    return _unpack(tensors), plans


def pack_models(paths: Sequence[Path], packed: Path) -> None:
    """Put the models of several folds into one file, which predicts their average.

    Raises:
        CheckpointError: One cannot be read, or they were trained under different plans.
    """
    models = [read_tensors(path) for path in paths]
    plans = models[0][1]
    for path, (_tensors, other, builder) in zip(paths, models, strict=True):
        if other.data != plans.data or other.network != plans.network or builder != models[0][2]:
            raise CheckpointError(f"{path} was trained under another plan than {paths[0]}. Pack folds of one run.")
    plans = most_validated([other for _, other, _ in models])
    parts = [part for tensors, *_ in models for part in _unpack(tensors)]
    tensors = {f"{FOLD}{n}.{key}": value for n, part in enumerate(parts) for key, value in part.items()}
    write_tensors(parts[0] if len(parts) == 1 else tensors, plans, packed, builder=models[0][2])


def most_validated(plans: Sequence[Plans]) -> Plans:
    """Return the plan whose component filter was chosen on the most cases; of equals the first.

    The plans of a run's folds differ in this filter alone, which each fold chose on the validations before it and its
    own.
    """

    def num_cases(one: Plans) -> int:
        reason = one.reasons.get("inference.component_filter")
        count = 0 if reason is None else reason.facts.get("num_cases", 0)
        return count if isinstance(count, int) else 0

    return max(plans, key=num_cases)


def _unpack(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Divide the tensors of a packed file by fold; those of a single model are one part."""
    if not any(key.startswith(FOLD) for key in tensors):
        return [dict(tensors)]
    parts: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        fold, _, name = key.removeprefix(FOLD).partition(".")
        parts.setdefault(int(fold) if re.fullmatch("[0-9]{1,3}", fold) else -1, {})[name] = value
    return [parts[number] for number in sorted(parts)]


def _make_network(
    tensors: Mapping[str, Tensor], plans: Plans, *, source: Path, build: BuildNetwork | None
) -> nn.Module:
    if build is not None:
        network = call_builder(build, plans)
    else:
        image_tower = None
        if plans.network.interaction_image_encoder == "clip":
            from autoseg.network.text.clip_image_encoder import restore_clip_image  # open_clip loads for a second

            image_tower = restore_clip_image(tensors, plans.network, source=source)
        network = build_network(plans, text=_stored_text(tensors, plans, source=source), image_tower=image_tower)
    try:
        network.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(READER)})
    except RuntimeError as error:  # torch names keys and shapes that differ
        raise CheckpointError(
            f"{source}: the weights do not fit the plan inside: {explain_load_failure(error)}. Copy it again, or train "
            "again."
        ) from error
    return network.eval()


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
