import pytest

from autoseg.organs import find_modality


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (["CT"], "ct"),
        (["ct_venous"], "ct"),
        (["Computed Tomography"], "ct"),
        (["FLAIR", "T1 contrast-enhanced"], "mri"),
        (["MRI"], "mri"),
        (["CT", "MRI"], "unknown"),
        (["PET/CT"], "unknown"),
        (["CT/MRI"], "unknown"),
        (["spectral"], "unknown"),
    ],
)
def test_find_modality_reads_channel_names(names, modality):
    assert find_modality(names) == modality
