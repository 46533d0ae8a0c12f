import numpy as np
import pytest
from matplotlib.image import imread

from autoseg.demo.overlay import choose_slice_axis, choose_slices, save_overlay
from autoseg.errors import GeometryError

ISOTROPIC = (1.0, 1.0, 1.0)


def scan(shape=(6, 20, 24)):
    image = np.random.default_rng(0).normal(size=shape)
    labels = np.zeros(shape, dtype=np.uint8)
    labels[:, 5:15, 2:10] = 1
    return image, labels


def count_colored(picture):
    rgb = picture[..., :3]
    return int((np.ptp(rgb, axis=-1) > 0.05).sum())


def draw(path, image, labels, **options):
    save_overlay(
        path, image, **{"prediction_zyx": labels, "names": {1: "liver"}, "spacing_zyx_mm": ISOTROPIC} | options
    )
    return imread(path)


def test_save_overlay_colors_the_organ_on_the_patients_side(tmp_path):
    image, labels = scan()
    picture = draw(tmp_path / "case.png", image, labels, num_slices=1)
    panel = picture[:, : int(picture.shape[1] * 0.8)]  # image and prediction side by side, without the list of names
    columns = np.flatnonzero((np.ptp(panel[..., :3], axis=-1) > 0.05).any(axis=0))
    # The organ lies at low x, the patient's left: in the right half of the right panel.
    assert columns.min() > 0.75 * panel.shape[1]
    assert count_colored(panel) > 1000


def test_save_overlay_without_organs_has_no_color(tmp_path):
    image, labels = scan()
    assert count_colored(draw(tmp_path / "case.png", image, labels * 0)) == 0


def test_save_overlay_with_reference_is_wider_and_shows_it(tmp_path):
    image, labels = scan()
    alone = draw(tmp_path / "alone.png", image, labels * 0)
    both = draw(tmp_path / "both.png", image, labels * 0, reference_zyx=labels)
    assert both.shape[1] > alone.shape[1]
    assert count_colored(both) > 1000


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 1, 1), (5, 1, 7), (2, 3, 40)])
def test_save_overlay_thin_volumes_work(tmp_path, shape):
    image, labels = np.zeros(shape), np.ones(shape, dtype=np.uint16)
    assert count_colored(draw(tmp_path / "case.png", image, labels)) > 0


def test_save_overlay_odd_values_and_names_work(tmp_path):
    image = np.full((3, 8, 8), np.nan)
    labels = np.full((3, 8, 8), 60000, dtype=np.uint16)
    names = {60000: "$\\frac{\x1b[2J <script>" + "x" * 99}
    assert count_colored(draw(tmp_path / "case.png", image, labels, names=names)) > 0


def test_save_overlay_many_organs_lists_the_first(tmp_path):
    labels = np.arange(40, dtype=np.uint8).reshape(1, 5, 8)
    names = {value: f"organ {value}" for value in range(1, 40)}
    assert count_colored(draw(tmp_path / "case.png", np.zeros(labels.shape), labels, names=names)) > 0


def test_save_overlay_is_the_same_each_time(tmp_path):
    image, labels = scan()
    draw(tmp_path / "a.png", image, labels)
    draw(tmp_path / "b.png", image, labels)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_save_overlay_shapes_differ_raises_and_leaves_nothing(tmp_path):
    image, labels = scan()
    with pytest.raises(GeometryError, match="prediction"):
        draw(tmp_path / "case.png", image, labels[:, :, 1:])
    assert list(tmp_path.iterdir()) == []


def test_choose_slice_axis_coarsest_unless_nearly_isotropic():
    assert choose_slice_axis((1.4, 1.0, 1.0)) == 0
    assert choose_slice_axis((1.0, 5.0, 1.0)) == 1
    assert choose_slice_axis((1.0, 1.0, 1.4)) == 0


def test_choose_slices_spread_over_the_marked_part():
    labels = np.zeros((30, 4, 4), dtype=np.uint8)
    labels[10:22, 1, 1] = 5
    assert choose_slices([labels], axis=0, num_slices=3) == [12, 16, 20]
    assert choose_slices([labels], axis=1, num_slices=3) == [1]
    assert choose_slices([labels * 0], axis=0, num_slices=1) == [15]
