"""nnU-Net as a peer for prediction: its own plan for a dataset, a new network of that plan, and its command.

Its weights are new, with so much for the background that every label map is empty: the cheapest that it could write.
Needs nnunetv2 in the environment, and nothing of it but its own commands' entry points, plans and checkpoints.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

NAME = "Dataset901_peer"
ENTRY = "import sys; sys.argv = sys.argv[1:]; from {module} import {function}; {function}()"
SURELY_BACKGROUND = 100.0


def environment(folder: Path) -> dict[str, str]:
    """Give the variables that nnU-Net reads."""
    names = {"nnUNet_raw": "raw", "nnUNet_preprocessed": "preprocessed", "nnUNet_results": "results"}
    return {**os.environ, **{variable: str(folder / name) for variable, name in names.items()}}


def plan(folder: Path, images: Path, labels: Path, *, organs: dict[int, str], num_workers: int) -> dict[str, Any]:
    """Let nnU-Net plan for a dataset; returns its plan."""
    raw = folder / "raw" / NAME
    for source, target in ((images, raw / "imagesTr"), (labels, raw / "labelsTr")):
        shutil.copytree(source, target)
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, **{name: value for value, name in organs.items()}},
        "numTraining": len(list(images.iterdir())),
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))
    entry = ("nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry")
    words = ["-d", "901", "--no_pp", "-c", "3d_fullres", "-npfp", str(num_workers)]
    subprocess.run([*_python(*entry), *words], env=environment(folder), check=True, stdout=sys.stderr)
    plans: dict[str, Any] = json.loads((folder / "preprocessed" / NAME / "nnUNetPlans.json").read_text())
    return plans


def make_model(folder: Path, plans: dict[str, Any], *, num_organs: int, features: list[int] | None = None) -> None:
    """Write a checkpoint with new weights.

    Args:
        folder: As for `plan`.
        plans: What `plan` returned.
        num_organs: Of the dataset.
        features: Channels of the stages in place of those planned, for a CPU that would take hours.
    """
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    if features is not None:
        architecture["arch_kwargs"]["features_per_stage"] = features
    network = get_network_from_plans(
        architecture["network_class_name"],
        architecture["arch_kwargs"],
        architecture["_kw_requires_import"],
        1,
        1 + num_organs,
        deep_supervision=False,
    )
    with torch.no_grad():
        network.decoder.seg_layers[-1].bias[0] += SURELY_BACKGROUND
    model = folder / "results" / NAME / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    (model / "fold_0").mkdir(parents=True, exist_ok=True)
    (model / "plans.json").write_text(json.dumps(plans))
    shutil.copy(folder / "raw" / NAME / "dataset.json", model)
    checkpoint = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": "3d_fullres"},
        "inference_allowed_mirroring_axes": (0, 1, 2),
    }
    torch.save(checkpoint, model / "fold_0" / "checkpoint_final.pth")


def predict_command(images: Path, output: Path, *, device: str, workers: int = 3) -> list[str]:
    """Give its command for a folder of scans, without mirroring; run it in `environment`."""
    words = ["-i", str(images), "-o", str(output), "-d", "901", "-c", "3d_fullres", "-f", "0", "--disable_tta"]
    words += ["-device", device, "-npp", str(workers), "-nps", str(workers), "--disable_progress_bar"]
    return [*_python("nnunetv2.inference.predict_from_raw_data", "predict_entry_point"), *words]


def _python(module: str, function: str) -> list[str]:
    return [sys.executable, "-c", ENTRY.format(module=module, function=function), function]
