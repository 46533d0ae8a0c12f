"""Draw `docs/images/network.png`: the network with the shapes of its tensors, read off a real one.

    python tools/draw_network.py

Owns: the drawing. The shapes come from hooks on the network that autoseg plans for its phantoms on a CPU.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import autoseg
from autoseg.demo.phantoms import write_phantom_dataset
from autoseg.network.build import build_network

mpl.use("Agg")
from matplotlib import pyplot as plt

ROOT = Path(__file__).resolve().parents[1]
COLORS = {"text": "#dbe9f6", "image": "#e3f1dc", "decoder": "#fdebd0", "output": "#f3e1f0"}
# name: (center x, center y, title, source, kind)
BOXES = {
    "sentences": (1.6, 9.0, "descriptions of K organs", "here K = 7", "text"),
    "images": (6.4, 9.0, "B slices with neighbors", "here B = 2, one channel", "image"),
    "text": (1.6, 7.5, "text encoder", "open_clip; vectors in the model file", "text"),
    "tokens": (6.4, 7.5, "patches", "of the image backbone (Hiera)", "image"),
    "interaction": (1.6, 6.0, "cross-modal interaction", "CRISP-SAM2: text and image attend", "text"),
    "image_encoder": (6.4, 6.0, "image backbone", "SAM2's Hiera, text enters each stage", "image"),
    "prompt_projector": (4.0, 4.5, "prompt projector", "semantic prompts instead of clicks", "text"),
    "mask_decoder": (1.6, 3.0, "SAM's mask decoder", "with a semantic token per organ", "decoder"),
    "semantic_decoder": (6.4, 3.0, "semantic-aware decoder", "SEG-SAM: organs compete", "decoder"),
    "refiner": (4.0, 1.5, "refiner", "U-Net at full resolution", "decoder"),
    "output": (4.0, 0.1, "final map", "refiner + both decoders, gated", "output"),
}
ARROWS = [
    ("sentences", "text"),
    ("images", "tokens"),
    ("text", "interaction"),
    ("tokens", "interaction"),
    ("tokens", "image_encoder"),
    ("interaction", "image_encoder"),
    ("interaction", "prompt_projector"),
    ("image_encoder", "prompt_projector"),
    ("prompt_projector", "mask_decoder"),
    ("prompt_projector", "semantic_decoder"),
    ("mask_decoder", "refiner"),
    ("semantic_decoder", "refiner"),
    ("refiner", "output"),
]
WIDTH, HEIGHT = 3.3, 0.95


def shape_of(value: Any) -> str:
    """Return the shapes of the first two tensors in an output."""
    values = value if isinstance(value, (list, tuple)) else [value]
    tensors: list[torch.Tensor] = []
    for one in values:
        parts = (
            one if isinstance(one, (list, tuple)) else [one] if isinstance(one, torch.Tensor) else vars(one).values()
        )
        tensors += [part for part in parts if isinstance(part, torch.Tensor)]
    return ", ".join("x".join(map(str, one.shape)) for one in tensors[:2])


def read_shapes() -> dict[str, str]:
    """Run autoseg's network once and return the shape of what each part gives."""
    with tempfile.TemporaryDirectory() as name:
        write_phantom_dataset(Path(name) / "phantoms", num_train=4, num_test=1, seed=1)
        plans = autoseg.plan(Path(name) / "phantoms" / "dataset", Path(name) / "run", device="cpu", num_workers=1)
    network = build_network(plans).eval()
    shapes: dict[str, str] = {}
    parts = ("text", "interaction", "image_encoder", "prompt_projector", "mask_decoder", "semantic_decoder", "refiner")
    for name in parts:
        module = network.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: shapes.update({name: shape_of(out)}))
    channels = len(plans.data.channels) * (2 * plans.network.context_slices + 1)
    images = torch.zeros(2, channels, plans.network.window_rows_px, plans.network.window_columns_px)
    with torch.no_grad():
        output = network(images, torch.arange(len(plans.data.organs)))
        small = torch.zeros(2, 3, plans.network.image_size_px, plans.network.image_size_px)
        shapes["tokens"] = shape_of(network.image_encoder.embed(small))
    return shapes | {"images": shape_of(images), "output": shape_of(output.logits), "sentences": ""}


def draw(shapes: dict[str, str], path: Path) -> None:
    """Draw boxes and arrows."""
    figure, axes = plt.subplots(figsize=(8, 9.6))
    for start, end in ARROWS:
        (x, y, *_), (to_x, to_y, *_) = BOXES[start], BOXES[end]
        sideways = y == to_y
        begin = (x + WIDTH / 2, y) if sideways else (x, y - HEIGHT / 2)
        stop = (to_x - WIDTH / 2, to_y) if sideways else (to_x, to_y + HEIGHT / 2)
        arrow = FancyArrowPatch(begin, stop, arrowstyle="-|>", mutation_scale=14, color="#555555", linewidth=1.1)
        axes.add_patch(arrow)
    for name, (x, y, title, note, kind) in BOXES.items():
        corner = (x - WIDTH / 2, y - HEIGHT / 2)
        style = "round,pad=0.02,rounding_size=0.08"
        box = FancyBboxPatch(corner, WIDTH, HEIGHT, boxstyle=style, facecolor=COLORS[kind], edgecolor="#666666")
        axes.add_patch(box)
        axes.text(x, y + 0.26, title, ha="center", va="center", fontsize=11, weight="bold")
        axes.text(x, y, note, ha="center", va="center", fontsize=8.5, color="#333333")
        axes.text(x, y - 0.27, shapes.get(name, ""), ha="center", va="center", fontsize=8.5, family="monospace")
    axes.set(xlim=(-0.2, 8.2), ylim=(-0.6, 9.7))
    axes.axis("off")
    figure.savefig(path, dpi=110, bbox_inches="tight", metadata={"Software": None})


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=ROOT / "docs" / "images" / "network.png")
    draw(read_shapes(), parser.parse_args().output)


if __name__ == "__main__":
    main()
