import signal

import pytest

from autoseg.distributed.last_words import ApartError, LastWords, explain_loss, last_words_of
from autoseg.errors import DatasetError, LockedError
from autoseg.system.signals import Stopped


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Stopped(signal.SIGTERM), LastWords("stopped", "SIGTERM", 143)),
        (KeyboardInterrupt(), LastWords("stopped", "SIGINT", 130)),
        (ApartError("Connection closed\nlong"), LastWords("apart", "Connection closed", 69)),
        (LockedError("taken"), LastWords("failed", "LockedError: taken", 75)),
        (DatasetError("3 cases"), LastWords("failed", "DatasetError: 3 cases", 4)),
        (KeyError("a"), LastWords("failed", "KeyError: 'a'", 1)),
    ],
)
def test_last_words_say_what_ends_a_rank_and_with_which_code(error, words):
    assert last_words_of(error) == words
    assert LastWords.from_json(words.to_json().encode()) == words


APART = LastWords("apart", "Connection closed by peer")
FAILED = LastWords("failed", "DatasetError: 3 cases", 4)
STOPPED = LastWords("stopped", "SIGTERM", 143)


@pytest.mark.parametrize(
    ("others", "gone", "message", "code"),
    [
        ({}, [1], "rank 1 of 4 is gone (killed, out of memory, or its machine is off); the run stops at step 7. ", 69),
        ({}, [1, 3], "rank 1 and rank 3 of 4 are gone (killed, out of memory, or its machine is off); the run", 69),
        ({2: STOPPED, 3: FAILED}, [], "rank 3 of 4 failed (DatasetError: 3 cases); the run stops at step 7. Look", 4),
        ({2: STOPPED}, [], "rank 2 of 4 was stopped by SIGTERM; the run stops at step 7. Start all ranks", 143),
        ({2: APART}, [], "the 4 ranks lost each other (Connection closed by peer); the run stops at step 7.", 69),
        ({3: FAILED}, [1], "rank 1 of 4 is gone", 69),
    ],
)
def test_the_loss_of_a_rank_is_told_with_its_cause(others, gone, message, code):
    told = explain_loss(APART, others, gone=gone, size=4, place="at step 7")
    assert str(told).startswith(message) and told.exit_code == code
    assert str(told).endswith(("Start all ranks again: the same command continues.", "Look at its own message."))


def test_where_no_step_is_known_none_is_named():
    assert "; the run stops. Start all" in str(explain_loss(APART, {}, gone=[0], size=2, place=""))
