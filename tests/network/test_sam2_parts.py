import functools
import pickle
from pathlib import Path

import hydra
import hydra.utils
import pytest
import torch
from sam2.build_sam import build_sam2

from autoseg.errors import CheckpointError
from autoseg.network.sam2_parts import (
    HIERA_SIZES,
    PositionEmbeddingRandom,
    build_hiera,
    build_mask_decoder,
    build_memory_attention,
    build_memory_encoder,
    build_neck,
    load_sam2_checkpoint,
)

SHARED = ("image_encoder.trunk.", "image_encoder.neck.", "sam_mask_decoder.", "sam_prompt_encoder.pe_layer.")
CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}


def build_parts(size, *, channels=256):
    return {
        "hiera": build_hiera(size),
        "neck": build_neck(size, feature_channels=channels),
        "mask_decoder": build_mask_decoder(size, feature_channels=channels),
        "position": PositionEmbeddingRandom(channels // 2),
    }


def shapes_of(parts):
    keys = dict(zip(("hiera", "neck", "mask_decoder", "position"), SHARED, strict=True))
    return {
        keys[name] + key: tuple(value.shape) for name, part in parts.items() for key, value in part.state_dict().items()
    }


def build_metas(size):
    """Build the model by sam2's own builder from sam2's own configuration."""
    return build_sam2(f"configs/sam2.1/sam2.1_hiera_{CONFIGS[size]}.yaml", device="cpu", apply_postprocessing=False)


@pytest.fixture
def shapes_only(monkeypatch):
    """Build without memory. Hiera asks for single values of a linspace, which has to lie on the CPU for that."""
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    with torch.device("meta"):
        yield


@pytest.fixture(scope="module")
def tiny_of_meta():
    torch.manual_seed(1)
    return build_metas("tiny")


@pytest.fixture(scope="module")
def checkpoint(tiny_of_meta, tmp_path_factory):
    path = tmp_path_factory.mktemp("sam2") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": tiny_of_meta.state_dict()}, path)
    yield path
    path.unlink()  # 150 MB


@pytest.mark.parametrize("size", CONFIGS)
def test_every_size_of_hiera_is_what_sam2_builds_from_its_configuration(size, shapes_only):
    ours = build_hiera(size)
    config = hydra.compose(config_name=f"configs/sam2.1/sam2.1_hiera_{CONFIGS[size]}.yaml")
    metas = hydra.utils.instantiate(config.model.image_encoder.trunk)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in metas.state_dict().items()}
    assert [block.window_size for block in ours.blocks] == [block.window_size for block in metas.blocks]
    assert ours.stage_ends == metas.stage_ends
    assert ours.channel_list[::-1] == list(HIERA_SIZES[size].stage_channels)


@pytest.mark.parametrize("size", HIERA_SIZES)
def test_every_size_builds_with_strides_4_to_32(size, shapes_only):
    parts = build_parts(size, channels=64)
    maps = parts["hiera"](torch.zeros(1, 3, 256, 256))
    pyramid, _ = parts["neck"](maps)
    assert [tuple(level.shape) for level in maps] == [
        (1, width, side, side) for width, side in zip(HIERA_SIZES[size].stage_channels, (64, 32, 16, 8), strict=True)
    ]
    assert [tuple(level.shape) for level in pyramid] == [(1, 64, side, side) for side in (64, 32, 16, 8)]


def test_shared_parts_fit_metas_checkpoint_key_by_key(tiny_of_meta, shapes_only):
    theirs = {key: tuple(value.shape) for key, value in tiny_of_meta.state_dict().items() if key.startswith(SHARED)}
    assert len(theirs) > 250
    assert shapes_of(build_parts("tiny")) == theirs


def test_load_takes_every_shared_weight_and_reports_the_rest(tiny_of_meta, checkpoint):
    parts = build_parts("tiny")
    report = load_sam2_checkpoint(checkpoint, **parts)
    theirs = tiny_of_meta.state_dict()
    assert report["missing"] == []
    assert set(report["loaded"]) == {key for key in theirs if key.startswith(SHARED)}
    assert set(report["skipped"]) == {key for key in theirs if not key.startswith(SHARED)}
    for name, prefix in zip(("hiera", "neck", "mask_decoder", "position"), SHARED, strict=True):
        for key, value in parts[name].state_dict().items():
            assert torch.equal(value, theirs[prefix + key]), prefix + key


