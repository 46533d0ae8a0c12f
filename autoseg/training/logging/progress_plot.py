"""Draws `progress.png`, a picture of `metrics.jsonl`: loss, learning rate and Dice."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from autoseg.errors import printable
from autoseg.system.atomic_files import atomic_path

NAME_LETTERS = 40


def plot_progress(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss, learning rate and Dice over the minutes of training."""
    if not records:
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    minutes = [record["seconds"] / 60 for record in records]
    top, bottom = figure.subplots(2, 1, sharex=True)
    for name in ("total", "dice", "cross_entropy"):
        top.plot(
            minutes, [record["losses"].get(name, float("nan")) for record in records], label=name.replace("_", " ")
        )
    top.set_ylabel("training loss")
    top.legend(loc="upper right", frameon=False)
    rate = top.twinx()
    rate.plot(minutes, [record["learning_rate"] for record in records], color="0.7", linewidth=1)
    rate.set_ylabel("learning rate", color="0.5")
    validated = [record for record in records if record.get("validation")]
    seen = bool(validated and validated[-1]["validation"]["seen_in_training"])
    for organ in validated[-1]["validation"]["dice"] if validated else []:
        bottom.plot(
            [record["seconds"] / 60 for record in validated],
            [record["validation"]["dice"].get(organ) for record in validated],
            marker="o",
            markersize=3,
            label=_legend(organ),
        )
    bottom.set_ylim(0, 1)
    bottom.set_ylabel("Dice, cases of the training itself" if seen else "Dice, whole validation volumes")
    bottom.set_xlabel("minutes of training")
    bottom.grid(alpha=0.3)
    if validated and len(validated[-1]["validation"]["dice"]) <= 12:
        bottom.legend(loc="lower right", frameon=False, fontsize="small")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _legend(name: str) -> str:
    """Show an organ's name literally: matplotlib reads dollars as formulas, and hides labels that begin with "_"."""
    shown = printable(name)[:NAME_LETTERS].replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown
