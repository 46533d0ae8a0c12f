"""What overlays cost at prediction: seconds of computing a slice on one core, for the plan of a reference dataset.

    python tests/benchmarks/overlay_cost.py msd_spleen --overlays cpu fast -o docs/results/overlay_cost.json

The plan is the one for a GPU, as in `plans/reference`; each overlay is applied to it by itself, with the rules that
follow. The networks have new weights: what they find does not matter for their time. Slices are noise of the dataset's
median size at target spacing, and all organs are asked for; the best of some repetitions, by turns.
"""

import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command_line import make_parser
from noise_plans import build_with_noise_text

from autoseg.config.plans import Plans
from autoseg.inference.sliding_window import predict_slices
from autoseg.network.model import AutosegNetwork
from autoseg.planning.planner import make_plans
from autoseg.planning.rules.data import to_slice_order
from autoseg.system.atomic_files import write_json

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

from reference_fingerprints import read_fingerprint  # noqa: E402
from reference_plans import read_devices  # noqa: E402

PLANNED = "as planned"


def seconds_of(network: AutosegNetwork, image: np.ndarray, *, plans: Plans) -> float:
    """Predict all slices once; returns seconds of computing a slice."""
    start = time.process_time()
    organs = range(len(plans.data.organs))
    for _maps in predict_slices([network], image, plans=plans, organs=organs, device=torch.device("cpu")):
        pass
    return (time.process_time() - start) / image.shape[1]


def main() -> None:
    """Measure and write the dataset's entry; other entries stay."""
    parser = make_parser(__doc__)
    parser.add_argument("dataset", help="a folder of plans/reference")
    parser.add_argument("--overlays", nargs="+", required=True, help="names of plans/overlays")
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = ROOT / "plans" / "reference" / arguments.dataset
    fingerprint, device = read_fingerprint(folder), read_devices(folder)[-1]
    paths = {PLANNED: [], **{name: [name] for name in arguments.overlays}}
    plans = {name: make_plans(fingerprint, device=device, overlays=some) for name, some in paths.items()}
    data = plans[PLANNED].data
    sizes_mm = fingerprint.cropped_sizes_zyx * fingerprint.spacings_zyx_mm
    sizes = to_slice_order(sizes_mm / np.array(data.target_spacing_zyx_mm), slice_axis=data.slice_axis)
    rows, columns = np.median(sizes, axis=0)[1:].round().astype(int)
    image = np.random.default_rng(0).normal(size=(len(data.channels), arguments.slices, rows, columns))
    networks = {name: build_with_noise_text(some) for name, some in plans.items()}
    seconds: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(arguments.repetitions):
        for name, network in networks.items():
            seconds[name].append(round(seconds_of(network, image.astype(np.float32), plans=plans[name]), 3))
    results: dict[str, Any] = {}
    for name, some in plans.items():
        network = some.network.model_dump(mode="json", include={"backbone", "image_size_px", "refiner_channels"})
        inference = some.inference.model_dump(mode="json", include={"mirror_axes", "window_overlap"})
        results[name] = {"seconds_a_slice": min(seconds[name]), "all": seconds[name], **network, **inference}
        print(f"{name}: {min(seconds[name])} s a slice")
    content = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    content[arguments.dataset] = {
        "device": f"{device.kind}, {device.memory_gib:g} GiB",
        "slice_px": [int(rows), int(columns)],
        "organs": len(data.organs),
        "plans": results,
        "date": date.today().isoformat(),
        "machine": f"one thread, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
    }
    write_json(arguments.output, content)


if __name__ == "__main__":
    main()
