import os
from dataclasses import replace

import numpy as np
import pytest

from autoseg.datasets.dataset import read_dataset
from autoseg.planning.checks import check_dataset
from autoseg.planning.fingerprint import case_cache, extract
from autoseg.planning.fingerprint.case_cache import CaseCache
from autoseg.planning.fingerprint.extract import scan_cases


@pytest.fixture
def scanned(monkeypatch):
    """Give the ids of the cases that were read."""
    ids = []

    def scan(case, *, dataset):
        ids.append(case.case_id)
        return original(case, dataset=dataset)

    original = extract.scan_case
    monkeypatch.setattr(extract, "scan_case", scan)
    return ids


def scan_all(root, path):
    return scan_cases(read_dataset(root), num_workers=0, cache=CaseCache(path))


def as_tuples(results):
    return [
        (result.case_id, result.facts, result.problems, None if result.sample is None else result.sample.tolist())
        for result in results
    ]


def test_the_second_time_nothing_is_read_and_all_is_the_same(make_dataset, save_nifti, tmp_path, scanned):
    root, path = make_dataset(3), tmp_path / "cache.jsonl"
    save_nifti(root / "labelsTr" / "case_001.nii.gz", np.full((6, 10, 12), 9, dtype=np.uint8))
    first = scan_all(root, path)
    before = path.read_bytes()
    assert scanned == ["case_000", "case_001", "case_002"]
    again = scan_all(root, path)
    assert len(scanned) == 3 and as_tuples(again) == as_tuples(first)
    assert first[0].sample.shape == (1, 48) and again[0].sample.dtype == np.float32
    assert first[1].facts is None and "9 (720 voxels)" in again[1].problems[0].message
    assert path.read_bytes() == before


def test_after_a_change_of_one_file_its_case_alone_is_read(make_dataset, save_nifti, tmp_path, scanned):
    root, path = make_dataset(3), tmp_path / "cache.jsonl"
    scan_all(root, path)
    label = np.zeros((6, 10, 12), dtype=np.uint8)
    label[0, 0, 0] = 1
    save_nifti(root / "labelsTr" / "case_001.nii.gz", label)
    scanned.clear()
    assert scan_all(root, path)[1].facts.organs[0].num_voxels == 1
    assert scanned == ["case_001"]


def test_a_file_with_another_time_is_read_again(make_dataset, tmp_path, scanned):
    root, path = make_dataset(2), tmp_path / "cache.jsonl"
    scan_all(root, path)
    scanned.clear()
    os.utime(root / "labelsTr" / "case_001.nii.gz", ns=(1, 1))
    scan_all(root, path)
    assert scanned == ["case_001"]


def test_other_labels_or_channels_read_everything_again_and_other_patients_nothing(make_dataset, tmp_path, scanned):
    root, path = make_dataset(2, extra={"patients": {"case_000": "p"}}), tmp_path / "cache.jsonl"
    text = (root / "dataset.json").read_text()
    assert scan_all(root, path)[0].facts.patient_id == "p"
    for old, new, read in (('"p"', '"q"', 0), ("liver", "spleen", 2), ("MRI", "T1", 2)):
        scanned.clear()
        text = text.replace(old, new)
        (root / "dataset.json").write_text(text)
        assert scan_all(root, path)[0].facts.patient_id == ("p" if new == "p" else "q")
        assert len(scanned) == read, new


def test_cases_that_are_gone_are_forgotten(make_dataset, tmp_path):
    root, path = make_dataset(3), tmp_path / "cache.jsonl"
    scan_all(root, path)
    for folder, name in (("imagesTr", "case_001_0000"), ("labelsTr", "case_001")):
        (root / folder / f"{name}.nii.gz").unlink()
    scan_all(root, path)
    assert [line.count(b"case_001") for line in path.read_bytes().splitlines()] == [0, 0]


def test_an_interrupted_run_keeps_what_it_read(make_dataset, tmp_path, scanned, monkeypatch):
    root, path = make_dataset(3), tmp_path / "cache.jsonl"
    kept = CaseCache.keep

    def keep_one(cache, entry):
        kept(cache, entry)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CaseCache, "keep", keep_one)
        scan_all(root, path)
    scanned.clear()
    scan_all(root, path)
    assert scanned == ["case_001", "case_002"]


