"""autoseg against MONAI's BasicUNet: same cases, same minutes, same machine; Dice on cases that neither has seen.

    python tests/benchmarks/train_vs_monai.py DATASET --held-out 40 --minutes 10 --seeds 0 1 2 -o hippocampus.json

Needs an environment with autoseg and monai (`pip install monai`). autoseg goes through its three commands; the peer
gets autoseg's own preprocessing, batches, augmentation, optimizers, schedule, averaging, precision, mirroring and
removal of specks, so that the networks and their losses are all that differs. Both train on all cores with a process
each (the peer by torch's DistributedDataParallel) on a part of each batch. Cases are held out by a seeded draw before
anything else, the same for every training. The output is written after each training; what it holds is not done again.
"""

import copy
import itertools
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import make_parser
from torch import nn

from autoseg.config.plans import Plans, read_plans
from autoseg.datasets.dataset import read_dataset
from autoseg.evaluation import Evaluation, evaluate
from autoseg.inference.connected_components import clean_labels
from autoseg.inference.sliding_window import predict_slices
from autoseg.io.image import read_scan, write_label_map
from autoseg.network.output import NetworkOutput
from autoseg.pipelines.train import MIN_SLICES_PER_RANK
from autoseg.preprocessing.inverse import undo_preprocessing
from autoseg.preprocessing.pipeline import preprocess_case
from autoseg.preprocessing.store import CaseStore
from autoseg.system.atomic_files import write_json
from autoseg.system.torch_device import convolution_precision
from autoseg.training.context import shard_of_step
from autoseg.training.data.loader import make_loader
from autoseg.training.data.sampler import SliceSampler
from autoseg.training.loss.cross_entropy import cross_entropy_sums, mean_of
from autoseg.training.loss.dice import dice_loss, dice_sums
from autoseg.training.loss.targets import make_target
from autoseg.training.optim.learning_rate import learning_rate, set_learning_rate
from autoseg.training.optim.optimizers import build_optimizers
from autoseg.training.state import update_average

FEATURES = (16, 32, 64, 128, 256, 16)  # a BasicUNet of 1.9 M parameters, the width that fits a CPU
BIN = Path(sys.executable).parent


class BasicUNetPeer(nn.Module):
    """MONAI's BasicUNet behind the same call as autoseg's network; it has no use for the organs' names.

    It stands where the refiner stands, so that the plan's optimizer for the refiner's kernels moves its own.
    """

    def __init__(self, num_channels: int, num_organs: int) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet

        self.refiner = BasicUNet(
            spatial_dims=2, in_channels=num_channels, out_channels=1 + num_organs, features=FEATURES
        )

    def forward(self, images: torch.Tensor, organs: torch.Tensor, **_rest: object) -> NetworkOutput:
        """Return the map; the outputs that the U-Net does not have stay empty."""
        return NetworkOutput(self.refiner(images))


def build_peer(plans: Plans) -> BasicUNetPeer:
    """Build the peer for as many channels as autoseg's refiner sees."""
    return BasicUNetPeer((2 * plans.network.context_slices + 1) * len(plans.data.channels), len(plans.data.organs))


