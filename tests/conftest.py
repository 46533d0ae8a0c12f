"""Fixtures that every test may use."""

import gzip
import hashlib
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the commands do; torch reads it when it is loaded


import nibabel as nib
import numpy as np
import pytest

from autoseg.config.plans import (
    AugmentationPlan,
    ChannelPlan,
    DataPlan,
    Device,
    InferencePlan,
    NetworkPlan,
    OrganPlan,
    Plans,
    TrainingPlan,
)
from autoseg.distributed.ranks import LostConnectionError, Ranks

SaveScan = Callable[..., Path]
SMALL = np.arange(24, dtype=np.int16).reshape(2, 3, 4)  # z, y, x
COMMIT = "0123456789abcdef0123456789abcdef01234567"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch then sums in one order, also in the processes that tests start
pytest_plugins = ["planning_fixtures", "training_fixtures"]  # of tests/fixtures
REAL_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Give torch one thread again after a test that chose another number."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240611)


@pytest.fixture
def save_scan() -> SaveScan:
    """Give a writer of small NIfTI files that is nibabel's, not ours: (path, array_zyx, spacing or affine) -> path."""

    def save(
        path: Path,
        array_zyx: np.ndarray,
        *,
        spacing_zyx_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        affine: np.ndarray | None = None,
    ) -> Path:
        if affine is None:
            affine = np.diag([*spacing_zyx_mm[::-1], 1.0])
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.asarray(array_zyx).transpose(), affine), path)
        return path

    return save


