"""Makes training batches from preprocessed cases.

Owns: `SliceSampler`: the windows cut from the slices of a step, and what their labels mean for the requested organs.
Does not own: the store (`preprocessing/store.py`), which slices a step sees (`draws.py`), where a window lies
(`crops.py`), augmentation (`augmentation.py`), worker processes (`loader.py`).

Legend: B slices in V clips of T, N neighboring slices, C channels, K requested organs, R x W the window.
"""

from collections.abc import Sequence

import numpy as np
import torch

from autoseg.config.plans import Plans
from autoseg.datasets.partial_labels import ask_labels, class_table, region_table
from autoseg.network.context_slices import context_slice_numbers
from autoseg.network.point_prompts import PointPrompts
from autoseg.preprocessing.array_file import StoredArray
from autoseg.preprocessing.store import CaseStore
from autoseg.training.data.augmentation import augment
from autoseg.training.data.augmentation_draws import Changes, draw_changes
from autoseg.training.data.batch import Batch
from autoseg.training.data.crops import cut_slices, draw_range, pad_to, pick_target
from autoseg.training.data.draws import StepDraws
from autoseg.training.data.groups import group_cases
from autoseg.training.data.simulated_prompts import draw_point_prompts
from autoseg.training.loss.targets import IGNORE, LabelSets


