"""The labels of public datasets, as they are written there, have a description of their own."""

from collections import Counter
from collections.abc import Sequence

import pytest

from autoseg.organs import describe_organ
from autoseg.organs.lookup import Modality

BOTH_SIDES = ("left", "right")
TOTALSEGMENTATOR_CT = (
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas"),
    *("adrenal_gland_right", "adrenal_gland_left", "lung_upper_lobe_left", "lung_lower_lobe_left"),
    *("lung_upper_lobe_right", "lung_middle_lobe_right", "lung_lower_lobe_right", "esophagus", "trachea"),
    *("thyroid_gland", "small_bowel", "duodenum", "colon", "urinary_bladder", "prostate"),
    *("kidney_cyst_left", "kidney_cyst_right", "sacrum", "vertebrae_S1"),
    *(f"vertebrae_{region}{n}" for region, last in (("L", 5), ("T", 12), ("C", 7)) for n in range(last, 0, -1)),
    *("heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk", "subclavian_artery_right"),
    *("subclavian_artery_left", "common_carotid_artery_right", "common_carotid_artery_left"),
    *("brachiocephalic_vein_left", "brachiocephalic_vein_right", "atrial_appendage_left", "superior_vena_cava"),
    *("inferior_vena_cava", "portal_vein_and_splenic_vein", "iliac_artery_left", "iliac_artery_right"),
    *("iliac_vena_left", "iliac_vena_right", "humerus_left", "humerus_right", "scapula_left", "scapula_right"),
    *("clavicula_left", "clavicula_right", "femur_left", "femur_right", "hip_left", "hip_right", "spinal_cord"),
    *("gluteus_maximus_left", "gluteus_maximus_right", "gluteus_medius_left", "gluteus_medius_right"),
    *("gluteus_minimus_left", "gluteus_minimus_right", "autochthon_left", "autochthon_right"),
    *("iliopsoas_left", "iliopsoas_right", "brain", "skull"),
    *(f"rib_{side}_{number}" for side in BOTH_SIDES for number in range(1, 13)),
    *("sternum", "costal_cartilages"),
)
TOTALSEGMENTATOR_MR = (
    *("spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas"),
    *("adrenal_gland_right", "adrenal_gland_left", "lung_left", "lung_right", "esophagus", "small_bowel", "duodenum"),
    *("colon", "urinary_bladder", "prostate", "sacrum", "vertebrae", "intervertebral_discs", "spinal_cord", "heart"),
    *("aorta", "inferior_vena_cava", "portal_vein_and_splenic_vein", "iliac_artery_left", "iliac_artery_right"),
    *("iliac_vena_left", "iliac_vena_right", "humerus_left", "humerus_right", "fibula", "tibia", "femur_left"),
    *("femur_right", "hip_left", "hip_right", "gluteus_maximus_left", "gluteus_maximus_right"),
    *("gluteus_medius_left", "gluteus_medius_right", "gluteus_minimus_left", "gluteus_minimus_right"),
    *("autochthon_left", "autochthon_right", "iliopsoas_left", "iliopsoas_right", "quadriceps_femoris_left"),
    *("quadriceps_femoris_right", "thigh_medial_compartment_left", "thigh_medial_compartment_right"),
    *("thigh_posterior_compartment_left", "thigh_posterior_compartment_right", "sartorius_left", "sartorius_right"),
    "brain",
)
AMOS22 = (
    *("spleen", "right kidney", "left kidney", "gall bladder", "esophagus", "liver", "stomach", "arota", "postcava"),
    *("pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate/uterus"),
)
FLARE22 = (
    *("Liver", "Right kidney", "Spleen", "Pancreas", "Aorta", "Inferior vena cava", "Right adrenal gland"),
    *("Left adrenal gland", "Gallbladder", "Esophagus", "Stomach", "Duodenum", "Left kidney"),
)
FLARE22_SHORT = (
    *("Liver", "RK", "Spleen", "Pancreas", "Aorta", "IVC", "RAG", "LAG", "Gallbladder", "Esophagus", "Stomach"),
    *("Duodenum", "LK"),
)
BTCV = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta"),
    *("inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland"),
)
WORD = (
    *("liver", "spleen", "left_kidney", "right_kidney", "stomach", "gallbladder", "esophagus", "pancreas"),
    *("duodenum", "colon", "intestine", "adrenal", "rectum", "bladder", "Head_of_femur_L", "Head_of_femur_R"),
)
HIPPOCAMPUS_PARTS = (
    *("CA1", "CA2", "CA3", "CA4", "dentate gyrus", "subiculum", "presubiculum", "parasubiculum", "fimbria"),
    *("entorhinal cortex", "hippocampal_tail", "hippocampal-fissure", "HATA", "molecular_layer_HP"),
)
HIPPOCAMPUS_COARSE_PARTS = ("CA1", "CA2/3", "CA4/DG", "SUB", "ERC", "tail of the hippocampus")
ATRIUM_PARTS = (
    *("left atrial body", "left atrial appendage", "left superior pulmonary vein", "left inferior pulmonary vein"),
    *("right superior pulmonary vein", "right inferior pulmonary vein", "left atrial wall", "left atrial scar"),
    "pulmonary vein ostia",
)
DATASETS: dict[str, tuple[Modality, int, Sequence[str]]] = {  # kind of scan, number of labels, labels
    "TotalSegmentator CT": ("ct", 117, TOTALSEGMENTATOR_CT),
    "TotalSegmentator MR": ("mri", 56, TOTALSEGMENTATOR_MR),
    "AMOS22": ("unknown", 15, AMOS22),
    "FLARE22": ("ct", 13, FLARE22),
    "FLARE22, short": ("ct", 13, FLARE22_SHORT),
    "BTCV": ("ct", 13, BTCV),
    "WORD": ("ct", 16, WORD),
    "MSD brain tumour": ("mri", 3, ("edema", "non-enhancing tumor", "enhancing tumour")),
    "MSD heart": ("mri", 1, ("left atrium",)),
    "MSD prostate": ("mri", 2, ("PZ", "TZ")),
    "MSD spleen": ("ct", 1, ("spleen",)),
    "MSD colon": ("ct", 1, ("colon cancer primaries",)),
    "ACDC": ("mri", 3, ("right ventricle cavity", "myocardium", "left ventricle cavity")),
    "ACDC, short": ("mri", 3, ("RV", "MLV", "LVC")),
    "MM-WHS": (
        "ct",
        7,
        ("LV", "RV", "LA", "RA", "myocardium of the left ventricle", "ascending aorta", "pulmonary artery"),
    ),
    "CHAOS": ("mri", 4, ("liver", "right kidney", "left kidney", "spleen")),
    "KiTS, with full names": ("ct", 3, ("kidney", "kidney tumor", "kidney cyst")),
    "BraTS": ("mri", 3, ("necrotic core", "peritumoral edema", "enhancing tumor")),
    "BraTS 2020": (
        "mri",
        3,
        ("necrotic and non-enhancing tumor core (NCR/NET)", "peritumoral edema", "GD-enhancing tumor"),
    ),
    "BraTS, short": ("mri", 3, ("NCR", "ED", "ET")),
    "BraTS 2023, short": ("mri", 4, ("NETC", "SNFH", "ET", "RC")),
    "BraTS regions": ("mri", 3, ("whole tumor", "tumor core", "enhancing tumor")),
    "hippocampus, halves": ("mri", 2, ("Anterior hippocampus", "Posterior hippocampus")),
    "hippocampus, parts": ("mri", 14, HIPPOCAMPUS_PARTS),
    "hippocampus, parts of the left": ("mri", 14, [f"left_{name}" for name in HIPPOCAMPUS_PARTS]),
    "hippocampus, coarse parts": ("mri", 6, HIPPOCAMPUS_COARSE_PARTS),
    "left atrium, parts": ("mri", 9, ATRIUM_PARTS),
    "left atrium, cavity and scar": ("mri", 2, ("left atrium cavity", "left atrium scar")),
    "left atrium, veins by short names": ("ct", 5, ("LAA", "LSPV", "LIPV", "RSPV", "RIPV")),
}
# Alone these mean another thing in each dataset, so the planner warns of them and uses a template.
AMBIGUOUS = {
    "MSD liver": "cancer",
    "MSD lung": "cancer",
    "MSD pancreas": "cancer",
    "MSD hepatic vessels": "Tumour",
    "MSD hepatic vessels, the other": "Vessel",
    "MSD hippocampus": "Anterior",
    "MSD hippocampus, the other": "Posterior",
    "KiTS": "tumor",
    "KiTS, the other": "cyst",
    "pulmonary or portal": "PV",
    "of a heart or an ear": "left auricle",
}


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_label_of_a_public_dataset_is_known(dataset: str) -> None:
    modality, num_labels, names = DATASETS[dataset]
    assert len(names) == len(set(names)) == num_labels
    assert [name for name in names if not describe_organ(name, modality=modality).is_known] == []


