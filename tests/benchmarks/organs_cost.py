"""What more organs cost: the same slices asked for 1 to 32 organs; seconds of computing, and of those the encoder's.

    python tests/benchmarks/organs_cost.py -o docs/results/organs_cost.json

The network has new weights: what it finds does not matter for its time. Slices are noise. Times are those of the whole
way from preprocessed slices to probabilities, a slice, in seconds that the process computes; the best of some
repetitions. What an organ more costs is the slope of a line through them.
"""

import time
from datetime import date
from typing import Any

import numpy as np
import torch
from command_line import make_parser
from noise_plans import build_with_noise_text, make_noise_plans

from autoseg.config.plans import Plans
from autoseg.inference.sliding_window import predict_slices
from autoseg.network.model import AutosegNetwork
from autoseg.system.atomic_files import write_json

NUM_ORGANS = (1, 2, 4, 8, 14, 20, 26, 32)


def make_plans(num_organs: int, *, backbone: str, side: int) -> Plans:
    """Make the plan that a CT of `side` x `side` px gets for a GPU, with this backbone."""
    network = {
        "backbone": backbone,
        "feature_channels": 64 if backbone == "nano" else 256,
        "image_size_px": side,
        "window_rows_px": side,
        "window_columns_px": side,
        "refiner_channels": [32, 64, 128, 256],
    }
    return make_noise_plans(num_organs, network=network, inference={"slices_per_batch": 2})


def measure(network: AutosegNetwork, image: np.ndarray, *, plans: Plans, num_organs: int) -> tuple[float, float, int]:
    """Predict all slices once; returns seconds of computing, those inside the image encoder, and slices that it saw."""
    seen: list[int] = []
    inside: list[float] = []
    handles = [
        network.image_encoder.register_forward_pre_hook(lambda *_given: inside.append(-time.process_time())),
        network.image_encoder.register_forward_hook(lambda *_given: inside.append(time.process_time())),
        network.image_encoder.register_forward_hook(lambda _module, given, _result: seen.append(len(given[0]))),
    ]
    start = time.process_time()
    maps = predict_slices([network], image, plans=plans, organs=range(num_organs), device=torch.device("cpu"))
    for one in maps:
        assert one.shape[1] == 1 + num_organs
    seconds = time.process_time() - start
    for handle in handles:
        handle.remove()
    return seconds, sum(inside), sum(seen)


def main() -> None:
    """Measure and write the JSON."""
    parser = make_parser(__doc__)
    parser.add_argument("--backbone", default="tiny")
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    plans = make_plans(max(NUM_ORGANS), backbone=arguments.backbone, side=arguments.side)
    network = build_with_noise_text(plans)
    shape = (1, arguments.slices, arguments.side, arguments.side)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    results: dict[str, Any] = {str(num_organs): {"seconds": [], "encoder_seconds": []} for num_organs in NUM_ORGANS}
    for _ in range(arguments.repetitions):  # by turns, so that what else the machine does meets all alike
        for num_organs in NUM_ORGANS:
            seconds, inside, seen = measure(network, image, plans=plans, num_organs=num_organs)
            own = results[str(num_organs)]
            own["seconds"].append(round(seconds / arguments.slices, 3))
            own["encoder_seconds"].append(round(inside / arguments.slices, 3))
            own["encoded_slices"] = seen
    best = {num_organs: min(results[str(num_organs)]["seconds"]) for num_organs in NUM_ORGANS}
    encoder = min(results["1"]["encoder_seconds"])
    slope = float(np.polyfit(list(best), list(best.values()), 1)[0])
    for num_organs, seconds in best.items():
        print(f"{num_organs:>3} organs: {seconds:.3f} s a slice")
    print(f"the encoder alone: {encoder:.3f} s; an organ more costs {slope:.4f} s, {slope / encoder:.1%} of it")
    ratio = best[14] / best[1]
    print(f"14 organs cost {ratio:.2f} times what 1 does")
    content = {
        "backbone": arguments.backbone,
        "side_px": arguments.side,
        "slices": arguments.slices,
        "organs": results,
        "encoder_seconds": encoder,
        "organ_seconds": round(slope, 4),
        "organ_share_of_encoder": round(slope / encoder, 4),
        "ratio_14_to_1": round(ratio, 3),
        "date": date.today().isoformat(),
        "machine": f"one thread, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
