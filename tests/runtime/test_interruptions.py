import signal
import sys
import threading

import pytest

from bsssl.runtime import interruptions
from tests.processes import run_to_end

BOTH = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers_come_back():
    before = [signal.getsignal(number) for number in BOTH]
    yield
    assert [signal.getsignal(number) for number in BOTH] == before


def test_ctrl_c_waits_for_its_answer():
    done = []
    with pytest.raises(KeyboardInterrupt), interruptions.deferred() as interruption:
        assert not interruption.is_due
        interruption.answer()
        signal.raise_signal(signal.SIGINT)
        done.append("the step")
        assert interruption.is_due
        interruption.answer()
        done.append("too much")
    assert done == ["the step"]


def test_the_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), interruptions.deferred():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_sigterm_ends_with_its_status():
    with pytest.raises(SystemExit) as caught, interruptions.deferred() as interruption:
        signal.raise_signal(signal.SIGTERM)
        interruption.answer()
    assert caught.value.code == 143


def test_work_goes_on_where_the_caller_handles_sigterm():
    calls = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: calls.append(number))
    try:
        with interruptions.deferred() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert calls == [signal.SIGTERM] and interruption.is_due
            interruption.answer()
            assert not interruption.is_due
            signal.raise_signal(signal.SIGTERM)
            assert interruption.is_due
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def warned():
    """What a scheduler's handler of its warning does: it notes the signal, and ends the process at the second one."""
    calls = []

    def handler(number, frame):
        calls.append(number)
        if len(calls) == 2:
            sys.exit(255)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGALRM)}
    signal.signal(signal.SIGUSR2, handler)
    yield calls
    assert signal.getsignal(signal.SIGUSR2) is handler and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == before[signal.SIGALRM]
    signal.signal(signal.SIGUSR2, before[signal.SIGUSR2])


def test_a_warning_waits_for_its_answer(warned):
    with pytest.raises(SystemExit), interruptions.deferred() as interruption:
        for calls in (1, 2):
            signal.raise_signal(signal.SIGUSR2)
            assert interruption.is_due and len(warned) == calls - 1
            interruption.answer()
            assert not interruption.is_due and len(warned) == calls


def test_a_warning_does_not_wait_for_ever(warned, monkeypatch):
    monkeypatch.setattr(interruptions, "_PATIENCE", 0.01)
    with interruptions.deferred() as interruption:
        signal.raise_signal(signal.SIGUSR2)
        while not warned:
            threading.Event().wait(0.01)
        assert not interruption.is_due
    with interruptions.deferred():  # what is not answered is forgotten
        signal.raise_signal(signal.SIGUSR2)


def test_the_second_warning_does_not_wait(warned):
    with interruptions.deferred():
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
        assert warned == [signal.SIGUSR2]


def test_a_warning_in_another_process_than_the_main_one_does_not_wait(warned, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with interruptions.deferred() as interruption:
        signal.raise_signal(signal.SIGUSR2)
        assert warned == [signal.SIGUSR2] and not interruption.is_due


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with interruptions.deferred() as interruption:
            signal.raise_signal(signal.SIGTERM)
            assert not interruption.is_due
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_change_nothing():
    seen = []

    def work():
        with interruptions.deferred() as interruption:
            seen.append((interruption.is_due, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.default_int_handler)]


@pytest.mark.parametrize(("rank", "expected"), [("0", RuntimeError), ("1", KeyboardInterrupt)])
def test_only_the_main_process_says_what_failed_after_it(rank, expected, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(expected), interruptions.deferred():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("connection closed by peer")


def test_children_do_not_hear_ctrl_c():
    program = "import signal; signal.raise_signal(signal.SIGINT); print('alive')"
    with interruptions.kept_from_children():
        child = run_to_end([sys.executable, "-c", program])
    assert (child.stdout, child.stderr) == ("alive\n", "")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
