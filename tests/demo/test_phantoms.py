import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.demo.phantom_anatomy import Tissue, draw_anatomy, tissues_at
from autoseg.demo.phantom_scanner import draw_grid, voxel_centers_mm
from autoseg.demo.phantom_shapes import Ellipsoid, Waves, rotation_matrix
from autoseg.demo.phantoms import PHANTOM_ORGANS, PhantomCase, make_phantom, write_phantom_dataset
from autoseg.io.image import read_labels, read_scan
from autoseg.organs import describe_organ, mentions_side


@pytest.fixture(scope="module")
def cases() -> list[PhantomCase]:
    return [
        make_phantom(np.random.default_rng([3, n]), case_id=f"p{n}", modality="CT" if n % 2 else "MRI")
        for n in range(16)
    ]


def center_mm(case: PhantomCase, organ: str) -> np.ndarray:
    centers = voxel_centers_mm(case.geometry).reshape(*case.geometry.shape_zyx, 3)
    return centers[case.labels_zyx == PHANTOM_ORGANS[organ]].mean(axis=0)


def holds(case: PhantomCase, organ: str) -> bool:
    return bool((case.labels_zyx == PHANTOM_ORGANS[organ]).any())


@pytest.mark.parametrize("modality", ["CT", "MRI"])
def test_make_phantom_same_seed_gives_the_same_case_and_another_seed_another(modality: str) -> None:
    first, again, other = (
        make_phantom(np.random.default_rng(seed), case_id="a", modality=modality) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.image_zyx, again.image_zyx)
    np.testing.assert_array_equal(first.labels_zyx, again.labels_zyx)
    assert first.geometry == again.geometry
    assert first.image_zyx.shape != other.image_zyx.shape or (first.image_zyx != other.image_zyx).any()


def test_make_phantom_arrays_fit_the_grid_and_are_small(cases: list[PhantomCase]) -> None:
    for case in cases:
        assert case.image_zyx.shape == case.labels_zyx.shape == case.geometry.shape_zyx
        assert case.image_zyx.dtype == np.float32
        assert case.labels_zyx.dtype == np.uint8
        assert np.isfinite(case.image_zyx).all()
        assert sorted(case.geometry.shape_zyx)[0] >= 20
        assert sorted(case.geometry.shape_zyx)[2] <= 112
        assert max(case.geometry.spacing_zyx_mm) > 1.2 * min(case.geometry.spacing_zyx_mm)


def test_make_phantom_organs_lie_on_their_side(cases: list[PhantomCase]) -> None:
    for case in cases:
        assert center_mm(case, "liver")[0] > 20
        assert center_mm(case, "aorta")[1] > center_mm(case, "spine")[1]
        for organ, sign in {"left kidney": -1, "spleen": -1, "right kidney": 1, "gallbladder": 1}.items():
            if holds(case, organ):
                assert sign * center_mm(case, organ)[0] > 20, (case.case_id, organ)


def test_make_phantom_organs_are_missing_in_some_cases_only(cases: list[PhantomCase]) -> None:
    for organ in ("liver", "aorta", "spine"):
        assert all(holds(case, organ) for case in cases)
    held = {name: sum(holds(case, name) for case in cases) for name in PHANTOM_ORGANS}
    assert min(held.values()) >= len(cases) // 2
    assert sum(held.values()) < len(cases) * len(held)


def test_make_phantom_gallbladder_is_small_but_not_tiny(cases: list[PhantomCase]) -> None:
    for case in cases:
        if holds(case, "gallbladder"):
            volume_ml = (case.labels_zyx == PHANTOM_ORGANS["gallbladder"]).sum()
            volume_ml = volume_ml * np.prod(case.geometry.spacing_zyx_mm) / 1000
            assert 5 < volume_ml < 60


def test_make_phantom_brightness_does_not_tell_organs_apart(cases: list[PhantomCase]) -> None:
    """The 5 to 95 percentile ranges of the two kidneys overlap in every case, those of others in some case."""
    overlaps: dict[tuple[str, str], list[bool]] = {}
    for case in cases:
        for pair in (("left kidney", "right kidney"), ("liver", "spleen"), ("spleen", "left kidney")):
            if all(holds(case, organ) for organ in pair):
                a, b = (
                    np.percentile(case.image_zyx[case.labels_zyx == PHANTOM_ORGANS[organ]], [5, 95]) for organ in pair
                )
                overlaps.setdefault(pair, []).append(bool(a[0] < b[1] and b[0] < a[1]))
    assert all(overlaps["left kidney", "right kidney"])
    assert any(overlaps["liver", "spleen"])
    assert any(overlaps["spleen", "left kidney"])


def test_make_phantom_modalities_look_as_they_do_in_patients(cases: list[PhantomCase]) -> None:
    for case in cases:
        aorta, liver = (
            np.median(case.image_zyx[case.labels_zyx == PHANTOM_ORGANS[organ]]) for organ in ("aorta", "liver")
        )
        if case.modality == "CT":
            assert case.image_zyx.min() < -950
            assert 50 < liver < 140
            assert aorta > liver - 10
            np.testing.assert_array_equal(case.image_zyx, np.rint(case.image_zyx))
        else:
            assert case.image_zyx.min() >= 0
            assert aorta < liver


def test_make_phantom_scale_of_mri_differs_between_cases(cases: list[PhantomCase]) -> None:
    scales = [np.percentile(case.image_zyx, 99) for case in cases if case.modality == "MRI"]
    assert max(scales) > 3 * min(scales)


def test_draw_grid_gives_several_axis_orders_and_tilts() -> None:
    grids = [draw_grid(np.random.default_rng(seed)) for seed in range(60)]
    directions = [np.array(grid.direction) for grid in grids]
    orders = {tuple(np.rint(direction).astype(int).ravel()) for direction in directions}
    tilted = [np.abs(direction - np.rint(direction)).max() > 0.02 for direction in directions]
    assert len(orders) >= 4
    assert any(tilted)
    assert not all(tilted)
    assert any(grid.shape_zyx[0] > 40 for grid in grids)  # slices are not always the file's last axis


def test_voxel_centers_mm_follows_the_affine() -> None:
    grid = draw_grid(np.random.default_rng(5))
    centers = voxel_centers_mm(grid).reshape(*grid.shape_zyx, 3)
    expected = grid.affine_array @ [3, 2, 1, 1]
    np.testing.assert_allclose(centers[1, 2, 3], expected[:3], atol=1e-3)


def test_tissues_at_known_places() -> None:
    points = np.array([[0, 0, 400], [500, 0, 0], [0, -50, 16], [80, 5, 30], [0, 300, 0]], dtype=np.float32)
    for seed in range(5):
        tissues, labels = tissues_at(draw_anatomy(np.random.default_rng(seed)), points)
        assert tissues[1] == tissues[4] == Tissue.AIR
        assert labels[1] == labels[4] == 0
        assert labels[2] == PHANTOM_ORGANS["spine"]
        assert labels[3] == PHANTOM_ORGANS["liver"]


def test_ellipsoid_ratio_is_one_on_the_surface() -> None:
    still = Waves(vectors=np.zeros((1, 3), np.float32), phases=np.zeros(1, np.float32), amplitude=0.0)
    turn = rotation_matrix((0, 0, 90))
    ball = Ellipsoid(center_mm=np.array([1.0, 0, 0]), radii_mm=np.array([10.0, 20, 30]), rotation=turn, bumps=still)
    points = np.array([[21, 0, 0], [1, 10, 0], [1, 0, 15], [1, 0, 300]], dtype=np.float32)
    np.testing.assert_allclose(ball.ratio(points), [1, 1, 0.5, np.inf], atol=1e-5)


def test_every_phantom_organ_has_a_description_and_sides_are_mentioned() -> None:
    assert len(PHANTOM_ORGANS) >= 7
    assert all(describe_organ(name, modality="unknown").is_known for name in PHANTOM_ORGANS)
    assert mentions_side(PHANTOM_ORGANS)


def test_write_phantom_dataset_layout_and_content(tmp_path: Path) -> None:
    write_phantom_dataset(tmp_path, num_train=3, num_test=1, seed=7)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        "dataset/dataset.json",
        "dataset/imagesTr/ct_001_0000.nii.gz",
        "dataset/imagesTr/ct_003_0000.nii.gz",
        "dataset/imagesTr/mri_002_0000.nii.gz",
        "dataset/labelsTr/ct_001.nii.gz",
        "dataset/labelsTr/ct_003.nii.gz",
        "dataset/labelsTr/mri_002.nii.gz",
        "unseen/images/mri_004.nii.gz",
        "unseen/labels/mri_004.nii.gz",
    ]
    case = make_phantom(np.random.default_rng([7, 0]), case_id="ct_001", modality="CT")
    image = read_scan(tmp_path / "dataset/imagesTr/ct_001_0000.nii.gz")
    labels = read_labels(tmp_path / "dataset/labelsTr/ct_001.nii.gz")
    assert image.array_zyx.dtype == np.int16
    np.testing.assert_array_equal(image.array_zyx, case.image_zyx)
    np.testing.assert_array_equal(labels.array_zyx, case.labels_zyx)
    np.testing.assert_allclose(image.geometry.affine_array, case.geometry.affine_array, atol=1e-3)
    assert image.warnings == labels.warnings == ()
    content = json.loads((tmp_path / "dataset/dataset.json").read_text())
    assert content["numTraining"] == 3
    assert content["channel_names"]["0"] != "CT"  # which would normalize MRI as if it were HU


def test_write_phantom_dataset_is_read_without_problems(tmp_path: Path) -> None:
    dataset_module = pytest.importorskip("autoseg.datasets.dataset")
    write_phantom_dataset(tmp_path, num_train=2, num_test=0, seed=7)
    dataset = dataset_module.read_dataset(tmp_path / "dataset")
    assert [case.case_id for case in dataset.cases] == ["ct_001", "mri_002"]
    assert {organ.name: organ.value for organ in dataset.labels.organs} == PHANTOM_ORGANS
    assert dataset.problems == ()
