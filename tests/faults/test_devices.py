"""No GPU, one that does not work, and memory that is full: said with the remedy, and the work is done all the same."""

import itertools
import json
import warnings

import pytest
import torch

import autoseg.inference.model_loading
import autoseg.inference.predictor
from autoseg.cli import plan, predict, train
from autoseg.io.image import read_labels

OLD_DRIVER = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040)"


@pytest.fixture
def run_main(capfd):
    """Run a command without a `--device` of the fixture's: (main, argument, ..) -> code and text."""

    def call(main, *arguments):
        capfd.readouterr()
        code = main([*map(str, arguments)])
        return code, "".join(capfd.readouterr())

    return call


@pytest.fixture
def no_gpu(monkeypatch, tmp_path):
    """Hide nvidia-smi, and let torch warn of its driver."""

    def is_available():
        warnings.warn(OLD_DRIVER, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.fault("no-gpu")
def test_without_a_gpu_cuda_is_refused_and_auto_works_on_the_cpu(no_gpu, make_dataset, model_file, run_main, tmp_path):
    root, run = make_dataset(), tmp_path / "run"
    planning = (plan.main, root, "-o", run, "--num-workers", 1, "--device")
    predicting = (predict.main, "-m", model_file, "-i", root / "imagesTr", "-o", tmp_path / "out", "--device")
    code, text = run_main(*planning, "cuda")
    assert code == 2 and "nvidia-smi shows no GPU here. Add --memory-gib N to plan for another machine" in text
    code, text = run_main(*planning, "auto")
    assert code == 0 and "nvidia-smi shows no GPU here: planning for the CPU. For a GPU elsewhere:" in text
    remedy = f"torch sees no CUDA device here ({OLD_DRIVER}). Check what nvidia-smi says, and update the driver."
    for call in (predicting, (train.main, run, "--device")):
        code, text = run_main(*call, "cuda")
        assert code == 2 and f"--device cuda: {remedy} Or use --device cpu." in text
    code, text = run_main(*predicting, "auto")
    assert code == 0 and f"working on the CPU: {remedy}" in text
    assert "predicting 3 cases on this CPU will take about 0." in text
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 3


@pytest.mark.fault("gpu-memory-full")
@pytest.mark.parametrize(("full_at", "maps_before"), [({0}, 0), ({0, 1}, 0), ({1}, 2)])
def test_a_full_memory_takes_less_at_once_and_gives_the_same_maps(
    make_dataset, model_file, command, tmp_path, monkeypatch, full_at, maps_before
):
    """`full_at` counts the tries; with no map before, the memory is full before the first window."""
    scans, calls = make_dataset(2) / "imagesTr", []
    assert command("predict", "-m", model_file, "-i", scans, "-o", tmp_path / "expected").code == 0
    real = autoseg.inference.predictor.predict_slices

    def predict_slices(*arguments, **more):
        calls.append(None)
        maps = real(*arguments, **more)
        if len(calls) - 1 in full_at:
            yield from itertools.islice(maps, maps_before)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        yield from maps

    monkeypatch.setattr(autoseg.inference.predictor, "predict_slices", predict_slices)
    predicted = command("predict", "-m", model_file, "-i", scans, "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.text
    assert predicted.text.count("the device's memory was full; trying 2 slices at a time on cpu (CUDA out of") == 1
    assert len(calls) == 2 + len(full_at)  # a case, or a try that found no room
    for name in ("good_0.nii.gz", "good_1.nii.gz"):
        expected, out = (read_labels(tmp_path / folder / name).array_zyx for folder in ("expected", "out"))
        assert (expected == out).mean() > 0.999  # a random network has ties, which rounding decides


@pytest.mark.fault("gpu-memory-full")
def test_a_case_that_never_finds_memory_is_named_and_the_others_are_predicted(
    make_dataset, model_file, command, tmp_path, monkeypatch
):
    real, cases = autoseg.inference.predictor.prepare_slices, []

    def prepare_slices(channels, *, plan, modality):
        cases.append(None)
        if len(cases) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(channels, plan=plan, modality=modality)

    monkeypatch.setattr(autoseg.inference.predictor, "prepare_slices", prepare_slices)
    predicted = command("predict", "-m", model_file, "-i", make_dataset(2) / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 3, predicted.text
    assert "good_0: not predicted: CUDA out of memory." in predicted.text and "Traceback" not in predicted.text
    assert (tmp_path / "out" / "good_1.nii.gz").exists()


@pytest.mark.fault("gpu-memory-full")
def test_a_model_that_finds_no_room_is_loaded_on_the_cpu(make_dataset, model_file, command, tmp_path, monkeypatch):
    """In the very first allocation: the device is full of somebody else's work."""
    real = autoseg.inference.model_loading.load_models

    def load_models(path, *, device, build_network):
        if device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB\nmore")
        return real(path, device=device)

    monkeypatch.setattr(autoseg.inference.model_loading, "load_models", load_models)
    monkeypatch.setattr(autoseg.inference.model_loading, "choose_device", lambda _name: torch.device("cuda"))
    predicted = command("predict", "-m", model_file, "-i", make_dataset(1) / "imagesTr", "-o", tmp_path / "out")
    assert predicted.code == 0, predicted.text
    assert "cuda is too full for the model; predicting on the CPU (CUDA out of memory. Tried to a" in predicted.text
    assert json.loads((tmp_path / "out" / "run.json").read_text())["device"] == "cpu"