def test_loaded_parts_compute_what_metas_model_computes(tiny_of_meta, checkpoint):
    parts = build_parts("tiny")
    load_sam2_checkpoint(checkpoint, **parts)
    image = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        features, _ = parts["neck"].eval()(parts["hiera"].eval()(image))
        expected = tiny_of_meta.image_encoder(image)["backbone_fpn"]
        position = tiny_of_meta.sam_prompt_encoder.pe_layer((8, 8))
    for ours, metas in zip(features[:3], expected, strict=True):
        torch.testing.assert_close(ours, metas)
    torch.testing.assert_close(parts["position"]((8, 8)), position)


def test_load_takes_sams_memory_whole_and_it_computes_what_metas_does(tiny_of_meta, checkpoint):
    attention = build_memory_attention("tiny", feature_channels=256, side=4)
    encoder = build_memory_encoder(feature_channels=256)
    report = load_sam2_checkpoint(checkpoint, **build_parts("tiny"), memory=(attention, encoder))
    prefixes = ("memory_attention.", "memory_encoder.")
    theirs = {key for key in tiny_of_meta.state_dict() if key.startswith(prefixes)}
    assert len(theirs) > 100 and theirs <= set(report["loaded"]) and report["missing"] == []

    generator = torch.Generator().manual_seed(1)
    features, masks = (torch.randn(shape, generator=generator) for shape in ((1, 256, 4, 4), (1, 1, 64, 64)))
    tokens, memory = (torch.randn(shape, generator=generator) for shape in ((16, 1, 256), (2 * 16, 1, 64)))
    with torch.no_grad():
        ours, metas = (
            part.eval()(tokens, memory, curr_pos=tokens, memory_pos=memory)
            for part in (attention, tiny_of_meta.memory_attention)
        )
        torch.testing.assert_close(ours, metas)
        ours, metas = (
            part.eval()(features, masks)["vision_features"] for part in (encoder, tiny_of_meta.memory_encoder)
        )
        torch.testing.assert_close(ours, metas)


def test_load_into_a_narrower_plan_takes_hiera_and_leaves_the_rest_new(checkpoint):
    parts = build_parts("tiny", channels=64)
    fresh = parts["position"].state_dict()["positional_encoding_gaussian_matrix"].clone()
    report = load_sam2_checkpoint(checkpoint, **parts)
    hiera_keys = {SHARED[0] + key for key in parts["hiera"].state_dict()}
    assert hiera_keys <= set(report["loaded"])
    assert SHARED[3] + "positional_encoding_gaussian_matrix" in report["missing"]
    assert torch.equal(parts["position"].state_dict()["positional_encoding_gaussian_matrix"], fresh)


@pytest.mark.parametrize("size", ["small", "nano"])
def test_load_into_another_size_is_refused_before_anything_is_changed(checkpoint, size):
    """Tiny and small share the shapes of many blocks; half of a checkpoint would be worse than none."""
    parts = build_parts(size, channels=64)
    before = {key: value.clone() for key, value in parts["hiera"].state_dict().items()}
    with pytest.raises(CheckpointError, match="another size"):
        load_sam2_checkpoint(checkpoint, **parts)
    assert all(torch.equal(value, before[key]) for key, value in parts["hiera"].state_dict().items())


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"<html>not found</html>", "cannot be read"),
        ({"state_dict": {}}, "no 'model'"),
        ([1, 2], "no 'model'"),
        ({"model": {"image_encoder.trunk.pos_embed": 3}}, "more than named tensors"),
        ({"model": {}}, "another size"),
        ({"model": {"weight": torch.zeros(2)}}, "another size"),
    ],
    ids=["empty", "html", "other checkpoint", "list", "numbers", "no weights", "other weights"],
)
def test_load_what_is_no_sam2_checkpoint_is_refused(tmp_path, content, message):
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        load_sam2_checkpoint(path, **build_parts("nano", channels=16))


def test_load_a_file_that_is_cut_off_missing_or_a_trap_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = build_parts("nano", channels=16)
    whole = tmp_path / "whole.pt"
    torch.save({"model": {"weight": torch.zeros(1000)}}, whole)
    (tmp_path / "cut.pt").write_bytes(whole.read_bytes()[:-500])
    (tmp_path / "trap.pt").write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    for name, message in (("cut.pt", "cannot be read"), ("none.pt", "no such file"), ("trap.pt", "cannot be read")):
        with pytest.raises(CheckpointError, match=message):
            load_sam2_checkpoint(tmp_path / name, **parts)
    assert not (tmp_path / "trapped").exists()
    pickle.loads((tmp_path / "trap.pt").read_bytes())
    assert (tmp_path / "trapped").exists(), "the trap is none, so the test says nothing"
