"""Work in a thread that is not waited for when a signal comes."""

import signal
import threading

import pytest

from mobilevit_jax.training.compiling import in_thread, in_threads, still_compiling
from mobilevit_jax.training.signals import Stopped


def test_ctrl_c_does_not_wait_for_xla():
    """And the process knows of the thread, so that it does not wait for it either."""
    end = threading.Event()
    main = threading.main_thread().ident
    assert main is not None
    # A shell starts what runs in the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            in_thread(lambda: end.wait(20))
        assert still_compiling()
    finally:
        end.set()
        timer.join()
        signal.signal(signal.SIGINT, before)


def test_what_the_poll_raises_ends_the_wait():
    end, looks = threading.Event(), []

    def poll():
        looks.append(still_compiling())
        if len(looks) == 3:
            raise Stopped

    try:
        with pytest.raises(Stopped):
            in_thread(lambda: end.wait(20), poll)
        assert looks == [True] * 3
    finally:
        end.set()


def test_results_and_errors_come_through():
    assert in_thread(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        in_thread(lambda: 1 // 0)


def test_several_at_once_in_their_order():
    both = threading.Barrier(2)

    def work(number):
        both.wait(20)  # never passed by one thread alone
        return number

    assert in_threads([lambda n=n: work(n) for n in range(4)], 2) == [0, 1, 2, 3]


def test_after_an_error_nothing_more_is_begun():
    begun = []

    def work(number):
        begun.append(number)
        raise ValueError(f"number {number}")

    with pytest.raises(ValueError, match="number 0"):
        in_threads([lambda n=n: work(n) for n in range(9)], 1)
    assert begun == [0]
