"""Damage of all kinds to scan files ends in an error of autoseg's or in a scan, within bounds of time and memory.

The full number of cases is read by `tests/proofs/fuzz_scans.py`; these are as many as some seconds allow.
"""

import json

import numpy as np
import pytest
from damage import metaimage, nifti, nrrd, packed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nibabel import Nifti2Image
from read_scans import memory_limit, read_in_every_way

from autoseg.config.plans import read_plans
from autoseg.datasets.dataset import read_dataset
from autoseg.errors import AutosegError

VOXELS = np.random.default_rng(0).normal(100, 20, (4, 12, 16)).cumsum(axis=2).astype(np.int16)
WHOLES = {
    "nifti1": nifti(VOXELS),
    "nifti2": nifti(VOXELS, kind=Nifti2Image),
    "nrrd": nrrd(VOXELS),
    "nrrd packed": nrrd(VOXELS, is_packed=True),
    "metaimage": metaimage(VOXELS),
    "metaimage packed": metaimage(VOXELS, is_packed=True),
}
HEADER_BYTES = {"nifti1": 348, "nifti2": 540}
RESULTS = {"scan", "ScanFileError"}
# The same cases every time, so that no other change is blamed for what they find; the script draws others.
some = settings(
    max_examples=60, deadline=20_000, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
changes = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12)


def read_within_memory(tmp_path, content):
    path = tmp_path / "case.nii.gz"
    path.write_bytes(content)
    reading = read_in_every_way(path)
    assert reading.peak_bytes <= memory_limit(VOXELS.nbytes)
    return reading.result


@pytest.mark.fault("not-nifti")
@pytest.mark.parametrize("name", ["nifti1", "nifti2"])
@some
@given(changes=changes, is_packed=st.booleans())
def test_a_damaged_nifti_header_is_an_error_of_ours_or_a_scan(tmp_path, name, changes, is_packed):
    content = bytearray(WHOLES[name])
    for place, byte in changes:
        content[place % HEADER_BYTES[name]] = byte
    assert read_within_memory(tmp_path, packed(bytes(content)) if is_packed else bytes(content)) in RESULTS


@pytest.mark.fault("not-nifti")
@pytest.mark.parametrize("name", [name for name in WHOLES if name not in HEADER_BYTES])
@some
@given(changes=changes, line=st.integers(0, 20), times=st.sampled_from([0, 1, 1, 2, 3000]))
def test_a_damaged_header_of_text_is_an_error_of_ours_or_a_scan(tmp_path, name, changes, line, times):
    content = WHOLES[name]
    length = content.index(b"LOCAL\n" if "metaimage" in name else b"\n\n") + 6
    lines = content[:length].split(b"\n")
    lines[line % len(lines)] *= times
    head = bytearray(b"\n".join(lines) or b"\n")
    for place, byte in changes:
        head[place % len(head)] = byte
    assert read_within_memory(tmp_path, bytes(head) + content[length:]) in RESULTS


@pytest.mark.fault("flipped-byte")
@pytest.mark.parametrize("name", ["nifti1 packed", "nifti1 in members", "nrrd packed", "metaimage packed"])
@some
@given(data=st.data())
def test_a_damaged_stream_is_an_error_of_ours_or_a_scan(tmp_path, name, data):
    plain = WHOLES["nifti1"]
    pieces = {"nifti1 packed": packed(plain), "nifti1 in members": packed(plain[:900]) + packed(plain[900:])}
    content = pieces.get(name) or WHOLES[name]
    places = st.integers(0, len(content))
    first, last = sorted((data.draw(places), data.draw(places)))
    inside = data.draw(
        st.sampled_from([b"", content[first:last] * 2, content[:first], b"\0" * 40]) | st.binary(max_size=30)
    )
    assert read_within_memory(tmp_path, content[:first] + inside + content[last:] or b"\0") in RESULTS


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["../x", ".nii.gz"]),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)


@some
@given(
    content=st.dictionaries(
        st.sampled_from(["name", "labels", "channel_names", "modality", "file_ending", "training", "patients"])
        | st.sampled_from(["descriptions", "numTraining", "regions_class_order"]),
        values,
        max_size=5,
    )
)
def test_any_json_for_a_dataset_is_an_error_of_ours_or_a_dataset(tmp_path, content):
    for folder in ("imagesTr", "labelsTr"):
        (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / "imagesTr" / "a_0000.nii.gz").write_bytes(packed(WHOLES["nifti1"]))
    (tmp_path / "labelsTr" / "a.nii.gz").write_bytes(packed(nifti((VOXELS > 100).astype(np.uint8))))
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    try:
        assert read_dataset(tmp_path).cases
    except AutosegError as error:
        assert str(error)


@some
@given(part=st.sampled_from(["data", "network", "training", "inference", "device", "dataset_name"]), value=values)
def test_any_json_for_a_plan_is_an_error_of_ours_or_a_plan(tmp_path, tiny_plans, part, value):
    content = tiny_plans().model_dump(mode="json")
    if isinstance(content[part], dict) and isinstance(value, dict):
        content[part] |= dict(zip(content[part], value.values(), strict=False))
    else:
        content[part] = value
    (tmp_path / "plans.json").write_text(json.dumps(content))
    try:
        assert read_plans(tmp_path / "plans.json").dataset_name
    except AutosegError as error:
        assert str(error)
