"""What a copy of the zygote must not have from it, though it is a copy: held locks, random numbers; and what Python's fork hooks are in it."""

from __future__ import annotations

import sys

import pytest

import ramet
from ramet.pool import hooks

pytest.importorskip("msgspec")

COUNTING = """
import logging, os, threading

class Counting(logging.Handler):
    times = 0
    def _at_fork_reinit(self):
        Counting.times += 1
        super()._at_fork_reinit()

kept = Counting()
seen = []
os.register_at_fork(before=lambda: seen.append("before"), after_in_child=lambda: seen.append("child"))
import builtins
builtins.counting, builtins.seen = Counting, seen
"""


def test_fork_hooks_in_a_copy_and_after_it():
    """Logging's hook has run once by the time a copy runs, for it or before; a fork that the copy makes runs it again. Hooks of modules
    that were loaded run for each."""

    def look():
        import builtins
        import os

        here = builtins.counting.times, list(builtins.seen)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            told = repr((builtins.counting.times, builtins.seen[len(here[1]) :]))
            os.write(write, told.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        return here, os.read(read, 1000).decode()

    with ramet.Pool(size=1, spare=0, prepare=COUNTING) as pool:
        for earlier in range(2):
            (times, seen), below = pool.run(look)
            assert times == 1
            assert seen == ["before"] * (earlier + 1) + ["child"]
            assert below == "(2, ['before', 'child'])"


WHICH = """
import builtins, logging, os, threading

builtins.which = []

def look():
    hooks = threading._after_fork, logging._after_at_fork_child_reinit_locks
    builtins.which.append([hook.__code__.co_name for hook in hooks])

os.register_at_fork(after_in_child=look)
"""


def test_hooks_that_a_copy_is_spared():
    """The two hooks that have nothing to do in a copy do nothing as it comes out of its fork, where they are known; from then on they
    are what they were."""

    def look():
        import builtins
        import os

        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.write(write, repr(builtins.which[-1]).encode())
            os._exit(0)
        os.waitpid(pid, 0)
        return builtins.which, os.read(read, 1000).decode()

    own = ["_after_fork", "_after_at_fork_child_reinit_locks"]
    spared = ["_of_threading", "_of_logging"] if sys.version_info[:2] in hooks.KNOWN else own
    with ramet.Pool(["logging"], size=1, spare=0, prepare=WHICH) as pool:
        assert pool.run(look) == ([spared], repr(own))


def test_locks_of_a_copy_are_free():
    """Another thread of a call can log, start threads and wait for them: no lock is left from the fork. One that is held is noticed."""

    def use(*, held):
        import logging
        import threading

        if held:
            logging._lock.acquire()
        done = []

        def work():
            if logging._lock.acquire(timeout=0 if held else 20):
                logging._lock.release()
                logging.getLogger("of a thread").addHandler(logging.NullHandler())
                inner = threading.Thread(target=done.append, args=(threading.current_thread().name,))
                inner.start()
                inner.join()

        thread = threading.Thread(target=work, name="worker")
        thread.start()
        thread.join()
        return done, threading.main_thread() is threading.current_thread(), threading.active_count()

    with ramet.Pool(size=1, spare=0) as pool:
        assert pool.run(use, held=False) == (["worker"], True, 1)
        assert pool.run(use, held=True) == ([], True, 1)


@pytest.mark.parametrize(
    ("prepare", "known"),
    [
        ("import numpy.random as r; r.standard_normal(3)", True),
        ("import numpy.random as r; r.set_bit_generator(r.PCG64(7))", False),
        ("", False),
    ],
    ids=["the usual one", "another", "not loaded"],
)
def test_numpys_numbers_are_a_copys_own(prepare, known):
    """Whatever generator numpy has in the zygote, used or not, each copy draws numbers of its own, and none that the zygote had left
    over. That it is known to C where it should be is asked of a generator that was given a state to be told by."""
    numpy = pytest.importorskip("numpy")
    if "set_bit_generator" in prepare and not hasattr(numpy.random, "set_bit_generator"):
        pytest.skip("only numpy 1.24 and later can have another generator")

    def draw():
        import numpy

        from ramet import _core

        numbers = [float(numpy.random.standard_normal()) for _ in range(2)] + [float(numpy.random.random())]
        if not _core.renew_generator():
            return numbers, False
        numpy.random.seed(1)
        _core.renew_generator()
        kind, words, position, *_ = numpy.random.get_state()
        return numbers, kind == "MT19937" and position == 624 and words[0] != numpy.random.RandomState(1).get_state()[
            1
        ][0]

    with ramet.Pool(["numpy"], size=1, spare=0, prepare=prepare) as pool:
        drawn = [pool.run(draw) for _ in range(4)]
    assert {found for _, found in drawn} == {known}
    assert len({number for numbers, _ in drawn for number in numbers}) == 12
