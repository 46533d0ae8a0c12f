"""Defines the building blocks of the phantoms, waves and uneven ellipsoids, as functions of points in space.

Owns: `Waves`, `Ellipsoid` and their random drawing. Does not own: their arrangement (`phantom_anatomy.py`).

Points are (N, 3) arrays of (x, y, z) in millimeters, RAS+: right, anterior, superior.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_BUMP = 0.07  # largest change of an ellipsoid's radius by one wave, as a share
_REACH = 1.35  # no part of an ellipsoid, nor the fat around it, is further out than this many radii


@dataclass(frozen=True)
class Waves:
    """A smooth random function of position: a sum of plane cosine waves.

    Attributes:
        vectors: Wave vectors in rad/mm, shape (M, 3).
        phases: Phases in rad, shape (M,).
        amplitude: Standard deviation of the sum, about.
    """

    vectors: np.ndarray
    phases: np.ndarray
    amplitude: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, wavelength_mm: float, amplitude: float, count: int = 4) -> "Waves":
        """Draw waves in random directions, with lengths from 0.7 to 1.5 times the given one."""
        directions = rng.normal(size=(count, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths_mm = wavelength_mm * rng.uniform(0.7, 1.5, size=(count, 1))
        return cls(
            vectors=(2 * np.pi * directions / lengths_mm).astype(np.float32),
            phases=rng.uniform(0, 2 * np.pi, size=count).astype(np.float32),
            amplitude=amplitude,
        )

    def at(self, points: np.ndarray) -> np.ndarray:
        """Evaluate at (N, 3) points; the result has shape (N,)."""
        total = np.zeros(len(points), dtype=np.float32)
        for vector, phase in zip(self.vectors, self.phases, strict=True):
            total += np.cos(points @ vector + phase)
        return total * np.float32(self.amplitude * np.sqrt(2 / len(self.phases)))


@dataclass(frozen=True)
class Ellipsoid:
    """A rotated ellipsoid with an uneven surface.

    Attributes:
        center_mm: The center, (3,).
        radii_mm: The semi-axes before rotation, (3,).
        rotation: 3x3; its rows are the directions of the semi-axes.
        bumps: The relative change of the radius with position.
    """

    center_mm: np.ndarray
    radii_mm: np.ndarray
    rotation: np.ndarray
    bumps: Waves

    @classmethod
    def draw(
        cls,
        rng: np.random.Generator,
        *,
        center_mm: Sequence[float] | np.ndarray,
        radii_mm: Sequence[float] | np.ndarray,
        turn_degrees: Sequence[float] = (0, 0, 0),
        shift_mm: float = 4.0,
    ) -> "Ellipsoid":
        """Draw an ellipsoid near the given one: moved by some `shift_mm`, 10 % larger or smaller, turned by 5 degrees.

        Args:
            rng: Source of randomness.
            center_mm: Middle, (x, y, z).
            radii_mm: Semi-axes.
            turn_degrees: Rotations about x, y and z.
            shift_mm: Standard deviation of the movement along each axis.
        """
        radii = np.asarray(radii_mm) * rng.uniform(0.92, 1.1) * rng.uniform(0.95, 1.05, size=3)
        return cls(
            center_mm=(np.asarray(center_mm) + rng.normal(0, shift_mm, size=3).clip(-2 * shift_mm, 2 * shift_mm)),
            radii_mm=radii,
            rotation=rotation_matrix(np.asarray(turn_degrees) + rng.normal(0, 5, size=3)),
            bumps=Waves.draw(rng, wavelength_mm=1.6 * float(radii.max()), amplitude=_BUMP),
        )

    def ratio(self, points: np.ndarray) -> np.ndarray:
        """Return the distance of (N, 3) points from the center relative to the radius there: below 1 is inside.

        Points too far away to matter get infinity; the result is float32 of shape (N,).
        """
        reach_mm = self.radii_mm.max() * _REACH
        near = np.arange(len(points))
        for axis in range(3):  # each axis leaves fewer points to look at
            near = near[np.abs(points[near, axis] - self.center_mm[axis]) < reach_mm]
        close = points[near]
        turned = (close - self.center_mm.astype(np.float32)) @ self.rotation.T.astype(np.float32)
        result = np.full(len(points), np.inf, dtype=np.float32)
        result[near] = np.linalg.norm(turned / self.radii_mm.astype(np.float32), axis=1) / (1 + self.bumps.at(close))
        return result


def rotation_matrix(degrees_xyz: Sequence[float] | np.ndarray) -> np.ndarray:
    """Return the 3x3 matrix that rotates about x, then y, then z."""
    x, y, z = np.deg2rad(degrees_xyz)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_z @ about_y @ about_x
