"""Chooses which detached pieces of an organ are removed, by the Dice of cases that were left out of training.

Owns: `list_pieces`, which counts the voxels that a rule depends on, and `choose_component_filter`, which keeps a rule
only where it raises Dice. Counts are stored in `pieces.json`, so that the cases of several folds can be combined.
Does not own: the removal (`inference/connected_components.py`).
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, TypeAdapter

from autoseg.config.plans import ComponentFilter, Plans, Reason
from autoseg.errors import UsageError
from autoseg.inference.connected_components import number_pieces
from autoseg.system.atomic_files import read_json, write_json

LEAST_CASES = 3  # that hold the organ, or where it was found; fewer say nothing
LEAST_GAIN = 1e-4  # in mean Dice
PIECES_NAME = "pieces.json"
SHARES = (0.05, 0.1, 0.3, 1.0)
VOLUMES_ML = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

log = logging.getLogger("autoseg")


@dataclass(frozen=True)
class OrganPieces:
    """One organ in one case.

    Attributes:
        voxel_ml: The volume of a voxel.
        reference: The number of voxels in the reference.
        sizes: The number of voxels of each predicted piece.
        hits: How many of these lie in the reference's organ.
    """

    voxel_ml: PositiveFloat
    reference: NonNegativeInt
    sizes: tuple[NonNegativeInt, ...]
    hits: tuple[NonNegativeInt, ...]

    def dice(self, rule: ComponentFilter) -> float:
        """Return the Dice that is left when the rule has removed its pieces; 1 where neither side holds anything."""
        sizes, hits = np.array(self.sizes), np.array(self.hits)
        least = max(rule.min_fraction * max(self.sizes, default=0), rule.min_volume_ml / self.voxel_ml)
        stays = sizes >= least
        total = self.reference + int(sizes[stays].sum())
        return 2.0 * int(hits[stays].sum()) / total if total else 1.0

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.hits):
            raise ValueError("sizes and hits have different lengths")


CasePieces = Mapping[str, OrganPieces]  # of the organs that were annotated in the case
STORED_PIECES = TypeAdapter(list[dict[str, OrganPieces]])


def list_pieces(
    predicted: np.ndarray, reference: np.ndarray, *, names: Sequence[str], voxel_ml: float
) -> dict[str, OrganPieces]:
    """List the pieces of every organ of a case.

    Args:
        predicted: (S, R, W) organ indices, 0 for background.
        reference: (S, R, W) indices, the largest value of the type where ignored.
        names: The names of the K organs.
        voxel_ml: The volume of a voxel.
    """
    is_known = reference != np.iinfo(reference.dtype).max
    predicted = np.where(is_known, predicted, 0).astype(reference.dtype)
    numbers, count = number_pieces(predicted)
    sizes = np.bincount(numbers.ravel(), minlength=count + 1)
    hits = np.bincount(numbers[predicted == reference].ravel(), minlength=count + 1)
    organ = np.zeros(count + 1, np.int64)
    organ[numbers.ravel()] = predicted.ravel()
    in_reference = np.bincount(reference[is_known].ravel(), minlength=len(names) + 1)  # and of regions, behind
    pieces = {}
    for index, name in enumerate(names, start=1):
        own = np.flatnonzero(organ == index)
        own = own[own > 0]
        pieces[name] = OrganPieces(
            voxel_ml, int(in_reference[index]), tuple(sizes[own].tolist()), tuple(hits[own].tolist())
        )
    return pieces


def write_pieces(folder: Path, cases: Mapping[str, CasePieces], *, plans: Plans) -> None:
    """Write the pieces of a fold's cases into its validation folder, with a digest of the plan that they belong to."""
    content = {case: {name: asdict(own) for name, own in pieces.items()} for case, pieces in cases.items()}
    write_json(folder / PIECES_NAME, {"plan": _plan_digest(plans), "cases": content})


def read_pieces(run_folder: Path, *, plans: Plans) -> list[CasePieces]:
    """Read the pieces of all validated folds of a run; files of another plan or form are left out."""
    found: list[CasePieces] = []
    for path in sorted(run_folder.glob(f"fold_*/validation/{PIECES_NAME}")):
        try:
            content = read_json(path)
            if content["plan"] == _plan_digest(plans):
                found += STORED_PIECES.validate_python(list(content["cases"].values()))
        except (UsageError, KeyError, TypeError, AttributeError, ValueError):
            log.warning("%s is damaged; its cases do not count in the choice of the component filter.", path)
    return found


def _plan_digest(plans: Plans) -> str:
    return hashlib.sha256((plans.data.model_dump_json() + plans.network.model_dump_json()).encode()).hexdigest()


def dice_after(case: CasePieces, rules: Sequence[ComponentFilter]) -> dict[str, float | None]:
    """Return each organ's Dice in a case after filtering; None where the organ does not count."""
    own = {rule.organ: rule for rule in rules}
    return {
        name: pieces.dice(own.get(name, ComponentFilter(organ=name))) if pieces.reference or pieces.sizes else None
        for name, pieces in case.items()
    }


def choose_component_filter(
    cases: Sequence[CasePieces], *, names: Sequence[str], planned: Sequence[ComponentFilter]
) -> tuple[tuple[ComponentFilter, ...], Reason]:
    """Choose for each organ the rule with the highest mean Dice, or none where none raises it; with the figures.

    The `planned` rules are compared too, and stay for organs with too few cases.
    """
    chosen: list[ComponentFilter] = []
    figures: dict[str, Any] = {}
    before = {rule.organ: rule for rule in planned}
    for name in names:
        annotated = [case[name] for case in cases if name in case]
        own = [pieces for pieces in annotated if pieces.reference or pieces.sizes]
        if len(own) < LEAST_CASES:
            chosen += [before[name]] if name in before else []
            figures[name] = {"cases": len(own), "kept": "too few cases"}
            continue
        rules = [ComponentFilter(organ=name, min_fraction=share) for share in SHARES]
        rules += [ComponentFilter(organ=name, min_volume_ml=volume) for volume in VOLUMES_ML]
        rules += [before[name]] if name in before and before[name] not in rules else []
        without = _mean_dice(own, ComponentFilter(organ=name))
        dice = [_mean_dice(own, rule) for rule in rules]
        best = int(np.argmax(dice))  # of equals the first, which removes least
        figures[name] = {
            "cases": len(own),
            "dice_without": round(without, 4),
            "dice_with_the_best": round(dice[best], 4),
        }
        if dice[best] >= without + LEAST_GAIN:
            chosen.append(rules[best])
    rule = (
        "Of removing pieces under some share of the largest one, or under some volume, what gave the highest mean Dice "
        "on cases left out of training; nothing where none of them raised it."
    )
    return tuple(chosen), Reason(rule=rule, facts={"num_cases": len(cases), "organs": figures})


def _mean_dice(cases: Sequence[OrganPieces], rule: ComponentFilter) -> float:
    return float(np.mean([case.dice(rule) for case in cases]))
