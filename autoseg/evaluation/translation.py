"""Translates predictions of a model whose label values or names differ from those of the reference.

Owns: `to_reference_values`, and which predicted value corresponds to which value of the reference.
Does not own: when two names mean one organ (`organs/relations.py`), reading files (`folders.py`, `label_names.py`).

A model of several datasets has values of its own, and may call "lien" what another dataset calls "spleen". The mapping
of its plan counts (`labels.json` next to the predictions); without one for this dataset, names are compared.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from autoseg.evaluation.label_names import DatasetLabels, PlanNames
from autoseg.organs.relations import FinerNames, organ_key

Translation = dict[int, tuple[int, ...]]  # predicted value to the reference's values that it may be; (): background


def to_reference_values(
    prediction_zyx: np.ndarray,
    reference_zyx: np.ndarray,
    *,
    names: Mapping[int, str],
    labels: DatasetLabels,
    plan: PlanNames,
) -> tuple[np.ndarray, str | None]:
    """Replace the values of a prediction by those of the reference, where they differ.

    Args:
        prediction_zyx: The predicted label map.
        reference_zyx: The reference, of the same shape.
        names: The names by value in the prediction.
        labels: The labels of the reference.
        plan: The names in the plan of the model.

    Returns:
        The prediction, and a warning about names or None.
    """
    known = labels.all_names
    found = find_translation(names, known, plan=plan, dataset=labels.dataset)
    if not any(found.values()):
        text = "None of the names that the predictions carry is among the labels; compared by their values."
        return prediction_zyx, text if names else None
    if all(values == (value,) or (not values and value not in known) for value, values in found.items()):
        return prediction_zyx, None
    others = ", ".join(names[value] for value, values in found.items() if not values)
    text = f"Organs of the predictions that the reference does not name count as background: {others:.300}."
    translated = translate(prediction_zyx, reference_zyx, translation=found)
    return translated, text if others else None


def find_translation(
    predicted: Mapping[int, str], reference: Mapping[int, str], *, plan: PlanNames, dataset: str | None
) -> Translation:
    """Find the values of the reference that each predicted value may have; () if there is none.

    Args:
        predicted: The names by value in the prediction.
        reference: The names by value of all labels of the reference.
        plan: The names in the plan of the model.
        dataset: The folder name of the reference's dataset, or None.
    """
    meant = _find_dataset(plan, reference, dataset=dataset)
    return _by_name(predicted, reference) if meant is None else _by_plan(predicted, reference, meant, plan=plan)


def translate(prediction_zyx: np.ndarray, reference_zyx: np.ndarray, *, translation: Translation) -> np.ndarray:
    """Replace the values of a prediction by those of the reference.

    If several values are possible, a voxel gets the one that the reference has there, or else the first. Values without
    a translation become background.
    """
    largest = max([*translation, *(value for values in translation.values() for value in values), 0])
    table = np.zeros(largest + 2, np.int64)  # the last entry stands for every larger value
    for value, values in translation.items():
        table[value] = values[0] if values else 0
    limit = min(largest + 1, np.iinfo(prediction_zyx.dtype).max)  # NumPy 2.0 refuses limits that the type cannot hold
    translated: np.ndarray = table[np.clip(prediction_zyx, 0, limit)]
    for value, values in translation.items():
        if len(values) > 1:
            is_there = (prediction_zyx == value) & np.isin(reference_zyx, values)
            translated[is_there] = reference_zyx[is_there]
    return translated.astype(np.uint8 if translated.max(initial=0) <= 255 else np.uint16)


def _find_dataset(
    plan: PlanNames, reference: Mapping[int, str], *, dataset: str | None
) -> Mapping[str, str | None] | None:
    """Return the mapping of the reference's dataset: that of the only one with these labels, or by its name."""
    names = set(reference.values())
    alike = {name: meant for name, meant in plan.datasets.items() if set(meant) == names}
    if len(alike) > 1 and any(meant != next(iter(alike.values())) for meant in alike.values()):
        return alike.get(dataset or "")
    return next(iter(alike.values()), None)


def _by_plan(
    predicted: Mapping[int, str],
    reference: Mapping[int, str],
    meant: Mapping[str, str | None],
    *,
    plan: PlanNames,
) -> Translation:
    values_of: dict[str, list[int]] = {}
    for value, label in reference.items():
        means = meant[label]
        for organ in plan.regions.get(means, (means,)) if means is not None else ():
            values_of.setdefault(organ, []).append(value)
    return {value: tuple(values_of.get(name, ())) for value, name in predicted.items()}


def _by_name(predicted: Mapping[int, str], reference: Mapping[int, str]) -> Translation:
    """Match names that are equal, then those of one organ, then sides and lesions of a label of the reference."""
    exact = {name.casefold(): value for value, name in reference.items()}
    keys = {value: organ_key(name) for value, name in reference.items()}
    counts = Counter(keys.values())
    meaning = {key: value for value, key in keys.items() if key is not None and counts[key] == 1}
    found: Translation = {}
    for value, name in predicted.items():
        same = exact.get(name.casefold(), meaning.get(organ_key(name) or ()))
        same = value if reference.get(value, "").casefold() == name.casefold() else same
        found[value] = () if same is None else (same,)
    left = {name: value for value, name in predicted.items() if not found[value]}
    known = {value for values in found.values() for value in values}
    finer = FinerNames(left)
    for value, name in reference.items():
        halves = () if value in known else finer.halves_of(name)
        for one in (*halves, *finer.lesions_of(name)):
            found[left[one]] += (value,)
    return found