class SliceSampler:
    """Draws batches from the cases of one fold; a batch depends on the seed and the step's number alone."""

    def __init__(
        self,
        store: CaseStore,
        case_ids: Sequence[str],
        *,
        plans: Plans,
        cache_bytes: int,
        slices_per_step: int | None = None,
    ) -> None:
        """Open the cases; as many as fit into `cache_bytes` are kept decompressed.

        `slices_per_step` is the number over all ranks; None: the plan's, for one rank.
        """
        self.plans = plans
        self._arrays: dict[str, tuple[StoredArray | np.ndarray, StoredArray | np.ndarray]] = {}
        self._regions = region_table(plans.data)
        annotated = {case_id: store.source(case_id).annotated for case_id in case_ids}
        tables = {indices: class_table(plans.data, indices) for indices in set(annotated.values())}
        self._tables = {case_id: tables[indices] for case_id, indices in annotated.items()}
        self._is_plain = not plans.data.regions and set(annotated.values()) <= {None}
        left = cache_bytes
        for case_id in case_ids:
            image, labels = store.open_image(case_id), store.open_labels(case_id)
            size = 4 * int(np.prod(image.shape)) + 2 * int(np.prod(labels.shape))
            is_kept = size <= left
            left -= size if is_kept else 0
            self._arrays[case_id] = (image[:], labels[:]) if is_kept else (image, labels)
        self.draws = StepDraws(
            group_cases(store, case_ids, plans=plans),
            num_slices={case_id: labels.shape[0] for case_id, (_, labels) in self._arrays.items()},
            slices_per_step=slices_per_step or plans.slices_per_step,
            plans=plans,
        )

    def make_batch(self, step: int, *, part: slice | None = None) -> Batch:
        """Make the batch of one step, counted from 0, or the `part` of whole clips with these slice numbers."""
        training, memory_clip_slices = self.plans.training, self.plans.clip_slices_of(step)
        waits = training.augmentation.run_on == "device"
        group = self.draws.group_of(step)
        numbers = self.draws.numbers(step, part)
        labels = np.empty((len(numbers) * memory_clip_slices, *group.window_px), np.int64)  # (B, R, W)
        channels = len(self.plans.data.channels) * (2 * self.plans.network.context_slices + 1)  # N * C
        images = np.empty((len(labels), channels, *group.window_px), np.float32)  # (B, N * C, R, W)
        case_ids, positions, changes = [], [], []
        for place, number in enumerate(numbers):
            case_id, clip, rng = self.draws.place(step, number, group=group)  # clip: (T,)
            # (T * N, C, R, W), (T, R, W)
            image, label = self._cut_window(case_id, clip, shape=group.window_px, rng=rng)
            if waits:
                changes.append(draw_changes(training.augmentation, num_channels=image.shape[1], rng=rng))
            else:
                image, label = augment(image, label, plan=training.augmentation, rng=rng)
            own = slice(place * memory_clip_slices, (place + 1) * memory_clip_slices)
            images[own].reshape(image.shape)[:] = image  # (T, N * C, R, W) seen as (T * N, C, R, W)
            labels[own] = label
            case_ids += [case_id] * memory_clip_slices
            positions.append(clip)
        organs = self.draws.organs_of(step)
        asked, sets = self._ask(labels, organs, case_ids)
        return Batch(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(asked),
            organs=torch.from_numpy(organs + self.plans.data.text_row(0, group.modality)),
            case_ids=tuple(case_ids),
            positions=torch.from_numpy(np.stack(positions)) if self.plans.network.memory_slices else None,
            point_prompts=self._draw_point_prompts(asked, num_organs=len(organs), step=step, numbers=numbers),
            sets=sets,
            changes=Changes(tuple(changes), len(self.plans.data.channels)) if waits else None,
        )

    def _ask(
        self, labels: np.ndarray, organs: np.ndarray, case_ids: Sequence[str]
    ) -> tuple[np.ndarray, LabelSets | None]:
        """Translate the labels for the requested organs."""
        if self._is_plain:
            return relabel(labels, organs), None
        tables = [self._tables[case_id] for case_id in case_ids]
        asked = ask_labels(labels, tables=tables, regions=self._regions, organs=organs)
        return asked.labels, LabelSets(torch.from_numpy(asked.classes), torch.from_numpy(asked.regions))

    def _draw_point_prompts(
        self, labels: np.ndarray, *, num_organs: int, step: int, numbers: Sequence[int]
    ) -> PointPrompts | None:
        """Draw the points of clips, each with random numbers of its own."""
        training = self.plans.training
        if not self.plans.network.point_prompts:
            return None
        drawn = [
            draw_point_prompts(
                own,
                num_organs=num_organs,
                share=training.point_prompt_fraction,
                rng=np.random.default_rng([training.seed, step, number, 1]),
            )
            for own, number in zip(np.split(labels, len(numbers)), numbers, strict=True)
        ]
        places, kinds = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*drawn, strict=True))
        return PointPrompts(places, kinds)

    def _cut_window(
        self, case_id: str, clip: np.ndarray, *, shape: tuple[int, int], rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cut one window out of all slices of a clip and their neighbors, placed by the clip's middle slice."""
        image, labels = self._arrays[case_id]
        planes = [np.asarray(labels[number]) for number in clip]
        middle = planes[len(clip) // 2]
        rows, columns = (
            draw_range(size, window, pick_target(middle, axis, rng), rng)
            for axis, (size, window) in enumerate(zip(middle.shape, shape, strict=True))
        )
        reach = self.plans.network.context_slices
        numbers = context_slice_numbers(clip, num_slices=image.shape[1], reach=reach)  # (T, N)
        neighbors = cut_slices(image, numbers.ravel(), rows=rows, columns=columns)
        label = np.stack([plane[rows, columns] for plane in planes]).astype(np.int64)
        label[label == np.iinfo(middle.dtype).max] = IGNORE
        return pad_to(neighbors, shape, value=0.0), pad_to(label, shape, value=0)


def relabel(labels: np.ndarray, organs: np.ndarray) -> np.ndarray:
    """Turn organ indices into positions among the requested organs; the others become background, IGNORE stays."""
    table = np.zeros(max(int(labels.max()), int(organs.max()) + 1) + 2, dtype=np.int64)
    table[organs + 1] = np.arange(1, len(organs) + 1)
    table[IGNORE] = IGNORE  # the last entry, which -1 indexes
    return table[labels]
