"""What each part of the network adds: the full one against one without the part, equal time, several seeds.

    python tests/benchmarks/ablation.py RUN REFERENCES --left-out 20 --seconds 240 -o docs/results/ablation

RUN is planned from training cases; some of them are left out of training here, and measured on. Each training has one
core to itself, and as many run side by side as there are cores. `OUTPUT.jsonl` gets a line as each ends, and runs that
it holds already are not repeated; `OUTPUT.md` is the table: mean Dice over the seeds, and the difference to the full
network, seed by seed, with its 95 % interval (Student's t). `--only` takes some of the networks; others that the output
holds stay in the table.
"""

import argparse
import json
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats

FULL = "full"
VARIANTS: dict[str, tuple[str, ...]] = {
    FULL: ("memory",),
    "no text: a learned vector an organ": ("memory", "no_text"),
    "no injection into the image encoder": ("memory", "no_text_injection"),
    "no memory": (),
    "memory first in, first out": ("fifo_memory",),
    "no semantic-aware decoder": ("memory", "no_semantic_decoder"),
    "no alignment loss": ("memory", "no_alignment"),
    "no refiner": ("memory", "no_refiner"),
    "no interaction of text and image": ("memory", "no_interaction"),
    "the interaction with CLIP's tokens": ("memory", "clip_tokens"),
    "one prompt token": ("memory", "one_prompt_token"),
    "no loss of the semantic-aware decoder's own": ("memory", "no_semantic_loss"),
    "no loss of SAM's masks": ("memory", "no_mask_loss"),
    "no deep supervision": ("memory", "no_deep_supervision"),
    "no loss of quality": ("memory", "no_quality_loss"),
    "no loss of presence": ("memory", "no_presence_loss"),
    "memory, the most similar slice next": ("similar_next_memory",),
    "memory without gradients": ("no_memory_gradients",),
    "refiner on blocks of pixels": ("memory", "refiner_on_blocks"),
    "one neighbor": ("memory", "one_neighbor"),
    "four neighbors": ("memory", "more_neighbors"),
    "AdamW for the refiner": ("memory", "adamw"),
    "no averaging of weights": ("memory", "no_averaging"),
    "no draw by organ": ("memory", "no_organ_draw"),
    "no augmentation": ("memory", "no_augmentation"),
    "no mirroring": ("memory", "no_mirroring"),
    "no mirroring in prediction": ("memory", "no_mirrored_prediction"),
    "specks stay": ("memory", "no_cleaning"),
}
Job = tuple[str, int]  # variant and seed


def read_results(path: Path) -> dict[Job, float]:
    """Read the Dice of every run that is done."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    names = {overlays: name for name, overlays in VARIANTS.items()}
    done: dict[Job, float] = {}
    for record in records:
        [seed] = [int(word.split("=")[1]) for word in record["settings"] if word.startswith("training.seed=")]
        done[names[tuple(record["overlays"])], seed] = record["mean_dice"]
    return done


def run(job: Job, cores: "queue.Queue[int]", *, arguments: argparse.Namespace, output: Path) -> None:
    """Train and measure one variant with one seed, on a core that is free."""
    variant, seed = job
    core = cores.get()
    try:
        overlays = VARIANTS[variant]
        command = [sys.executable, str(Path(__file__).with_name("compare_settings.py"))]
        command += [str(arguments.run), str(arguments.references), "--left-out", str(arguments.left_out)]
        command += ["--seconds", str(arguments.seconds), "-o", str(output)]
        command += [*(["--overlay", *overlays] if overlays else []), "--set", f"training.seed={seed}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(["taskset", "-c", str(core), *command], check=True, env=environment)
    finally:
        cores.put(core)


def make_table(results: dict[Job, float], seeds: Sequence[int]) -> str:
    """Lay the results out; a variant of which a seed is missing is left out."""
    lines = ["| network | mean Dice | without it, against the full one | 95 % interval |", "|---|---|---|---|"]
    whole = [name for name in VARIANTS if all((name, seed) in results for seed in seeds)]
    for name in whole:
        dice = np.array([results[name, seed] for seed in seeds])
        row = f"| {name} | {dice.mean():.4f} |"
        if name == FULL or FULL not in whole:
            lines.append(row + " | |")
            continue
        difference = dice - np.array([results[FULL, seed] for seed in seeds])
        margin = stats.t.ppf(0.975, len(seeds) - 1) * difference.std(ddof=1) / len(seeds) ** 0.5
        mean = difference.mean()
        lines.append(row + f" {mean:+.4f} | {mean - margin:+.4f} to {mean + margin:+.4f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("references", type=Path)
    parser.add_argument("--left-out", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("-o", "--output", type=Path, required=True, help="without an ending")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NETWORK")
    arguments = parser.parse_args()
    output = arguments.output.with_suffix(".jsonl")
    done = read_results(output)
    jobs = [(name, seed) for seed in arguments.seeds for name in arguments.only if (name, seed) not in done]
    cores: queue.Queue[int] = queue.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    with ThreadPoolExecutor(max_workers=cores.qsize()) as pool:
        for future in [pool.submit(run, job, cores, arguments=arguments, output=output) for job in jobs]:
            future.result()
    table = make_table(read_results(output), arguments.seeds)
    arguments.output.with_suffix(".md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
