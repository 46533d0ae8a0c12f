"""Defines the anatomy of the phantoms: the tissue and the organ at each point of an upper abdomen.

Owns: the organs and tissues, their positions, and their variation from case to case.
Does not own: their intensities, the grid and the noise (`phantom_scanner.py`).

Points are (x, y, z) in millimeters, RAS+ (right, anterior, superior); the origin is the center of the body at kidney
height. Tissues are painted over each other, the outer ones first. Left and right kidney are the same tissue and differ
only in position. Stomach, bowel, ribs and veins are distractors without labels.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from autoseg.demo.phantom_shapes import Ellipsoid, Waves

PHANTOM_ORGANS: dict[str, int] = {
    "liver": 1,
    "spleen": 2,
    "left kidney": 3,
    "right kidney": 4,
    "gallbladder": 5,
    "aorta": 6,
    "spine": 7,
}

# How often an organ is absent: taken out by a surgeon, or never there.
_ABSENT_SHARE = {"spleen": 0.08, "left kidney": 0.07, "right kidney": 0.07, "gallbladder": 0.12}
_VERTEBRA_MM = 33.0  # height of a lumbar vertebra with its disc


class Tissue(IntEnum):
    """The tissue of a point, which determines its intensity."""

    AIR = 0
    SKIN = 1
    FAT = 2
    MUSCLE = 3
    LUNG = 4
    CORTICAL_BONE = 5
    MARROW = 6
    DISC = 7
    SPINAL_FLUID = 8
    LIVER = 9
    SPLEEN = 10
    KIDNEY_CORTEX = 11
    KIDNEY_MEDULLA = 12
    BILE = 13
    ARTERY = 14
    VEIN = 15
    BOWEL_WALL = 16
    BOWEL_FLUID = 17


@dataclass(frozen=True)
class Anatomy:
    """One patient.

    Attributes:
        size: The scale of the whole body.
        half_width_mm: Half the width of the torso, left to right.
        half_depth_mm: Half the depth of the torso, posterior to anterior.
        fat_mm: The thickness of the fat under the skin of the back; there is more at the sides.
        shapes: The ellipsoids by name.
        loops: The bowel loops.
        warp: A displacement in millimeters for each of x, y and z.
        vessels: A function that is high at vessels inside the liver.
        wander: The displacement of the great vessels with height, for x and y.
        absent: The organs that this patient lacks.
    """

    size: float
    half_width_mm: float
    half_depth_mm: float
    fat_mm: float
    shapes: dict[str, Ellipsoid]
    loops: tuple[Ellipsoid, ...]
    warp: tuple[Waves, Waves, Waves]
    vessels: Waves
    wander: tuple[Waves, Waves]
    absent: frozenset[str]


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient."""
    bowel_places = rng.uniform((-85, -5, -75), (85, 60, -12), size=(20, 3))
    return Anatomy(
        size=rng.uniform(0.9, 1.03),
        half_width_mm=rng.uniform(138, 149),
        half_depth_mm=rng.uniform(96, 105),
        fat_mm=rng.uniform(5, 12),
        shapes=_draw_shapes(rng),
        loops=tuple(
            Ellipsoid.draw(rng, center_mm=place, radii_mm=rng.uniform(13, 24, size=3)) for place in bowel_places
        ),
        warp=tuple(Waves.draw(rng, wavelength_mm=170, amplitude=3.5) for _ in range(3)),  # type: ignore[arg-type]
        vessels=Waves.draw(rng, wavelength_mm=42, amplitude=1.0, count=6),
        wander=(
            Waves.draw(rng, wavelength_mm=150, amplitude=3.0),
            Waves.draw(rng, wavelength_mm=150, amplitude=1.5),
        ),
        absent=frozenset(name for name, share in _ABSENT_SHARE.items() if rng.random() < share),
    )


def _draw_shapes(rng: np.random.Generator) -> dict[str, Ellipsoid]:
    draw = Ellipsoid.draw
    return {
        "liver, right lobe": draw(rng, center_mm=(72, 6, 34), radii_mm=(62, 72, 68), turn_degrees=(0, -12, 0)),
        "liver, left lobe": draw(rng, center_mm=(12, 46, 52), radii_mm=(66, 30, 30), turn_degrees=(0, 14, 8)),
        "spleen": draw(rng, center_mm=(-89, -28, 42), radii_mm=(29, 45, 50), turn_degrees=(8, 12, -28)),
        "left kidney": draw(rng, center_mm=(-60, -42, 12), radii_mm=(26, 24, 51), turn_degrees=(-6, -12, 18)),
        "right kidney": draw(rng, center_mm=(60, -42, 0), radii_mm=(26, 24, 51), turn_degrees=(-6, 12, -18)),
        "gallbladder": draw(rng, center_mm=(54, 53, 2), radii_mm=(15, 14, 28), turn_degrees=(28, 12, 0), shift_mm=3),
        "stomach": draw(rng, center_mm=(-52, 30, 52), radii_mm=(38, 34, 52), turn_degrees=(0, 20, 0), shift_mm=6),
        "pancreas": draw(rng, center_mm=(-12, 14, 10), radii_mm=(52, 11, 12), turn_degrees=(0, 22, 12), shift_mm=3),
        "heart": draw(rng, center_mm=(-22, 34, 120), radii_mm=(52, 42, 38)),
    }


