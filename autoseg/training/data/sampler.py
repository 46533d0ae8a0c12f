"""From preprocessed cases to training batches.

Owns: the windows cut from the slices of a step, what their labels mean for the organs asked for, and the making of the
next batch in a thread.
Does not own: how cases are stored (`preprocessing/store.py`), which slices a step sees (`draws.py`), where a
window lies (`crops.py`), random changes (`augmentation.py`), processes that make batches (`loading.py`).

A batch depends on the seed and the step's number alone, so a resumed run sees what the undisturbed one would have.

Legend: B slices in V clips of T, N neighboring slices, C channels, K organs asked for, R x W the window.
"""

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from autoseg.config.plans import Plans
from autoseg.datasets.partial_labels import ask_labels, class_table, region_table
from autoseg.network.context_slices import context_slice_numbers
from autoseg.network.point_prompts import Clicks
from autoseg.training.data.augmentation import augment
from autoseg.training.data.augmentation_draws import Changes, draw_changes
from autoseg.training.data.case_arrays import CaseArrays, Sliced
from autoseg.training.data.crops import cut_slices, draw_range, pad_to, pick_target
from autoseg.training.data.draws import StepDraws
from autoseg.training.data.groups import group_cases
from autoseg.training.data.simulated_clicks import draw_clicks
from autoseg.training.loss.targets import IGNORE, LabelSets


@dataclass(frozen=True)
class Batch:
    """One training step's input.

    Attributes:
        images: (B, C * N, R, W) float32.
        labels: (B, R, W) int64: positions in `sets`, or without them 0 and position among `organs` plus 1; or IGNORE.
        organs: (K,) rows of the network's text: positions in the plan, beyond its organs for further modalities.
        case_ids: Where each slice came from.
        positions: (V, T) numbers of the slices in their cases, in the order of a clip; the clips lie one after the
            other in `images`. None without a memory; (B, 1) where each slice is the first that is visited.
        clicks: On some of the organs, where the network takes them; else None.
        sets: What the labels stand for, where not every one is an organ that was annotated in all slices' cases.
        changes: Random changes that slices and labels still wait for, where the plan has them made on the device.
    """

    images: torch.Tensor
    labels: torch.Tensor
    organs: torch.Tensor
    case_ids: tuple[str, ...]
    positions: torch.Tensor | None = None
    clicks: Clicks | None = None
    sets: LabelSets | None = None
    changes: Changes | None = None