def test_a_file_that_changes_while_it_is_read_is_not_kept(make_dataset, tmp_path, monkeypatch):
    root, path = make_dataset(1), tmp_path / "cache.jsonl"
    label = root / "labelsTr" / "case_000.nii.gz"
    original = extract.scan_case

    def scan(case, *, dataset):
        result = original(case, dataset=dataset)
        label.write_bytes(label.read_bytes() + b"more")
        return result

    monkeypatch.setattr(extract, "scan_case", scan)
    assert scan_all(root, path)[0].facts is not None
    assert not path.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace(b'"num_voxels":720', b'"num_voxels":721'),  # one digit, still of the right form
        lambda text: text[: len(text) // 2],
        lambda text: b"",
        lambda text: b"\x00" * 100,
        lambda text: b"[" * 100_000,
        lambda text: with_digest(text, b'"facts":{', b'"facts":' + b"[" * 100_000 + b"{"),
        lambda text: with_digest(text, b'"form":1', b'"form":2'),
        lambda text: with_digest(text, b'"case_id":"case_000","patient_id"', b'"case_id":"case_007","patient_id"'),
        lambda text: with_digest(text, b'"size_zyx":[6', b'"size_zyx":["6"'),
        lambda text: with_digest(text, b'"removed_fraction":', b'"removed_fraction":1e999'),
        lambda text: with_digest(text, b'"facts":{', b'"facts":{"extra":1,'),
        lambda text: with_digest(text, b'"sample":"', b'"sample":"!'),
        lambda text: with_digest(text, b'"sample":"', b'"sample":"AAAA'),
    ],
)
def test_a_damaged_or_hostile_cache_is_passed_over(make_dataset, tmp_path, scanned, spoil):
    root, path = make_dataset(1), tmp_path / "cache.jsonl"
    first = scan_all(root, path)
    before = path.read_bytes()
    path.write_bytes(spoil(before))
    assert path.read_bytes() != before
    scanned.clear()
    assert as_tuples(scan_all(root, path)) == as_tuples(first)
    assert scanned == ["case_000"]
    scan_all(root, path)
    assert scanned == ["case_000"]  # it was written again


def with_digest(text, old, new):
    """Change a line and give it the digest that belongs to it."""
    content = text.partition(b" ")[2].rstrip(b"\n")
    assert old in content
    content = content.replace(old, new)
    return case_cache.hashlib.blake2b(content, digest_size=16).hexdigest().encode() + b" " + content + b"\n"


def test_a_sample_that_unpacks_to_gigabytes_is_refused_at_its_bound():
    bomb = case_cache.base64.b64encode(case_cache.zlib.compress(bytes(50_000_000))).decode()
    with pytest.raises(ValueError, match="expected up to 40000"):
        case_cache._unpack(bomb, num_channels=1)
    good = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(case_cache._unpack(case_cache._pack(good), num_channels=2), good)
    with pytest.raises(ValueError, match="not finite"):
        case_cache._unpack(case_cache._pack(np.array([[np.nan]], np.float32)), num_channels=1)


def test_results_are_the_same_with_two_workers(make_dataset, tmp_path):
    root = make_dataset(4)
    two = scan_cases(read_dataset(root), num_workers=2, cache=CaseCache(tmp_path / "two"))
    assert as_tuples(two) == as_tuples(scan_all(root, tmp_path / "two")) == as_tuples(scan_all(root, None))


def test_labels_without_names_are_listed_once(make_dataset, save_nifti, tmp_path, monkeypatch):
    root, path = make_dataset(2), tmp_path / "cache.jsonl"
    (root / "dataset.json").write_text('{"channel_names": ["MRI"]}')
    read = []
    original = extract.list_label_values

    def list_values(label):
        read.append(label.name)
        return original(label)

    monkeypatch.setattr(extract, "list_label_values", list_values)

    def check():
        read.clear()
        check = check_dataset(root, num_workers=0, cache=CaseCache(path))
        return [organ.value for organ in check.fingerprint.organs], list(read)

    assert check() == ([1], ["case_000.nii.gz", "case_001.nii.gz"])
    assert check() == ([1], [])
    label = np.ones((6, 10, 12), dtype=np.uint8)
    label[0, 0, 0] = 7
    save_nifti(root / "labelsTr" / "case_001.nii.gz", label)
    assert check() == ([1, 7], ["case_001.nii.gz"])
    assert path.read_bytes().count(b'{"form":"values 1"') == 2
    (root / "dataset.json").write_text('{"channel_names": ["MRI"], "labels": {"liver": 1, "spleen": 7}}')
    assert check() == ([1, 7], [])
    assert path.read_bytes().count(b'{"form":"values 1"') == 0


def test_a_name_that_is_no_unicode_is_not_kept(make_dataset, tmp_path):
    (result,) = scan_all(make_dataset(1), None)
    odd = replace(result, case_id=os.fsdecode(b"case_\xff"))
    assert case_cache.make_entry(result, recipe="r", files=()) is not None
    assert case_cache.make_entry(odd, recipe="r", files=()) is None


def test_a_pipe_in_the_place_of_the_cache_is_not_waited_for(make_dataset, tmp_path):
    os.mkfifo(tmp_path / "cache.jsonl")
    scan_all(make_dataset(1), tmp_path / "cache.jsonl")
    assert (tmp_path / "cache.jsonl").is_file()
