import functools
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from sam2.build_sam import build_sam2

from autoseg.errors import CheckpointError
from autoseg.network.build import build_network
from autoseg.network.sam2_modules import build_hiera, build_mask_decoder, build_neck
from autoseg.network.text.cached_text import StoredText
from autoseg.network.weights.sam2_checkpoint import fill_parts, load_sam2_weights, shared_parts

CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
UNUSED = (
    "mask_downsample.",
    "no_mem_pos_enc",
    "sam_prompt_encoder.mask_downscaling.",
)  # masks as prompts; unused there
ONLY_IN_2_1 = {"no_obj_embed_spatial", "obj_ptr_tpos_proj.weight", "obj_ptr_tpos_proj.bias"}


def build_metas(size, version="2.1", device="cpu"):
    """Build the model by sam2's own builder from sam2's own configuration."""
    folder = f"sam{version}"
    name = f"configs/{folder}/{folder}_hiera_{CONFIGS[size]}.yaml"
    return build_sam2(name, device=device, apply_postprocessing=False)


def build_ours(tiny_plans, size, *, channels=256, **changes):
    network = {"backbone": size, "feature_channels": channels, "refiner_channels": [], "image_size_px": 64}
    text = StoredText(torch.zeros(2, 1, channels), torch.ones(2, 1, dtype=torch.bool))
    return build_network(tiny_plans(2, network={**network, **changes}), text=text)


WHOLE = {"memory_slices": 2, "point_prompts": True}


@pytest.fixture(scope="module")
def tiny_of_meta():
    torch.manual_seed(1)
    return build_metas("tiny").eval()


@pytest.fixture(scope="module")
def checkpoint(tiny_of_meta, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": tiny_of_meta.state_dict()}, path)
    yield path
    path.unlink()  # 150 MB


@pytest.mark.parametrize("size", CONFIGS)
@pytest.mark.parametrize("version", ["2", "2.1"])
def test_every_checkpoint_of_meta_fits_and_no_key_is_lost(tiny_plans, size, version, monkeypatch):
    """Shapes alone. Hiera asks for single values of a linspace, which has to lie on the CPU for that."""
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        theirs = build_metas(size, version, device="meta").state_dict()
        parts = shared_parts(build_ours(tiny_plans, size, **WHOLE))
    ours = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    left = {key for key in theirs if key not in ours or ours[key].shape != theirs[key].shape}
    assert left == {key for key in theirs if key.startswith(UNUSED)}
    assert ours.keys() - theirs.keys() == (ONLY_IN_2_1 if version == "2" else set())


def test_every_weight_arrives_and_the_rest_is_reported(tiny_plans, tiny_of_meta, checkpoint, caplog):
    network = build_ours(tiny_plans, "tiny", **WHOLE)
    with caplog.at_level("INFO", logger="autoseg"):
        report = load_sam2_weights(network, checkpoint)
    theirs = tiny_of_meta.state_dict()
    assert report.missing == ()
    assert {*report.loaded, *report.skipped} == set(theirs) and len(report.loaded) + len(report.skipped) == len(theirs)
    assert all(key.startswith(UNUSED) for key in report.skipped)
    for prefix, part in shared_parts(network).items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, theirs[prefix + key]), prefix + key
    assert f"sam2.1_hiera_tiny.pt: {len(report.loaded)} tensors loaded (" in caplog.text
    assert "13 tensors skipped (" in caplog.text and "0 tensors missing" in caplog.text


def test_loaded_parts_compute_what_metas_model_computes(tiny_plans, tiny_of_meta, checkpoint):
    network = build_ours(tiny_plans, "tiny", **WHOLE).eval()
    load_sam2_weights(network, checkpoint)
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    with torch.no_grad():
        image = draw(1, 3, 128, 128)
        features, _ = network.image_encoder.neck(network.image_encoder.hiera(image))
        expected = tiny_of_meta.image_encoder(image)["backbone_fpn"]
        for ours, metas in zip(features[:3], expected, strict=True):
            torch.testing.assert_close(ours, metas)
        torch.testing.assert_close(network.position((8, 8)), tiny_of_meta.sam_prompt_encoder.pe_layer((8, 8)))
        tokens, memory = draw(16, 1, 256), draw(2 * 16, 1, 64)
        ours, metas = (
            attention(tokens, memory, curr_pos=tokens, memory_pos=memory)
            for attention in (network.memory.attention, tiny_of_meta.memory_attention)
        )
        torch.testing.assert_close(ours, metas)
        coarse, masks = draw(1, 256, 4, 4), draw(1, 1, 64, 64)
        ours, metas = (
            encoder(coarse, masks)["vision_features"]
            for encoder in (network.memory.encoder, tiny_of_meta.memory_encoder)
        )
        torch.testing.assert_close(ours, metas)
        pointer = draw(3, 256)
        torch.testing.assert_close(network.memory.tokens.obj_ptr_proj(pointer), tiny_of_meta.obj_ptr_proj(pointer))


