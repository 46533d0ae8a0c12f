"""What more organs cost: the same slices asked for 1, 14 and 32 organs; seconds of computing, and calls of the encoder.

    python tests/benchmarks/organs_cost.py -o docs/results/organs_cost.json

The network has new weights: what it finds does not matter for its time. Slices are noise. Times are those of the whole
way from preprocessed slices to probabilities, in seconds that the process computes; the best of some repetitions.
"""

import argparse
import json
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autoseg.inference.sliding_window import predict_slices
from autoseg.network.build import build_network
from autoseg.network.model import AutosegNetwork
from autoseg.network.stored_text import StoredText
from autoseg.plans import Plans

NUM_ORGANS = (1, 14, 32)
SENTENCES = 6


def make_plans(num_organs: int, *, backbone: str, side: int) -> Plans:
    """Make the plan that a CT of `side` x `side` px gets for a GPU, with this backbone."""
    organs = [{"name": f"organ {k}", "value": k + 1, "sentences": ["."] * SENTENCES} for k in range(num_organs)]
    return Plans.model_validate(
        {
            "dataset_name": "noise",
            "device": {"kind": "cpu", "memory_gib": 16},
            "data": {
                "channels": [{"name": "CT", "scheme": "zscore"}],
                "organs": organs,
                "target_spacing_zyx_mm": [3, 1, 1],
                "slice_axis": "z",
            },
            "network": {
                "backbone": backbone,
                "feature_channels": 64 if backbone == "nano" else 256,
                "image_size_px": side,
                "window_rows_px": side,
                "window_columns_px": side,
                "refiner_channels": [32, 64, 128, 256],
            },
            "training": {},
            "inference": {"slices_per_batch": 2},
        }
    )


def build(plans: Plans) -> AutosegNetwork:
    """Build the network with text vectors drawn at random, as a finished model has them stored."""
    torch.manual_seed(0)
    num_organs, channels = len(plans.data.organs), plans.network.feature_channels
    text = StoredText(torch.randn(num_organs, SENTENCES, channels), torch.ones(num_organs, SENTENCES, dtype=torch.bool))
    return build_network(plans, text=text).eval()


def measure(network: AutosegNetwork, image: np.ndarray, *, plans: Plans, num_organs: int) -> tuple[float, int]:
    """Predict all slices once; returns seconds of computing and how many slices the image encoder saw."""
    seen: list[int] = []
    handle = network.image_encoder.register_forward_hook(lambda _module, given, _result: seen.append(len(given[0])))
    start = time.process_time()
    maps = predict_slices([network], image, plans=plans, organs=range(num_organs), device=torch.device("cpu"))
    for one in maps:
        assert one.shape[0] == 1 + num_organs
    seconds = time.process_time() - start
    handle.remove()
    return seconds, sum(seen)


def main() -> None:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plans = make_plans(max(NUM_ORGANS), backbone=arguments.backbone, side=arguments.side)
    network = build(plans)
    shape = (1, arguments.slices, arguments.side, arguments.side)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    results: dict[str, Any] = {}
    for num_organs in NUM_ORGANS:
        runs = [measure(network, image, plans=plans, num_organs=num_organs) for _ in range(arguments.repetitions)]
        seconds = min(time for time, _ in runs) / arguments.slices
        results[str(num_organs)] = {"seconds_a_slice": round(seconds, 3), "encoded_slices": runs[0][1]}
        print(f"{num_organs:>3} organs: {seconds:.3f} s a slice, {runs[0][1]} slices encoded")
    ratio = results["14"]["seconds_a_slice"] / results["1"]["seconds_a_slice"]
    print(f"14 organs cost {ratio:.2f} times what 1 does")
    content = {
        "backbone": arguments.backbone,
        "side_px": arguments.side,
        "slices": arguments.slices,
        "organs": results,
        "ratio_14_to_1": round(ratio, 3),
        "date": date.today().isoformat(),
        "machine": f"one thread, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