class SliceSampler:
    """Draws batches from the cases of one fold."""

    def __init__(
        self,
        store: CaseArrays,
        case_ids: Sequence[str],
        *,
        plans: Plans,
        cache_bytes: int,
        slices_per_step: int | None = None,
    ) -> None:
        """Open the cases; as many as fit into `cache_bytes` are kept decompressed.

        Args:
            store: The preprocessed cases.
            case_ids: Those to draw from, at least one.
            plans: Window, batch, augmentation, seed.
            cache_bytes: Memory that decompressed cases may take.
            slices_per_step: Of the whole step, whoever works on them; none: the plan's.
        """
        self.plans = plans
        self.case_ids = tuple(case_ids)
        self.cache_bytes = cache_bytes
        self._one_at_a_time = threading.Lock()  # `augment` bears no more
        self._arrays: dict[str, tuple[Sliced, Sliced]] = {}
        self.groups = group_cases(store, self.case_ids, plans=plans)
        self._regions = region_table(plans.data)
        annotated = {case_id: store.source(case_id).annotated for case_id in self.case_ids}
        tables = {indices: class_table(plans.data, indices) for indices in set(annotated.values())}
        self._tables = {case_id: tables[indices] for case_id, indices in annotated.items()}
        self._is_plain = not plans.data.regions and set(annotated.values()) <= {None}
        left = cache_bytes
        for case_id in self.case_ids:
            image, labels = store.open_image(case_id), store.open_labels(case_id)
            size = 4 * int(np.prod(image.shape)) + 2 * int(np.prod(labels.shape))
            if size <= left:
                image, labels = image[:], labels[:]
                left -= size
            self._arrays[case_id] = (image, labels)
        self.draws = StepDraws(
            self.groups,
            num_slices={case_id: labels.shape[0] for case_id, (_, labels) in self._arrays.items()},
            slices_per_step=slices_per_step or plans.slices_per_step,
            plans=plans,
        )

    def batches(self, *, first_step: int, part: slice | None = None) -> Iterator[Batch]:
        """Yield batches, or a part of each, without end; one is made ahead in a thread while the network works."""
        with ThreadPoolExecutor(max_workers=1) as executor:
            step = first_step
            ahead = executor.submit(self.make_batch, step, part=part)
            while True:
                batch = ahead.result()
                step += 1
                ahead = executor.submit(self.make_batch, step, part=part)
                yield batch

    def largest_batch(self, part: slice | None = None) -> tuple[int, int]:
        """Return the most values that images and labels of a batch, or of a part of each, have."""
        num_slices = len(range(self.draws.slices_per_step)[part or slice(None)])
        num_pixels = num_slices * max(rows * columns for rows, columns in (group.window_px for group in self.groups))
        return num_pixels * self._channels_a_slice(), num_pixels

    def make_batch(self, step: int, *, part: slice | None = None, image_memory: np.ndarray | None = None) -> Batch:
        """Make the batch of one step, or a part of whole clips of it; each clip has random numbers of its own.

        Args:
            step: From 0.
            part: Of the batch's slices; none: all.
            image_memory: float32 values, in the first of which the images are made; none: in new memory.
        """
        training, memory_clip_slices = self.plans.training, self.plans.clip_slices_of(step)
        waits = training.augmentation.run_on == "device"
        group = self.draws.group_of(step)
        numbers = self.draws.numbers(step, part)
        labels = np.empty((len(numbers) * memory_clip_slices, *group.window_px), np.int64)  # (B, R, W)
        images = _place((len(labels), self._channels_a_slice(), *group.window_px), image_memory)  # (B, N * C, R, W)
        case_ids, positions, changes = [], [], []
        for place, number in enumerate(numbers):
            case_id, clip, rng = self.draws.place(step, number, group=group)  # clip: (T,)
            image, label = self._cut_window(
                case_id, clip, shape=group.window_px, rng=rng
            )  # (T * N, C, R, W), (T, R, W)
            if waits:
                changes.append(draw_changes(training.augmentation, num_channels=image.shape[1], rng=rng))
            else:
                with self._one_at_a_time:
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
            clicks=self._draw_clicks(asked, num_organs=len(organs), step=step, numbers=numbers),
            sets=sets,
            changes=Changes(tuple(changes), len(self.plans.data.channels)) if waits else None,
        )

    def _channels_a_slice(self) -> int:
        return len(self.plans.data.channels) * (2 * self.plans.network.context_slices + 1)

    def _ask(
        self, labels: np.ndarray, organs: np.ndarray, case_ids: Sequence[str]
    ) -> tuple[np.ndarray, LabelSets | None]:
        """Say what the labels mean for the organs asked for."""
        if self._is_plain:
            return relabel(labels, organs), None
        tables = [self._tables[case_id] for case_id in case_ids]
        asked = ask_labels(labels, tables=tables, regions=self._regions, organs=organs)
        return asked.labels, LabelSets(torch.from_numpy(asked.classes), torch.from_numpy(asked.regions))

    def _draw_clicks(self, labels: np.ndarray, *, num_organs: int, step: int, numbers: Sequence[int]) -> Clicks | None:
        """Draw the clicks of clips, each with random numbers of its own."""
        training = self.plans.training
        if not self.plans.network.point_prompts:
            return None
        drawn = [
            draw_clicks(
                own,
                num_organs=num_organs,
                share=training.point_prompt_fraction,
                rng=np.random.default_rng([training.seed, step, number, 1]),
            )
            for own, number in zip(np.split(labels, len(numbers)), numbers, strict=True)
        ]
        places, kinds = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*drawn, strict=True))
        return Clicks(places, kinds)

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
        numbers = context_slice_numbers(
            clip, num_slices=image.shape[1], reach=self.plans.network.context_slices
        )  # (T, N)
        neighbors = cut_slices(image, numbers.ravel(), rows=rows, columns=columns)
        label = np.stack([plane[rows, columns] for plane in planes]).astype(np.int64)
        label[label == np.iinfo(middle.dtype).max] = IGNORE
        return pad_to(neighbors, shape, value=0.0), pad_to(label, shape, value=0)


def _place(shape: tuple[int, ...], memory: np.ndarray | None) -> np.ndarray:
    """Return an array of float32, in the first values of a memory where there is one."""
    return np.empty(shape, np.float32) if memory is None else memory[: math.prod(shape)].reshape(shape)


def relabel(labels: np.ndarray, organs: np.ndarray) -> np.ndarray:
    """Turn organ indices into positions among the organs asked for; the others become background, IGNORE stays."""
    table = np.zeros(max(int(labels.max()), int(organs.max()) + 1) + 2, dtype=np.int64)
    table[organs + 1] = np.arange(1, len(organs) + 1)
    table[IGNORE] = IGNORE  # the last entry, which -1 indexes
    return table[labels]
