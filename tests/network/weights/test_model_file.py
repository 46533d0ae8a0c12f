import hashlib
import json
import subprocess
import sys

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autoseg.config.plans import Reason
from autoseg.errors import CheckpointError
from autoseg.network.build import build_network
from autoseg.network.weights import model_format
from autoseg.network.weights.model_file import load_model, load_models, pack_models, save_model


@pytest.fixture
def saved(make_network, tmp_path):
    network, plans = make_network(3)
    path = tmp_path / "model.safetensors"
    save_model(network, plans, path)
    return network, plans, path


def test_round_trip_gives_identical_outputs_and_the_plan(saved):
    network, plans, path = saved
    loaded, loaded_plans = load_model(path)
    assert loaded_plans == plans and not loaded.training
    images, organs = torch.randn(2, 3, 32, 32), torch.tensor([2, 0])
    with torch.no_grad():
        vectors, is_sentence = network.text(torch.arange(3))
        network.text.forward = lambda asked: (vectors[asked], is_sentence[asked])  # the file stores all at once
        expected, given = network(images, organs), loaded(images, organs)
    for name in ("logits", "mask_logits", "map_logits", "iou_predictions", "object_score_logits"):
        assert torch.equal(getattr(given, name), getattr(expected, name)), name


def test_predicting_with_hieras_own_tokens_never_loads_open_clip(saved):
    """In a process of its own: here the tests have loaded it long since."""
    _, _, path = saved
    program = (
        "import sys, torch; from pathlib import Path; from autoseg.network.weights.model_file import load_model\n"
        "network, plans = load_model(Path(sys.argv[1]))\n"
        "assert network(torch.zeros(1, 3, 32, 32), torch.arange(3)).logits.shape == (1, 4, 32, 32)\n"
        "assert 'autoseg.network.build' in sys.modules\n"
        "sys.exit('open_clip' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


@pytest.mark.parametrize("kind", ["nano", "from scratch", "pretrained"])
def test_round_trip_with_clips_tokens_needs_neither_its_weights_nor_its_name(
    tiny_plans, small_clip, tmp_path, monkeypatch, kind
):
    _, weights = small_clip
    text = {"model": "nano" if kind == "nano" else "small-clip"}
    if kind == "pretrained":
        text["weights"] = str(weights)
    plans = tiny_plans(2, network={"interaction_image_encoder": "clip", "text": text})
    network = build_network(plans).eval()
    save_model(network, plans, tmp_path / "m.safetensors")
    weights.unlink()
    for name in ("create_model", "get_model_config", "get_tokenizer"):
        monkeypatch.setattr(open_clip, name, None)
    loaded, loaded_plans = load_model(tmp_path / "m.safetensors")
    assert loaded_plans == plans
    images, organs = torch.randn(2, 3, 32, 32), torch.arange(2)
    with torch.no_grad():
        assert torch.equal(loaded(images, organs).logits, network(images, organs).logits)
    save_model(loaded, plans, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "m.safetensors").read_bytes()


def describe_tower(tensors, **vision):
    """Write another description of CLIP's image tower into a model."""
    config = json.loads(bytes(tensors["image_tower.config"].tolist()))
    config["vision_cfg"] |= vision
    tensors["image_tower.config"] = torch.tensor(list(json.dumps(config).encode()), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: None, None),
        (lambda tensors: describe_tower(tensors, timm_model_name="hf_hub:somebody/model"), "is not a name in timm"),
        (lambda tensors: describe_tower(tensors, timm_model_name="/somewhere"), "is not a name in timm"),
        (lambda tensors: describe_tower(tensors, layers=10**9), "more than weights"),
        (lambda tensors: describe_tower(tensors, width=2**17), "differ"),
        (lambda tensors: describe_tower(tensors, image_size=[32, 10**6]), "larger than"),
        (lambda tensors: describe_tower(tensors, layers=1), "differ"),
        (lambda tensors: describe_tower(tensors, odd=1), "cannot be built"),
        (lambda tensors: tensors.update({"image_tower.config": torch.zeros(3, dtype=torch.uint8)}), "cannot be built"),
        (lambda tensors: tensors.pop("image_tower.config"), "cannot be built"),
        (lambda tensors: tensors.pop("image_tower.norm.weight"), "cannot be built"),
        (lambda tensors: tensors.update({"image_tower.norm.weight": torch.ones(8)}), "do not fit the plan"),
    ],
    ids=["none", "hub", "path", "layers", "width", "side", "fewer", "odd", "no JSON", "no config", "no norm", "norm"],
)
def test_a_model_whose_image_tower_was_tampered_with_is_refused_before_it_takes_memory(
    make_network, tmp_path, change, message
):
    network, plans = make_network(2, interaction_image_encoder="clip")
    path = tmp_path / "m.safetensors"
    save_model(network, plans, path)
    rewrite(path, change_tensors=change)
    if message is None:
        load_model(path)
        return
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_saving_leaves_the_network_in_training_and_the_text_tower_out(make_network, tmp_path):
    network, plans = make_network(2)
    network.train()
    save_model(network, plans, tmp_path / "m.safetensors")
    assert network.training
    keys = set(load_file(tmp_path / "m.safetensors"))
    assert {key for key in keys if key.startswith("text.")} == {"text.vectors", "text.is_sentence"}
    assert any(key.startswith("reader.tower.") for key in keys)  # kept beside it, for text about other organs


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
def test_a_truncated_file_is_refused(saved, share):
    _, _, path = saved
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(path)


