import threading

import pytest

from autoseg.errors import OutputError
from autoseg.pipelines.prefetch import Prefetch


def overlap(items, *, read, work, write, threads, may_hold, fatal=()):
    """Take items through three steps; returns each with its result or error, in order."""
    results = []
    steps = {"read": read, "write": write, "threads": threads, "may_hold": may_hold, "fatal": fatal}
    with Prefetch(items, on_done=lambda *done: results.append(done), **steps) as prefetch:
        for item, found in prefetch:
            try:
                prefetch.write(item, work(item, found))
            except Exception as error:
                prefetch.fail(item, error)
    return results


def always(_items):
    return True


def never(_items):
    return False


def run(items, *, log=None, may=always, threads=1, fail=()):
    """Take numbers through three steps that write down what they do; `fail` names (step, item) that raise."""
    log = [] if log is None else log

    def step(name, item, value):
        log.append((name, item))
        if (name, item) in fail:
            raise OSError(f"{name} {item}")
        return value

    return list(
        overlap(
            items,
            read=lambda item: step("read", item, item * 10),
            work=lambda item, found: step("work", item, found + 1),
            write=lambda item, made: step("write", item, made + 1),
            threads=threads,
            may_hold=may,
            fatal=(OutputError,),
        )
    )


@pytest.mark.parametrize("may", [always, never, lambda items: sum(items) < 5])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_item_goes_through_all_steps_in_order(count, may, threads):
    log = []
    assert run(range(count), log=log, may=may, threads=threads) == [(item, item * 10 + 2) for item in range(count)]
    for item in range(count):
        assert [name for name, one in log if one == item] == ["read", "work", "write"]


@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_is_that_items_result_and_no_others(step, bad, caplog):
    results = run(range(3), fail={(step, bad)})
    assert not caplog.text
    assert [item for item, _ in results] == [0, 1, 2]
    for item, result in results:
        assert str(result) == (f"{step} {bad}" if item == bad else str(item * 10 + 2))


def test_the_next_is_read_and_the_last_is_written_while_one_is_worked_on():
    read, written = threading.Event(), threading.Event()

    def work(item, _found):
        if item == 1:
            assert read.wait(10) and written.wait(10), "item 2 is read and item 0 written before item 1 is done"

    done = list(
        overlap(
            [0, 1, 2],
            read=lambda item: read.set() if item == 2 else None,
            work=work,
            write=lambda item, _made: written.set() if item == 0 else None,
            threads=1,
            may_hold=always,
        )
    )
    assert [made for _, made in done] == [None] * 3  # not what the assertion raised, which would end its item alone


def test_what_must_not_be_read_ahead_waits_until_the_last_is_written():
    log = []
    run(range(3), log=log, may=never)
    assert log == [(name, item) for item in range(3) for name in ("read", "work", "write")]


def test_an_error_that_is_a_bug_is_that_items_result_and_in_the_log(caplog):
    def work(item, found):
        return found / item

    results = overlap(range(3), read=lambda _: 6, work=work, write=lambda _, made: made, threads=1, may_hold=always)
    (_, first), *others = results
    assert isinstance(first, ZeroDivisionError) and first.__traceback__ is None  # whose frames hold the scan
    assert others == [(1, 6.0), (2, 3.0)]
    assert "a bug of autoseg" in caplog.text and "return found / item" in caplog.text


@pytest.mark.parametrize("error", [OutputError("full"), KeyboardInterrupt()])
def test_a_fatal_error_is_raised_after_what_was_begun_is_written(error):
    written = []

    def work(item, _found):
        if item == 1:
            raise error

    with pytest.raises(type(error)):
        list(
            overlap(
                [0, 1],
                read=lambda item: item,
                work=work,
                write=lambda item, _made: written.append(item),
                threads=1,
                may_hold=always,
                fatal=(OutputError,),
            )
        )
    assert written == [0]


def test_no_more_is_held_than_may_be():
    held, most = set(), []

    def hold(item):
        held.add(item)
        most.append(len(held))

    list(
        overlap(
            range(12),
            read=hold,
            work=lambda item, _found: item,
            write=lambda item, _made: held.discard(item),
            threads=4,
            may_hold=lambda items: len(items) <= 3,
        )
    )
    assert max(most) == 3 and not held


def test_several_are_read_and_written_at_once():
    readers, writers = threading.Barrier(3), threading.Barrier(3)  # each lets three pass together, or breaks

    done = list(
        overlap(
            range(3),
            read=lambda _item: readers.wait(10),
            work=lambda item, _found: item,
            write=lambda _item, _made: writers.wait(10),
            threads=3,
            may_hold=always,
        )
    )
    assert not [made for _, made in done if isinstance(made, Exception)]  # none is a barrier that broke
