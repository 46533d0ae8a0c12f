import matplotlib
import numpy as np

from autoseg.export.colors import as_bytes, as_hex, organ_color


def test_the_first_twenty_are_tableaus_strong_ones_first():
    palette = [tuple(matplotlib.colormaps["tab20"](i)[:3]) for i in (*range(0, 20, 2), *range(1, 20, 2))]
    assert np.allclose([organ_color(k) for k in range(20)], palette)


def test_colors_of_two_hundred_organs_differ():
    assert len({as_hex(organ_color(k)) for k in range(200)}) == 200


def test_bytes_and_hex_say_the_same():
    assert as_bytes((1.0, 0.5, 0.0)) == (255, 128, 0)
    assert as_hex((1.0, 0.5, 0.0)) == "#ff8000"