@pytest.mark.parametrize("dataset", DATASETS)
def test_no_two_labels_of_a_public_dataset_are_taken_for_the_same_structure(dataset: str) -> None:
    modality, _, names = DATASETS[dataset]
    texts = Counter(describe_organ(name, modality=modality).sentences for name in names)
    assert [text[0] for text, count in texts.items() if count > 1] == []


@pytest.mark.parametrize("name", sorted(set(AMBIGUOUS.values())))
def test_a_name_that_means_different_things_in_different_datasets_is_not_known(name: str) -> None:
    assert not describe_organ(name, modality="unknown").is_known


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("RAG", "right adrenal gland"),
        ("LAG", "left adrenal gland"),
        ("RK", "right kidney"),
        ("LK", "left kidney"),
        ("adrenal", "adrenal glands"),
        ("Head_of_femur_L", "left femoral head"),
        ("Head_of_femur_R", "right femoral head"),
        ("prostate/uterus", "prostate or uterus"),
        ("arota", "aorta"),
        ("MLV", "myocardium"),
        ("LVC", "left ventricle"),
        ("LA", "left atrium"),
        ("atrial_appendage_left", "left atrial appendage"),
        ("LSPV", "left superior pulmonary vein"),
        ("RIPV", "right inferior pulmonary vein"),
        ("CA4/DG", "CA4 and dentate gyrus"),
        ("lh_CA1", "left CA1"),
        ("CA3-R", "right CA3"),
        ("SRLM", "stratum radiatum lacunosum moleculare"),
        ("molecular_layer_HP", "stratum radiatum lacunosum moleculare"),
        ("SNFH", "oedema"),
        ("thigh_posterior_compartment_right", "right posterior compartment of the thigh"),
        ("tibia_left", "left tibia"),
    ],
)
def test_a_label_stands_for_the_structure_that_its_dataset_means(written: str, stored: str) -> None:
    expected = describe_organ(stored, modality="mri")
    assert expected.is_known
    assert describe_organ(written, modality="mri").sentences == expected.sentences
