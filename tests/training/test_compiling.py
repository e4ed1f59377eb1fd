"""Work in a thread that is not waited for when a signal comes."""

import signal
import sys
import threading

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from mobilevit_jax.data.sampler import Scale
from mobilevit_jax.training import parallel
from mobilevit_jax.training.compile import (
    compile_scales,
    in_thread,
    in_threads,
    still_compiling,
)
from mobilevit_jax.training.compile_counts import Compilations
from mobilevit_jax.training.signals import Stopped
from mobilevit_jax.training.timing import Timing


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


class TwoScales:
    """As much of a task as compiling ahead asks for."""

    table = (Scale(2, 2, 4), Scale(3, 3, 4))

    def zero_batch(self, scale):
        return {"image": np.zeros((scale.batch_size, scale.height, scale.width, 3), np.float32)}


class Silent:
    def say(self, message):
        pass


def test_what_two_threads_compile_is_what_the_calls_find():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that the threads meet
    try:
        for number in range(8):

            def step(state, batch, number=number):
                return state + number, {"loss": lax.psum(batch["image"].sum(), parallel.AXIS)}

            mapped, task = parallel.pmap_train(step), TwoScales()
            state = parallel.replicate(jnp.zeros(3))
            compile_scales(mapped, state, task, Silent(), Timing())  # pyright: ignore
            with Compilations(own_thread=True) as counted:
                for scale in task.table:
                    state, _ = mapped(state, parallel.shard(task.zero_batch(scale)))
            assert counted.programs == 0
    finally:
        sys.setswitchinterval(before)