@pytest.fixture
def save_dicom() -> Callable[..., None]:
    """Give a writer of DICOM series: (folder, array_zyx, modality, series, spacing, origin); a file a slice."""
    import SimpleITK as sitk  # noqa: N813

    def save(
        folder: Path,
        array_zyx: np.ndarray,
        *,
        modality: str = "CT",
        series: str = "1.2.3",
        spacing_xyz_mm: tuple[float, float, float] = (1.0, 2.0, 4.0),
        origin_lps_mm: tuple[float, float, float] = (-10.0, -20.0, 30.0),
        sideways_mm: float = 0.0,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for number, plane in enumerate(array_zyx):
            image = sitk.GetImageFromArray(plane[None].astype(np.int16))
            image.SetSpacing(spacing_xyz_mm)
            place = (
                origin_lps_mm[0],
                origin_lps_mm[1] + number * sideways_mm,
                origin_lps_mm[2] + number * spacing_xyz_mm[2],
            )
            tags = {
                "0008|0060": modality,
                "0010|0010": "DOE^JANE",
                "0020|000e": series,
                "0020|000d": "1.2",
                "0020|0052": "1.2.9",
                "0008|0018": f"{series}.{number + 1}",
                "0020|0013": str(number),
                "0020|0032": "\\".join(map(str, place)),
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0028|1052": "0",
                "0028|1053": "1",
            }
            for tag, value in tags.items():
                image.SetMetaData(tag, value)
            writer.SetFileName(str(folder / f"{series}_{number:03d}.dcm"))
            writer.Execute(image)

    return save


@pytest.fixture
def nifti_bytes() -> Callable[..., bytes]:
    """Give a maker of NIfTI files by hand: 2 x 3 x 4 voxels of 1 mm, an sform, then any header field as given."""

    def make(array: np.ndarray = SMALL, *, order: str = "<", kind: Any = nib.Nifti1Header, **fields: Any) -> bytes:
        header = kind(endianness=order)
        header.set_data_shape(array.shape[::-1])
        header.set_data_dtype(array.dtype)
        header["pixdim"][1:4] = 1.0
        header.set_sform(np.eye(4), code=1)
        header["vox_offset"] = header.single_vox_offset
        header["magic"] = header.single_magic
        for field, value in fields.items():
            header[field] = value
        return header.binaryblock + bytes(4) + array.astype(array.dtype.newbyteorder(order)).tobytes()

    return make


@pytest.fixture
def put(tmp_path: Path) -> Callable[..., Path]:
    """Give a writer of bytes: (content, name, pack=gzip it) -> path."""

    def write(content: bytes, name: str = "case.nii.gz", *, pack: bool = True) -> Path:
        path = tmp_path / name
        path.write_bytes(gzip.compress(content, mtime=0) if pack else content)
        return path

    return write


@pytest.fixture
def real_data() -> Path:
    """Give the folder of real scans; skip where there is none."""
    if not (REAL_DATA / "README.md").is_file():
        pytest.skip(f"real scans are not there: {REAL_DATA} holds no README.md")
    return REAL_DATA


@pytest.fixture
def plans() -> Plans:
    """Give the smallest sensible plan: one channel, two organs, a nano network on a CPU."""
    liver = OrganPlan(name="liver", value=1, sentences=("The liver is large.",))
    spleen = OrganPlan(name="spleen", value=3, sentences=("The spleen lies on the left.",))
    return Plans(
        dataset_name="test",
        device=Device(kind="cpu", memory_gib=4.0),
        data=DataPlan(
            channels=(ChannelPlan(name="MRI", normalization="zscore"),),
            organs=(liver, spleen),
            target_spacing_zyx_mm=(3.0, 1.0, 1.0),
            slice_axis="z",
        ),
        network=NetworkPlan(backbone="nano", image_size_px=64, window_rows_px=64, window_columns_px=64),
        training=TrainingPlan(augmentation=AugmentationPlan(mirror_axes=("slice",))),
        inference=InferencePlan(),
    )


@pytest.fixture(scope="session")
def tiny_plans() -> Callable[..., Plans]:
    """Give a maker of plans whose network takes milliseconds; parts are changed by name, as in a plan file."""

    def make(num_organs: int = 2, *, num_channels: int = 1, **changes: dict[str, Any]) -> Plans:
        organs = [
            {"name": f"organ {k}", "value": 2 * k + 1, "sentences": [f"the {word} organ", f"it lies {word} of all"]}
            for k, word in enumerate(("left", "right", "upper", "lower", "front", "back")[:num_organs])
        ]
        content: dict[str, Any] = {
            "dataset_name": "tiny",
            "device": {"kind": "cpu", "memory_gib": 4},
            "data": {
                "channels": [{"name": f"MRI {c}", "normalization": "zscore"} for c in range(num_channels)],
                "organs": organs,
                "target_spacing_zyx_mm": [3, 1, 1],
                "slice_axis": "z",
            },
            "network": {
                "backbone": "nano",
                "image_size_px": 32,
                "window_rows_px": 32,
                "window_columns_px": 32,
                "feature_channels": 16,
                "refiner_channels": [4, 16, 16],
            },
            "training": {"batch_slices": 2, "steps_per_epoch": 4, "epochs": 2},
            "inference": {"slices_per_batch": 4},
        }
        for part, values in changes.items():
            content[part] |= values
        return Plans.model_validate(content)

    return make


class ThreadGroup:
    """Connects ranks that are threads of one process, in place of torch's process group."""

    def __init__(self, world_size: int) -> None:
        self.barrier = threading.Barrier(world_size, timeout=60)
        self.own = threading.local()
        self.given = [b""] * world_size

    def all_gather(self, value: Any) -> list[Any]:
        try:
            self.given[self.own.rank] = pickle.dumps(value)  # as torch does, so each rank gets a copy
            self.barrier.wait()
            gathered = [pickle.loads(content) for content in self.given]
            self.barrier.wait()
        except threading.BrokenBarrierError:
            raise LostConnectionError("another rank failed") from None
        return gathered

    def all_reduce(self, tensor: Any) -> None:
        tensor.copy_(sum(self.all_gather(tensor.clone())))

    def is_complete(self) -> bool:
        return not self.barrier.broken


@pytest.fixture
def run_ranks() -> Callable[..., list[Any]]:
    """Run a function of `Ranks` in one thread per rank: (function, world_size) -> results by rank, or an error."""

    def run(function: Callable[[Ranks], Any], world_size: int = 2) -> list[Any]:
        group = ThreadGroup(world_size)

        def work(rank: int) -> Any:
            group.own.rank = rank
            try:
                return function(Ranks(rank, world_size, group=group))
            except BaseException:
                group.barrier.abort()
                raise

        with ThreadPoolExecutor(world_size) as pool:
            waiting = [pool.submit(work, rank) for rank in range(world_size)]
            errors = [error for one in waiting if (error := one.exception()) is not None]
            own = [error for error in errors if not isinstance(error, LostConnectionError)]
            if errors:
                raise (own or errors)[0]
            return [one.result() for one in waiting]

    return run


class StandInHub:
    """A hub on this machine: what it holds, and what it was asked.

    Attributes:
        files: Content by (OWNER/REPO, FILE).
        stated: The SHA-256 that it states of a file, where that is not the content's.
        small: Files that it keeps in git itself, so that it knows no SHA-256 of them.
        revisions: What has which commit, in every repository.
        asked: Method and path of each request.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], bytes] = {}
        self.stated: dict[tuple[str, str], str] = {}
        self.small: set[tuple[str, str]] = set()
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}
        self.asked: list[tuple[str, str]] = []
        self.url, self.cache = "", Path()

    def find(self, path: str) -> tuple[dict[str, str], bytes] | str:
        """Return headers and content, or the hub's code of what is not there."""
        repo, _, rest = path.strip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        key = (repo, name)
        if repo not in {repo for repo, _ in self.files}:
            return "RepoNotFound"
        if revision not in self.revisions:
            return "RevisionNotFound"
        if key not in self.files:
            return "EntryNotFound"
        content = self.files[key]
        headers = {"X-Repo-Commit": self.revisions[revision], "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        if key not in self.small:
            sha256 = self.stated.get(key, hashlib.sha256(content).hexdigest())
            headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        return headers, content


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """Give a stand-in for the hub, which huggingface_hub takes for the real one, with an empty cache."""
    from huggingface_hub import close_session, constants

    state = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            state.asked.append((self.command, self.path))
            found = ({}, b"") if self.path == "/" else state.find(self.path)
            headers, content = ({"X-Error-Code": found}, b"") if isinstance(found, str) else found
            self.send_response(404 if isinstance(found, str) else 200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_GET = do_HEAD  # noqa: N815 - http.server's name

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    state.url, state.cache = f"http://127.0.0.1:{server.server_port}", tmp_path / "hub"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name, value in {
        "ENDPOINT": state.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": state.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(state.cache),
        "HF_TOKEN_PATH": str(tmp_path / "no_token"),
        "AGENT_HARNESSES_PATH": str(tmp_path / "no_harnesses.json"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_TELEMETRY": False,
    }.items():
        monkeypatch.setattr(constants, name, value, raising=False)
    close_session()
    yield state
    close_session()
    server.shutdown()
    server.server_close()
