"""Peak memory and time of a training step on a GPU, beside what the planner estimates.

    python tests/benchmarks/cuda_memory.py -o docs/results/cuda_memory.json

Batches are noise, weights new. Three steps each: the first warms up, the others are timed. What does not fit is
recorded as such.
"""

import itertools
import time
from datetime import date
from typing import Any

import torch
from command_line import make_parser
from organs_cost import make_plans

from autoseg.config.plans import Plans
from autoseg.planning.rules.gpu_memory import estimate_training_gib
from autoseg.system.atomic_files import write_json
from autoseg.training.data.sampler import Batch
from autoseg.training.state import new_state
from autoseg.training.step import train_step

GIB = 2**30
TIMED_STEPS = 2
# backbone, side of Hiera's square and of the window, slices, organs
CASES = [
    *itertools.product(("nano", "tiny"), (128, 256), (8,), (2,)),
    *itertools.product(("tiny",), (512,), (2, 4, 8), (2, 14)),
    *itertools.product(("small", "base_plus", "large"), (512,), (2, 4), (14,)),
]


def measure(plans: Plans, *, batch_slices: int) -> tuple[float, float]:
    """Return the peak of what torch reserves, in GiB, and the milliseconds of a step."""
    network, device = plans.network, torch.device("cuda")
    num_organs, shape = len(plans.data.organs), (network.window_rows_px, network.window_columns_px)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    state = new_state(plans, device=device, offline=True, pretrained=None)
    state.network.train()
    batch = Batch(
        images=torch.randn(batch_slices, 2 * network.context_slices + 1, *shape),
        labels=torch.randint(0, num_organs + 1, (batch_slices, *shape)),
        organs=torch.arange(num_organs),
        case_ids=("noise",) * batch_slices,
    )
    seconds = []
    for _ in range(1 + TIMED_STEPS):
        torch.cuda.synchronize()
        start = time.monotonic()
        train_step(state, batch, plans=plans)
        torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    return torch.cuda.max_memory_reserved() / GIB, 1000 * min(seconds[1:])


def main() -> None:
    """Measure all and write the JSON."""
    parser = make_parser(__doc__)
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    for backbone, side, batch_slices, num_organs in CASES:
        plans = make_plans(num_organs, backbone=backbone, side=side)
        estimate = estimate_training_gib(
            plans.network.backbone,
            image_size_px=side,
            window_px=side * side,
            refiner_width=plans.network.refiner_channels[0],
            batch_slices=batch_slices,
            num_organs=num_organs,
        )
        try:
            gib, milliseconds = measure(plans, batch_slices=batch_slices)
            figures = {"peak_gib": round(gib, 2), "step_ms": round(milliseconds, 1)}
        except torch.cuda.OutOfMemoryError:
            figures = {"peak_gib": None, "step_ms": None}
        facts = {"backbone": backbone, "side_px": side, "batch_slices": batch_slices, "organs": num_organs}
        results.append({**facts, **figures, "estimated_gib": round(estimate, 2)})
        print(results[-1], flush=True)
    content = {
        "date": date.today().isoformat(),
        "machine": f"{torch.cuda.get_device_name()}, torch {torch.__version__}",
        "results": results,
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