def tissues_at(anatomy: Anatomy, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Look up (N, 3) points in millimeters.

    Returns:
        Tissues and label values, both uint8 of shape (N,).
    """
    bent = points.astype(np.float32) / np.float32(anatomy.size)
    bent += np.stack([waves.at(bent) for waves in anatomy.warp], axis=1)
    tissues = np.zeros(len(points), dtype=np.uint8)
    labels = np.zeros(len(points), dtype=np.uint8)
    cavity = _paint_torso(anatomy, bent, tissues)
    belly = _paint_chest(anatomy, bent, tissues, cavity)
    _paint_bowel(anatomy, bent, tissues, belly)
    _paint_solid_organs(anatomy, bent, tissues, labels, belly)
    _paint_vessels(anatomy, bent, tissues, labels)
    _paint_spine(bent, tissues, labels)
    return tissues, labels


def _paint_torso(anatomy: Anatomy, points: np.ndarray, tissues: np.ndarray) -> np.ndarray:
    """Paint skin, fat, muscle and ribs; return a mask of the room inside."""
    x, y, z = points.T
    ratio = ((np.abs(x) / anatomy.half_width_mm) ** 2.4 + (np.abs(y) / anatomy.half_depth_mm) ** 2.4) ** (1 / 2.4)
    distance = np.hypot(x, y)
    depth_mm = distance / np.maximum(ratio, 1e-3) - distance  # under the skin, along the ray from the middle
    sideways = np.abs(x) / np.maximum(distance, 1e-3)
    muscle_starts_mm = 3 + anatomy.fat_mm * (1 + 0.7 * sideways)
    cavity_starts_mm = muscle_starts_mm + 13 - 4 * np.clip(y / anatomy.half_depth_mm, 0, 1)
    tissues[depth_mm > 0] = Tissue.SKIN
    tissues[depth_mm > 3] = Tissue.FAT
    tissues[depth_mm > muscle_starts_mm] = Tissue.MUSCLE
    cavity = depth_mm > cavity_starts_mm
    tissues[cavity] = Tissue.FAT
    for side in (-1, 1):  # the long muscles of the back, and psoas
        back = ((x - side * 38) / 34) ** 2 + ((y + 80) / 19) ** 2 < 1
        psoas = ((x - side * 33) / 15) ** 2 + ((y + 48) / 17) ** 2 < np.clip((22 - z) / 40, 0, 1)
        tissues[(back & (depth_mm > muscle_starts_mm)) | psoas] = Tissue.MUSCLE
        cavity &= ~(back | psoas)
    angle = np.arctan2(y, np.abs(x))  # ribs slant down towards the front
    ribs = np.cos((z + 45 * angle) * (2 * np.pi / 27)) > 0.55
    ribs &= np.abs(depth_mm - 0.5 * (muscle_starts_mm + cavity_starts_mm) - 2) < 4
    ribs &= z > -25 + 55 * np.clip(angle, 0, 2) ** 2
    tissues[ribs] = Tissue.CORTICAL_BONE
    return cavity


def _paint_chest(anatomy: Anatomy, points: np.ndarray, tissues: np.ndarray, cavity: np.ndarray) -> np.ndarray:
    """Paint lungs, heart and diaphragm; return a mask of the room below the diaphragm."""
    x, y, z = points.T
    right_dome = 92 - 0.011 * ((x - 62) ** 2 + (y - 8) ** 2)
    left_dome = 84 - 0.012 * ((x + 66) ** 2 + (y - 8) ** 2)
    above_mm = z - np.maximum(right_dome, left_dome)
    middle = (x / 27) ** 2 + ((y + 40) / 46) ** 2 < 1
    tissues[cavity & (above_mm > -3) & (above_mm <= 0)] = Tissue.MUSCLE
    tissues[cavity & (above_mm > 0) & ~middle] = Tissue.LUNG
    heart = (anatomy.shapes["heart"].ratio(points) < 1) & (above_mm > 0)
    tissues[heart] = Tissue.MUSCLE
    return cavity & (above_mm < -3)


def _paint_bowel(anatomy: Anatomy, points: np.ndarray, tissues: np.ndarray, belly: np.ndarray) -> None:
    """Paint loops and stomach: a wall, fluid, and gas that gathers in front (the patient lies on the back)."""
    tissues[(anatomy.shapes["pancreas"].ratio(points) < 1) & belly] = Tissue.BOWEL_WALL
    for hollow in (*anatomy.loops, anatomy.shapes["stomach"]):
        ratio = hollow.ratio(points)
        ratio[~belly] = np.inf
        inside = ratio < 1 - 4.5 / hollow.radii_mm.mean()
        gas_from_mm = hollow.center_mm[1] + 0.25 * hollow.radii_mm[1]
        tissues[ratio < 1] = Tissue.BOWEL_WALL
        tissues[inside] = Tissue.BOWEL_FLUID
        tissues[inside & (points[:, 1] > gas_from_mm)] = Tissue.AIR


def _paint_solid_organs(
    anatomy: Anatomy, points: np.ndarray, tissues: np.ndarray, labels: np.ndarray, belly: np.ndarray
) -> None:
    ratios = {name: shape.ratio(points) for name, shape in anatomy.shapes.items() if name not in anatomy.absent}
    liver = (np.minimum(ratios["liver, right lobe"], ratios["liver, left lobe"]) < 1) & belly
    tissues[liver] = Tissue.LIVER
    labels[liver] = PHANTOM_ORGANS["liver"]
    where = np.flatnonzero(liver)
    tissues[where[anatomy.vessels.at(points[where]) > 1.8]] = Tissue.VEIN
    if "spleen" in ratios:
        spleen = (ratios["spleen"] < 1) & belly
        tissues[spleen] = Tissue.SPLEEN
        labels[spleen] = PHANTOM_ORGANS["spleen"]
    for name in ("left kidney", "right kidney"):
        if name in ratios:
            _paint_kidney(name, anatomy.shapes[name], points, np.where(belly, ratios[name], np.inf), tissues, labels)
    if "gallbladder" in ratios:
        bile = (ratios["gallbladder"] < 1) & belly
        tissues[bile] = Tissue.BILE
        labels[bile] = PHANTOM_ORGANS["gallbladder"]


def _paint_kidney(
    name: str, shape: Ellipsoid, points: np.ndarray, ratio: np.ndarray, tissues: np.ndarray, labels: np.ndarray
) -> None:
    """Paint the fat around, cortex, medulla, and the notch that faces the spine, which is fat and not kidney."""
    tissues[ratio < 1.14] = Tissue.FAT
    labels[ratio < 1.14] = 0
    tissues[ratio < 1] = Tissue.KIDNEY_CORTEX
    tissues[ratio < 0.66] = Tissue.KIDNEY_MEDULLA
    labels[ratio < 1] = PHANTOM_ORGANS[name]
    inward = -np.sign(shape.center_mm[0])
    notch_mm = shape.center_mm + np.array([inward * shape.radii_mm[0] * 0.95, 5.0, 0.0])
    radii_mm = np.array([shape.radii_mm[0] * 0.75, 8.0, 15.0])
    close = np.flatnonzero(ratio < 1.14)
    offsets = (points[close] - notch_mm.astype(np.float32)) / radii_mm.astype(np.float32)
    notch = close[np.linalg.norm(offsets, axis=1) < 1]
    tissues[notch] = Tissue.FAT
    labels[notch] = 0


def _paint_vessels(anatomy: Anatomy, points: np.ndarray, tissues: np.ndarray, labels: np.ndarray) -> None:
    x, y, z = points.T
    heights_mm = np.arange(-150, 200, 5.0)
    axis = np.stack([np.zeros(70), np.zeros(70), heights_mm], axis=1).astype(np.float32)
    x = x - np.interp(z, heights_mm, anatomy.wander[0].at(axis))
    y = y - np.interp(z, heights_mm, anatomy.wander[1].at(axis))
    vein = ((x - 21) / 12) ** 2 + ((y + 16) / 8.5) ** 2 < 1
    tissues[vein] = Tissue.VEIN
    labels[vein] = 0
    artery = (x + 11) ** 2 + (y + 19) ** 2 < 11.5**2
    tissues[artery] = Tissue.ARTERY
    labels[artery] = PHANTOM_ORGANS["aorta"]


def _paint_spine(points: np.ndarray, tissues: np.ndarray, labels: np.ndarray) -> None:
    """Paint vertebral bodies with discs, the canal, and the processes behind; label them as one organ."""
    x, y, z = points.T
    phase = np.mod(z, _VERTEBRA_MM) / _VERTEBRA_MM  # 0 to 0.2: disc
    body = np.sqrt((x / 23) ** 2 + ((y + 50) / 17) ** 2)
    canal = np.hypot(x / 10, (y + 74) / 8)
    arch = (np.hypot(x / 19, (y + 75) / 14) < 1) & (canal >= 1)
    spinous = (np.abs(x) < 4.5) & (y < -80) & (y > -101) & (phase > 0.35)
    transverse = (np.abs(x) < 42) & (np.abs(y + 70) < 5) & (np.abs(phase - 0.7) < 0.16) & (canal >= 1)
    bone = (body < 1) | arch | spinous | transverse
    tissues[bone] = Tissue.CORTICAL_BONE
    tissues[body < 0.86] = Tissue.MARROW
    tissues[(body < 1) & (phase < 0.2)] = Tissue.DISC
    tissues[canal < 1] = Tissue.SPINAL_FLUID
    labels[bone] = PHANTOM_ORGANS["spine"]
    labels[canal < 1] = 0
