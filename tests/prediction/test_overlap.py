import threading

import pytest

from autoseg.prediction.overlap import overlap


def run(items, *, log=None, may=lambda _item: True, fail=()):
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
            may_read_ahead=may,
            expected=(OSError,),
        )
    )


@pytest.mark.parametrize("may", [lambda _item: True, lambda _item: False, lambda item: item % 2 == 0])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_every_item_goes_through_all_steps_in_order(count, may):
    log = []
    assert run(range(count), log=log, may=may) == [(item, item * 10 + 2) for item in range(count)]
    for item in range(count):
        assert [name for name, one in log if one == item] == ["read", "work", "write"]


@pytest.mark.parametrize("step", ["read", "work", "write"])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_expected_error_is_that_items_result_and_no_others(step, bad):
    results = run(range(3), fail={(step, bad)})
    assert [item for item, _ in results] == [0, 1, 2]
    for item, result in results:
        assert str(result) == (f"{step} {bad}" if item == bad else str(item * 10 + 2))


def test_the_next_is_read_and_the_last_is_written_while_one_is_worked_on():
    read, written = threading.Event(), threading.Event()

    def work(item, _found):
        if item == 1:
            assert read.wait(10) and written.wait(10), "item 2 is read and item 0 written before item 1 is done"

    list(
        overlap(
            [0, 1, 2],
            read=lambda item: read.set() if item == 2 else None,
            work=work,
            write=lambda item, _made: written.set() if item == 0 else None,
            may_read_ahead=lambda _item: True,
            expected=(),
        )
    )


def test_what_must_not_be_read_ahead_waits_until_the_last_is_written():
    log = []
    run(range(3), log=log, may=lambda _item: False)
    assert log == [(name, item) for item in range(3) for name in ("read", "work", "write")]


def test_an_unexpected_error_is_raised_after_what_was_begun_is_written():
    written = []

    def work(item, _found):
        if item == 1:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(
            overlap(
                [0, 1],
                read=lambda item: item,
                work=work,
                write=lambda item, _made: written.append(item),
                may_read_ahead=lambda _item: True,
                expected=(OSError,),
            )
        )
    assert written == [0]
