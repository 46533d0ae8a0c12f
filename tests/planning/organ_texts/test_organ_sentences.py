import pytest

from autoseg.organs import describe_organ
from autoseg.planning.multi_dataset.label_mapping import unify_labels
from autoseg.planning.multi_dataset.merge_datasets import join_checks
from autoseg.planning.organ_texts.custom_texts import OwnDescriptions, use_own_descriptions
from autoseg.planning.organ_texts.organ_sentences import describe_organs, list_modalities, modality_name


@pytest.fixture
def join(make_check):
    def join(**datasets):
        checks = {name: make_check(labels, channels=channels) for name, (channels, labels) in datasets.items()}
        return join_checks(checks, unify_labels({n: check.dataset.labels for n, check in checks.items()})).fingerprint

    return join


@pytest.mark.parametrize(
    ("channels", "name"),
    [
        (("CT",), "ct"),
        (("T1", "FLAIR"), "mri"),
        (("PET",), "PET"),
        (("CT", "PET"), "CT, PET"),
        (("x" * 150,) * 2, None),
    ],
)
def test_modality_name_is_ct_mri_or_the_channels(channels, name):
    assert modality_name(channels) == (name or ", ".join(channels)[:200])


def test_list_modalities_has_each_once_in_the_order_of_the_datasets(join):
    fingerprint = join(A=(("MRI",), ["liver"]), B=(("CT",), ["liver"]), C=(("T2",), ["liver"]))
    assert list_modalities(fingerprint) == {"mri": ("MRI",), "ct": ("CT",)}


def test_describe_organs_tells_each_modality_how_an_organ_looks(join):
    organs, problems = describe_organs(join(A=(("MRI",), ["liver"]), B=(("CT",), ["Liver"])))
    (liver,) = organs
    assert liver.sentences == describe_organ("liver", modality="mri").sentences
    assert liver.additional_sentences == (describe_organ("liver", modality="ct").sentences,)
    assert liver.sentences != liver.additional_sentences[0] and problems == ()


def test_describe_organs_tells_a_part_by_its_regions(join):
    brain = {"whole tumour": [1, 2], "tumour core": 2}
    (rim, _core, _liver), problems = describe_organs(join(A=(("MRI",), brain), B=(("MRI",), ["liver"])))
    assert rim.sentences[0] == "The whole tumour without tumour core."
    assert set(describe_organ("whole tumour", modality="mri").sentences) <= set(rim.sentences)
    assert problems == ()


def own(fingerprint, **texts):
    found, problems = use_own_descriptions(fingerprint, OwnDescriptions("--descriptions w.json", texts))
    return {organ.name: organ.description for organ in found.organs}, [problem.message for problem in problems]


def test_own_descriptions_find_an_organ_by_what_any_dataset_calls_it_and_by_a_synonym(join):
    fingerprint = join(A=(("MRI",), ["lien", "gizmo part"]), B=(("CT",), ["spleen", "Parts of Gizmo", "liver"]))
    texts = {"Spleen": "S.", "part gizmos": "G.", "hepatic thing": "H."}
    found, problems = own(fingerprint, **texts)
    assert found["lien"] == "S." and found["gizmo part"] == "G."
    assert found["liver"] is None and "describes 'hepatic thing', which is no organ" in problems[0]
    assert own(join(A=(("MRI",), ["lien"]), B=(("CT",), ["liver"])), spleen="S.") == ({"lien": "S.", "liver": None}, [])


def test_own_descriptions_of_a_synonym_that_is_two_organs_are_of_neither(make_fingerprint_of):
    fingerprint = make_fingerprint_of(organs=("left kidney", "kidney_left"))
    organs = [
        organ.model_copy(update={"name": name})
        for organ, name in zip(fingerprint.organs, ("lien", "spleen"), strict=True)
    ]
    fingerprint = fingerprint.model_copy(update={"organs": tuple(organs)})
    assert own(fingerprint, spleen="S.")[0] == {"lien": None, "spleen": "S."}


def test_own_descriptions_of_a_region_are_of_its_part_and_else_told(join):
    brain = {"whole tumour": [1, 2], "tumour core": 2}
    fingerprint = join(A=(("MRI",), brain), B=(("CT",), ["kidneys"]), C=(("CT",), ["left kidney", "right kidney"]))
    found, problems = own(fingerprint, **{"Whole_Tumour": "All of it.", "kidneys": "Two beans."})
    assert found["whole tumour without tumour core"] == "whole tumour without tumour core. All of it."
    assert found["left kidney"] is None
    assert problems == ["--descriptions w.json describes the region 'kidneys': describe its organs instead."]