def parts_of_step(plans: Plans, num_processes: int) -> list[slice]:
    """Divide the slices of a step among the processes as autoseg does."""
    count = max(1, min(num_processes, plans.slices_per_step // MIN_SLICES_PER_RANK))
    return [
        shard_of_step(plans, slices_per_step=plans.slices_per_step, rank=rank, world_size=count)
        for rank in range(count)
    ]


def peer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return autoseg's Dice and cross-entropy of the map, (B, 1 + K, R, W), for a dataset with all organs annotated."""
    target = make_target(labels, num_organs=logits.shape[1] - 1)
    shares, is_known = target.of_items()
    dice = dice_sums(logits.softmax(dim=1)[:, 1:], shares, is_known, target.counts(len(logits)))
    return dice_loss(dice) + mean_of(cross_entropy_sums(logits, target))


def train_peer(run: Path, plans: Plans, *, minutes: float) -> tuple[nn.Module, int]:
    """Train the peer for some minutes on the run's preprocessed cases, with a process a core."""
    num_processes = len(parts_of_step(plans, torch.get_num_threads()))
    with tempfile.TemporaryDirectory() as name:
        torch.multiprocessing.spawn(
            train_peer_rank, args=(num_processes, run, minutes, Path(name)), nprocs=num_processes
        )
        network = build_peer(plans).requires_grad_(False).eval()
        network.load_state_dict(torch.load(Path(name) / "averaged.pt", weights_only=True))
        return network, int((Path(name) / "steps").read_text())


def train_peer_rank(rank: int, num_processes: int, run: Path, minutes: float, folder: Path) -> None:
    """Train on this process's part of each batch; the first process decides when the time is over, and saves."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_processes
    )
    plans = read_plans(run / "plans.json")
    torch.manual_seed(plans.training.seed)
    network = build_peer(plans)
    averaged = copy.deepcopy(network).requires_grad_(False).eval()
    optimizers = build_optimizers(network, plans=plans)
    parallel = nn.parallel.DistributedDataParallel(network)
    store = CaseStore(run / "preprocessed", data_hash=plans.data.hash())
    sampler = SliceSampler(store, store.case_ids(), plans=plans, cache_bytes=4 * 1024**3)
    part = parts_of_step(plans, num_processes)[rank]
    torch.distributed.barrier()
    start, step = time.monotonic(), 0
    for batch in make_loader(sampler, first_step=0, part=part, device=torch.device("cpu")):
        progress = torch.tensor([(time.monotonic() - start) / (60 * minutes)])
        torch.distributed.broadcast(progress, src=0)
        if progress.item() >= 1:
            break
        rate = learning_rate(plans.training, progress=progress.item())
        set_learning_rate(optimizers, rate, progress=progress.item())
        with convolution_precision(torch.device("cpu")):
            logits = parallel(batch.images, batch.organs).logits
        peer_loss(logits.float(), batch.labels).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), plans.training.gradient_clip_norm)
        for optimizer in optimizers:
            optimizer.step()
        network.zero_grad(set_to_none=True)
        update_average(averaged, network, decay=plans.training.ema_decay, step=step)
        step += 1
    if rank == 0:
        torch.save(averaged.state_dict(), folder / "averaged.pt")
        (folder / "steps").write_text(str(step))
    torch.distributed.destroy_process_group()


def predict_peer(network: nn.Module, plans: Plans, images: Path, output: Path) -> None:
    """Write the peer's label maps through autoseg's own preprocessing, window and export."""
    names = {organ.value: organ.name for organ in plans.data.organs}
    values = list(names)
    for first in sorted(images.glob("*_0000.nii.gz")):
        case = first.name.removesuffix("_0000.nii.gz")
        scans = [read_scan(path) for path in sorted(images.glob(f"{case}_0*.nii.gz"))]
        prepared = preprocess_case(scans, plan=plans.data)
        maps = predict_slices(
            [network], prepared.image, plans=plans, organs=range(len(values)), device=torch.device("cpu")
        )
        labels = undo_preprocessing(maps, transform=prepared.transform, organ_values=values)
        clean_labels(labels, plans=plans, geometry=prepared.transform.original)
        write_label_map(output / f"{case}.nii.gz", labels, geometry=scans[0].geometry, names=names)


def hold_out(dataset: Path, folder: Path, *, count: int, seed: int) -> tuple[Path, Path, Path]:
    """Copy the training cases to one dataset, the held-out images and labels to two folders."""
    cases = sorted(read_dataset(dataset).cases, key=lambda case: case.case_id)
    order = np.random.default_rng(seed).permutation(len(cases))
    held = {cases[i].case_id for i in order[:count]}
    training, images, labels = folder / "dataset", folder / "images", folder / "labels"
    for case in cases:
        is_held = case.case_id in held
        image_folder = images if is_held else training / "imagesTr"
        label_folder = labels if is_held else training / "labelsTr"
        for target in (image_folder, label_folder):
            target.mkdir(parents=True, exist_ok=True)
        for path in case.image_paths:
            shutil.copy(path, image_folder)
        assert case.label_path is not None
        shutil.copy(case.label_path, label_folder)
    content = json.loads((dataset / "dataset.json").read_text())
    content["numTraining"] = len(cases) - count
    (training / "dataset.json").write_text(json.dumps(content))
    shutil.copy(dataset / "dataset.json", labels / "dataset.json")
    return training, images, labels


def plan_run(training: Path, run: Path, *, settings: list[str]) -> None:
    """Plan as a user does."""
    words = [BIN / "autoseg_plan", training, "-o", run, "--device", "cpu"]
    subprocess.run([*words, *(word for setting in settings for word in ("--set", setting))], check=True)


def run_autoseg(run: Path, images: Path, output: Path, *, minutes: float) -> int:
    """Train and predict as a user does; returns the steps."""
    subprocess.run([BIN / "autoseg_train", run, "--max-minutes", str(minutes), "--device", "cpu"], check=True)
    subprocess.run([BIN / "autoseg_predict", "-m", run, "-i", images, "-o", output, "--device", "cpu"], check=True)
    steps: int = json.loads((run / "fold_all" / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    return steps


def run_peer(run: Path, images: Path, output: Path, *, minutes: float) -> int:
    """Train and predict with the peer; returns the steps."""
    plans = read_plans(run / "plans.json")
    network, steps = train_peer(run, plans, minutes=minutes)
    predict_peer(network, plans, images, output)
    return steps


NETWORKS: dict[str, Callable[..., int]] = {"autoseg": run_autoseg, "BasicUNet": run_peer}


def summarize(evaluation: Evaluation) -> dict[str, object]:
    """Keep what the table in the docs shows."""
    content = evaluation.to_json()
    return {"mean_dice": evaluation.mean_dice, "organs": content["organs"]}


def summarize_all(results: list[dict[str, Any]]) -> str:
    """Lay out mean and deviation over the training seeds."""
    groups: dict[tuple[float, str], list[float]] = {}
    for result in results:
        groups.setdefault((result["minutes"], result["network"]), []).append(result["mean_dice"])
    lines = []
    for (minutes, network), dice in sorted(groups.items()):
        deviation = f" +- {np.std(dice, ddof=1):.4f}" if len(dice) > 1 else ""
        lines.append(f"{network:<16} {minutes:g} min  mean Dice {np.mean(dice):.4f}{deviation}, {len(dice)} seeds")
    return "\n".join(lines)


def main() -> None:
    """Run both for each number of minutes and each seed, and write one JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--minutes", type=float, nargs="+", default=[5, 10])
    parser.add_argument("--seed", type=int, default=2026, help="of the draw of held-out cases")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    parser.add_argument("--only", choices=list(NETWORKS), help="run one of the two")
    parser.add_argument("--set", nargs="+", default=[], dest="settings", help="plan settings for both")
    arguments = parser.parse_args()
    content: dict[str, Any] = {
        "dataset": arguments.dataset.name,
        "held_out": arguments.held_out,
        "seed": arguments.seed,
        "settings": arguments.settings,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "results": [],
    }
    if arguments.output.exists():
        earlier = json.loads(arguments.output.read_text())
        if {**earlier, "results": []} != content:
            parser.error(f"{arguments.output} holds results of something else; give another name")
        content = earlier
    results: list[dict[str, Any]] = content["results"]
    done = {(result["network"], result["minutes"], result["training_seed"]) for result in results}
    names = [arguments.only] if arguments.only else list(NETWORKS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training, images, labels = hold_out(arguments.dataset, folder, count=arguments.held_out, seed=arguments.seed)
        for seed, minutes, who in itertools.product(arguments.seeds, arguments.minutes, names):
            if (who, minutes, seed) in done:
                continue
            run, output = (folder / f"{what}_{who}_{minutes:g}_{seed}" for what in ("run", "maps"))
            plan_run(training, run, settings=[f"training.seed={seed}", *arguments.settings])
            steps = NETWORKS[who](run, images, output, minutes=minutes)
            scored = summarize(evaluate(output, labels))
            facts = {"network": who, "minutes": minutes, "training_seed": seed, "steps": steps}
            results.append({**facts, "date": date.today().isoformat(), **scored})
            write_json(arguments.output, content)
            print(summarize_all(results), flush=True)


if __name__ == "__main__":
    main()