def test_a_missing_file_a_folder_and_somebody_elses_file_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError):
        load_model(tmp_path)
    save_file({"weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="is not a model of autoseg"):
        load_model(tmp_path / "other.safetensors")
    for card in ("[]", "{}", "not JSON"):
        save_file({"weight": torch.zeros(3)}, tmp_path / "odd.safetensors", metadata={"autoseg": card})
        with pytest.raises(CheckpointError, match="description cannot be read"):
            load_model(tmp_path / "odd.safetensors")


def rewrite(path, *, change_tensors=lambda tensors: None, change_plan=lambda plan: None, **metadata):
    """Change a model as somebody would who knows the format, with a right hash."""
    with safe_open(path, framework="pt") as file:
        old = json.loads(file.metadata()["autoseg"])
    tensors, plan = load_file(path), json.loads(old["plans"])
    change_tensors(tensors)
    change_plan(plan)
    text = json.dumps(plan)
    new = old | {"plans": text, "sha256": model_format.content_hash(tensors, plans=text)} | metadata
    content = {key: value.contiguous() for key, value in tensors.items()}
    save_file(content, path, metadata={"autoseg": json.dumps(new)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"format_version": 999}, "has format 999"),
        ({"sha256": "0" * 64}, "damaged"),
        ({"change_plan": lambda plan: plan.pop("network")}, "no plan that this version can read"),
        ({"change_plan": lambda plan: plan["network"].update(image_size_px=10**9)}, "no plan that this version"),
        ({"change_plan": lambda plan: plan["network"].update(refiner_channels=[8, 8, 12])}, "do not fit the plan"),
        ({"change_tensors": lambda tensors: tensors.pop("text.vectors")}, "no text vectors"),
        ({"change_tensors": lambda tensors: tensors.pop("fusion_gates")}, "do not fit the plan"),
        ({"change_tensors": lambda t: t.update({"text.vectors": t["text.vectors"][:1]})}, "text vectors of 1 .* 3"),
        ({"change_tensors": lambda t: t.update({"text.vectors": t["text.vectors"][..., :4]})}, "text vectors"),
        ({"change_tensors": lambda t: t.update({"text.is_sentence": t["text.is_sentence"][:, :1]})}, "text vectors"),
    ],
    ids=[
        "none",
        "version",
        "hash",
        "no network",
        "huge",
        "widths",
        "no text",
        "no gates",
        "organs",
        "width",
        "sentences",
    ],
)
def test_a_model_that_was_tampered_with_fits_its_plan_or_is_refused(saved, change, message):
    _, _, path = saved
    rewrite(path, **change)
    if message is None:
        load_model(path)
        return
    with pytest.raises(CheckpointError, match=message):
        load_model(path)