def test_a_narrower_plan_takes_hiera_and_leaves_the_rest_new(tiny_plans, checkpoint):
    network = build_ours(tiny_plans, "tiny", channels=64)
    code = network.position.positional_encoding_gaussian_matrix.clone()
    report = load_sam2_weights(network, checkpoint)
    hiera_keys = {"image_encoder.trunk." + key for key in network.image_encoder.hiera.state_dict()}
    assert hiera_keys <= set(report.loaded)
    assert "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in report.missing
    assert torch.equal(network.position.positional_encoding_gaussian_matrix, code)


@pytest.mark.parametrize("size", ["small", "nano"])
def test_another_size_is_refused_before_anything_is_changed(tiny_plans, checkpoint, size):
    """Tiny and small share the shapes of many blocks; half of a checkpoint would be worse than none."""
    network = build_ours(tiny_plans, size, channels=64)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(CheckpointError, match="another size"):
        load_sam2_weights(network, checkpoint)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.fixture
def small_weights():
    """Weights by SAM 2's names, of a size that is made in a second."""
    torch.manual_seed(5)
    parts = {
        "image_encoder.trunk.": build_hiera("nano"),
        "image_encoder.neck.": build_neck("nano", feature_channels=16),
        "sam_mask_decoder.": build_mask_decoder("nano", feature_channels=16),
    }
    weights = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    code = "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
    return {**weights, code: torch.randn(2, 8)}


def wrapped(weights, name):
    return {f"{name}.{key}": value for key, value in weights.items()}


FORMS = {
    "meta.pt": lambda weights: {"model": weights},
    "trainer.pt": lambda weights: {
        "model": weights,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4}]},
        "epoch": 7,
        "steps": {"train": 10},
        "best_meter_values": {},
    },
    "lightning.ckpt": lambda weights: {"state_dict": wrapped(weights, "model.sam2"), "epoch": 3},
    "parallel.pth": lambda weights: {"model": wrapped(weights, "module")},
    "alone.pt": lambda weights: weights,
    "alone.safetensors": lambda weights: wrapped(weights, "sam2"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_file_is_read_to_the_last_tensor(tiny_plans, tmp_path, small_weights, name):
    path = tmp_path / name
    content = FORMS[name](small_weights)
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    network = build_network(tiny_plans(1))
    report = load_sam2_weights(network, path)
    assert set(report.loaded) == set(small_weights) and report.skipped == report.missing == ()
    for prefix, part in shared_parts(network).items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, small_weights[prefix + key])


def test_a_tensor_of_another_shape_is_skipped_and_reported_on_both_sides(tiny_plans, small_weights):
    network = build_network(tiny_plans(1))
    name = "sam_mask_decoder.iou_token.weight"
    report = fill_parts(shared_parts(network), {**small_weights, name: torch.zeros(1, 8)}, path=Path("x.pt"))
    assert report.skipped == report.missing == (name,)
    assert "1 tensors skipped (sam_mask_decoder 1)" in report.describe()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<html>not found</html>", "cannot be read"),
        ({"state_dict": {}}, "no image_encoder"),
        ([1, 2], "holds a list"),
        ({"model": {"image_encoder.trunk.patch_embed.proj.weight": 3}}, "no image_encoder"),
        ({"model": {"weight": torch.zeros(2)}}, "no image_encoder"),
        ({"model": {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(2)}}, "another size"),
    ],
    ids=["empty", "html", "nothing", "list", "numbers", "other weights", "other shape"],
)
def test_what_is_no_sam2_checkpoint_is_refused(tiny_plans, tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_sam2_weights(build_network(tiny_plans(1)), path)
