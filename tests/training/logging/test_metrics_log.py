import resource

import pytest

from autoseg.training.logging.metrics_log import append_metrics, keep_until, read_metrics

RECORDS = [{"step": step, "losses": {"total": 1.5}, "validation": None} for step in (2, 4, 6)]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for record in RECORDS:
        append_metrics(path, record)
    return path


def test_records_come_back_in_order(log, tmp_path):
    assert read_metrics(log) == RECORDS
    assert read_metrics(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("rest", ['{"step": 8, "los', "8", '"ste', "\udcff"])
def test_a_last_line_that_was_cut_off_is_left_out_and_removed_on_resume(log, rest):
    log.write_bytes(log.read_bytes() + rest.encode(errors="surrogateescape"))
    assert read_metrics(log) == RECORDS
    keep_until(log, step=6)
    append_metrics(log, {"step": 8})
    assert read_metrics(log) == [*RECORDS, {"step": 8}]


def test_keep_until_drops_what_a_resumed_run_writes_again(log, tmp_path):
    keep_until(log, step=4)
    assert read_metrics(log) == RECORDS[:2]
    keep_until(tmp_path / "none.jsonl", step=4)
    assert not (tmp_path / "none.jsonl").exists()


def test_a_value_that_is_not_finite_is_refused(log):
    with pytest.raises(ValueError, match="JSON compliant"):
        append_metrics(log, {"step": 8, "losses": {"total": float("nan")}})
    assert read_metrics(log) == RECORDS


def test_a_record_that_finds_no_room_leaves_no_part_of_a_line(log):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size + 5, hard))  # five bytes of the line are written
    try:
        with pytest.raises(OSError, match="File too large"):
            append_metrics(log, {"step": 8})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    append_metrics(log, {"step": 10})
    assert read_metrics(log) == [*RECORDS, {"step": 10}]