def test_the_form_of_the_network_belongs_to_the_version_of_the_file(tiny_plans):
    """Another name or shape of a weight needs another FORMAT_VERSION, so that an old file is refused in a line."""
    plans = tiny_plans(2, network={"memory_slices": 2, "point_prompts": True})
    tensors = build_network(plans).state_dict().items()
    form = "\n".join(sorted(f"{name} {tuple(t.shape)}" for name, t in tensors if not name.startswith("text.")))
    digest = hashlib.sha256(form.encode()).hexdigest()[:16]
    assert (model_format.FORMAT_VERSION, digest) == (1, "027a116fb8803062")


def test_packed_folds_are_the_networks_of_their_files_in_order(make_network, tmp_path):
    paths = []
    for fold in range(3):
        torch.manual_seed(fold)
        network, plans = make_network(2)
        paths.append(tmp_path / f"{fold}.safetensors")
        save_model(network, plans, paths[-1])
    pack_models(paths, tmp_path / "packed.safetensors")
    networks, packed_plans = load_models(tmp_path / "packed.safetensors")
    assert packed_plans == plans and len(networks) == 3
    for network, path in zip(networks, paths, strict=True):
        expected = load_model(path)[0].state_dict()
        assert network.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    with pytest.raises(CheckpointError, match="holds the models of 3 folds"):
        load_model(tmp_path / "packed.safetensors")
    pack_models([tmp_path / "packed.safetensors", paths[0]], tmp_path / "more.safetensors")
    assert len(load_models(tmp_path / "more.safetensors")[0]) == 4


def test_one_packed_model_is_the_file_of_that_model(saved, tmp_path):
    _, _, path = saved
    pack_models([path], tmp_path / "packed.safetensors")
    assert (tmp_path / "packed.safetensors").read_bytes() == path.read_bytes()


def test_models_of_other_plans_are_not_packed_together(make_network, saved, tmp_path):
    network, plans = make_network(2)
    save_model(network, plans, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other.safetensors was trained under another plan than .*model"):
        pack_models([saved[2], tmp_path / "other.safetensors"], tmp_path / "packed.safetensors")
    assert not (tmp_path / "packed.safetensors").exists()


def test_a_model_file_names_the_checkpoint_that_training_began_from_by_its_name_alone(saved, tmp_path):
    network, plans, _ = saved
    place = "/home/jane/secret/sam2.pt"
    changes = (f"--set network.weights={place}", "plan.json: and/or")
    reasons = {"network.weights": Reason(rule=f"Set by --set network.weights={place}", facts={"planned": None})}
    network_plan = plans.network.model_copy(update={"weights": place})
    given = plans.model_copy(update={"network": network_plan, "overrides": changes, "reasons": reasons})
    save_model(network, given, tmp_path / "m.safetensors")
    assert b"jane" not in (tmp_path / "m.safetensors").read_bytes()
    read = load_model(tmp_path / "m.safetensors")[1]
    assert read.overrides == ("--set network.weights=sam2.pt", "plan.json: and/or")
    assert read.data == plans.data
    for kept in ("hf://a/b/c.pt", "sam2.1_hiera_tiny", None):
        network_plan = plans.network.model_copy(update={"weights": kept})
        save_model(network, plans.model_copy(update={"network": network_plan}), tmp_path / "m.safetensors")
        assert load_model(tmp_path / "m.safetensors")[1].network.weights == kept
