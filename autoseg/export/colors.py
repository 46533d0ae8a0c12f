"""Assigns colors to organs, which are the same in pictures, tables and viewers.

Owns: `organ_color`.
"""

import colorsys

Color = tuple[float, float, float]

# Tableau's twenty, as matplotlib's "tab20": ten strong ones, then their pale brothers.
FIRST_COLOURS = (
    *("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"),
    *("#aec7e8", "#ffbb78", "#98df8a", "#ff9896", "#c5b0d5", "#c49c94", "#f7b6d2", "#c7c7c7", "#dbdb8d", "#9edae5"),
)
GOLDEN_TURN = 0.618034  # of the circle of hues: neighbors in the list lie far apart on it
SATURATIONS = (0.85, 0.55, 0.7)
VALUES = (0.95, 0.75)


def organ_color(index: int) -> Color:
    """Return the RGB color (0 to 1) of the organ at an index; the first twenty are easy to tell apart."""
    if index < len(FIRST_COLOURS):
        text = FIRST_COLOURS[index]
        return int(text[1:3], 16) / 255, int(text[3:5], 16) / 255, int(text[5:7], 16) / 255
    hue = index * GOLDEN_TURN % 1.0
    return colorsys.hsv_to_rgb(hue, SATURATIONS[index % len(SATURATIONS)], VALUES[index % len(VALUES)])


def as_bytes(color: Color) -> tuple[int, int, int]:
    """Convert a color from 0..1 to 0..255."""
    red, green, blue = (round(255 * part) for part in color)
    return red, green, blue


def as_hex(color: Color) -> str:
    """Return a color in the form "#1f77b4"."""
    return "#" + "".join(f"{part:02x}" for part in as_bytes(color))
