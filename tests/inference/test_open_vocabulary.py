import logging

import numpy as np
import pytest
import torch

from autoseg.errors import CheckpointError, UsageError
from autoseg.inference.model_loading import load_predictor
from autoseg.inference.open_vocabulary import compare_texts, with_new_organs
from autoseg.io.geometry import ImageGeometry
from autoseg.io.image import Scan
from autoseg.network.build import build_network
from autoseg.network.text.cached_text import StoredText
from autoseg.network.weights.model_file import load_models, pack_models, save_model


@pytest.fixture
def plans(tiny_plans):
    """Give a plan whose four organs are each told in words of their own."""
    content = tiny_plans(4).model_dump()
    words = ("round dark left", "long bright right", "flat grey upper", "small soft lower")
    for organ, own in zip(content["data"]["organs"], words, strict=True):
        a, b, c = own.split()
        organ["sentences"] = [f"It is {a} and {b}.", f"It lies on the {c} side."]
    content["inference"]["mirror_axes"] = ["column"]
    return type(tiny_plans(1)).model_validate(content)


@pytest.fixture
def model(plans, tmp_path):
    torch.manual_seed(0)
    save_model(build_network(plans).eval(), plans, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def scan_of(rng):
    return Scan(rng.normal(size=(5, 32, 32)).astype(np.float32), ImageGeometry.from_spacing((5, 32, 32), (3, 1, 1)))


def test_a_new_organ_with_the_words_of_a_known_one_is_that_one(model, plans, rng):
    known = load_predictor(model, device="cpu")
    more = with_new_organs(known, {"twin": " ".join(plans.data.organs[1].sentences)})
    text = more.networks[0].text
    torch.testing.assert_close(text.vectors[4], text.vectors[1])
    assert more.names == {**known.names, 8: "twin"}
    assert more.plans.data.organs[4].sentences == plans.data.organs[1].sentences
    scan = scan_of(rng)
    probs = more.networks[0](torch.randn(2, 3, 32, 32), torch.arange(5)).logits
    torch.testing.assert_close(probs[:, 2], probs[:, 5])
    assert set(np.unique(more.predict_scans([scan]).labels_zyx)) <= {0, *more.names}


def test_the_predictor_that_was_given_stays_as_it_was(model, rng):
    known = load_predictor(model, device="cpu", organs=["organ 0", "organ 2"])
    scan = scan_of(rng)
    before = known.predict_scans([scan]).labels_zyx
    more = with_new_organs(known, {"liver": ""})
    assert more.organs == (0, 2, 4) and known.organs == (0, 2)
    assert len(known.networks[0].text.vectors) == 4 and len(more.networks[0].text.vectors) == 5
    assert np.array_equal(known.predict_scans([scan]).labels_zyx, before)


def test_every_fold_reads_with_its_own_tower(plans, tmp_path):
    paths = []
    for seed in range(2):
        torch.manual_seed(seed)
        paths.append(tmp_path / f"{seed}.safetensors")
        save_model(build_network(plans).eval(), plans, paths[-1])
    pack_models(paths, tmp_path / "packed.safetensors")
    assert len(load_models(tmp_path / "packed.safetensors")[0]) == 2
    more = with_new_organs(
        load_predictor(tmp_path / "packed.safetensors", device="cpu"),
        {"twin": " ".join(plans.data.organs[3].sentences)},
    )
    for network in more.networks:
        torch.testing.assert_close(network.text.vectors[4], network.text.vectors[3])


def test_a_name_with_a_side_ends_mirroring(model):
    known = load_predictor(model, device="cpu")
    assert with_new_organs(known, {"liver": ""}).plans.inference.mirror_axes == ("column",)
    assert with_new_organs(known, {"left kidney": ""}).plans.inference.mirror_axes == ()


def test_what_is_unlike_all_that_was_read_is_warned_of(model, plans, caplog):
    known = load_predictor(model, device="cpu")
    with caplog.at_level(logging.WARNING, logger="autoseg"):
        with_new_organs(known, {"twin": " ".join(plans.data.organs[0].sentences)})
        assert not caplog.records
        with_new_organs(known, {"zebra": "Zebras gallop over vast savannas eating coarse grasses."})
    (record,) = caplog.records
    assert "--new-organ zebra" in record.getMessage() and "of its words are new" in record.getMessage()


def test_texts_are_compared_from_the_middle_of_the_known_ones():
    vectors = torch.tensor([[[1.0, 0]], [[-1.0, 0]], [[2.0, 0]], [[0, 5.0]]])  # the middle of the first two is zero
    similarity = compare_texts(vectors, torch.ones(4, 1, dtype=torch.bool), num_known=2)
    assert similarity.tolist() == [[-1, -1], [-1, -1], [1, -1], [0, 0]]


@pytest.mark.parametrize(
    ("organs", "message"),
    [
        ({"organ 1": "It is long."}, "organ 1: the model was trained on it. Ask for it with --organs"),
        ({"no such thing": ""}, "no description of it. Give one"),
        ({"": "It is long."}, "it needs a name"),
        ({"n" * 201: "It is long."}, "Give a shorter name"),
        ({"long": "It is long. " * 40}, "fewer and shorter sentences"),
        ({"long": "l" * 1500}, "fewer and shorter sentences"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(model, organs, message):
    with pytest.raises(UsageError, match=message):
        with_new_organs(load_predictor(model, device="cpu"), organs)


def test_a_model_without_a_tower_says_so(plans, tmp_path):
    network = build_network(plans).eval()
    network.text = StoredText(torch.randn(4, 2, 16), torch.ones(4, 2, dtype=torch.bool))
    save_model(network, plans, tmp_path / "model.safetensors")
    predictor = load_predictor(tmp_path / "model.safetensors", device="cpu")
    with pytest.raises(CheckpointError, match="kept no text tower"):
        with_new_organs(predictor, {"liver": ""})


@pytest.fixture
def two_kinds(plans, tmp_path):
    """Give a model of MRI and CT whose organs are told in other words on CT; "pair" is organs 0 and 1."""
    content = plans.model_dump(mode="json")
    data = content["data"]
    data["modality"] = "mri"
    data["additional_modalities"] = [{"name": "ct", "channels": [{**data["channels"][0], "name": "CT"}]}]
    for organ in data["organs"]:
        organ["additional_sentences"] = [[f"On CT {organ['sentences'][0].lower()}"]]
    data["regions"] = [{"name": "pair", "organs": ["organ 0", "organ 1"]}]
    plans = type(plans).model_validate(content)
    torch.manual_seed(0)
    save_model(build_network(plans).eval(), plans, tmp_path / "two.safetensors")
    return tmp_path / "two.safetensors"


def test_a_new_organ_is_told_in_each_modality_and_the_rows_of_the_others_move_along(two_kinds, rng):
    """Rows were MRI 0..3, CT 4..7; with the liver they are MRI 0..4, CT 5..9."""
    known = load_predictor(two_kinds, device="cpu")
    more = with_new_organs(known, {"liver": ""})
    assert [more.plans.data.text_row(organ, 1) for organ in (0, 4)] == [5, 9]
    before, after = known.networks[0].text, more.networks[0].text
    torch.testing.assert_close(after.vectors[:4], before.vectors[:4])
    torch.testing.assert_close(after.vectors[5:9], before.vectors[4:])
    liver = more.plans.data.organs[4]
    assert len(liver.additional_sentences) == 1 and liver.sentences != liver.additional_sentences[0]
    scan = scan_of(rng)
    for modality in ("mri", "ct"):
        chosen = load_predictor(two_kinds, device="cpu", modality=modality, organs=["organ 2"])
        asked = with_new_organs(chosen, {"liver": ""})
        assert asked.modality == chosen.modality == ["mri", "ct"].index(modality)
        assert set(np.unique(asked.predict_scans([scan]).labels_zyx)) <= {0, *asked.names}


def test_a_region_is_no_new_organ(two_kinds):
    with pytest.raises(UsageError, match=r"--new-organ pair: the model was trained on it\. Ask for it with --organs"):
        with_new_organs(load_predictor(two_kinds, device="cpu"), {"pair": "Two of them."})


def test_labels_of_a_region_are_its_organs(two_kinds):
    assert load_predictor(two_kinds, device="cpu", organs=["pair", "organ 1"]).organs == (0, 1)
    with pytest.raises(UsageError, match=r"pear.*organ 0.*organ 3.*pair"):
        load_predictor(two_kinds, device="cpu", organs=["pear"])


def test_a_modality_changes_the_text_and_nothing_else(two_kinds, rng, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "autoseg.inference.predictor.predict_slices", lambda *a, organs, **k: asked.append(organs) or 1 / 0
    )
    scan = scan_of(rng)
    low = Scan(scan.array_zyx - 1000, scan.geometry)
    for modality, given in ((None, scan), (None, low), ("mri", low), ("ct", scan)):
        with pytest.raises(ZeroDivisionError):
            load_predictor(two_kinds, device="cpu", modality=modality, organs=["organ 3"]).predict_scans([given])
    assert asked == [[3], [7], [3], [7]]
