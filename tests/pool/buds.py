"""What tests need to know of the sandbox that stands ready for a pool's next copy."""

import time

import ramet


def bud_of(pool):
    """The bud of a pool, once it stands."""
    deadline = time.monotonic() + 30
    while (bud := pool._engine._keeper._bud) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return bud


def without_buds(pool):
    """From now on each copy is made with all that belongs to it, when it is asked for."""
    bud_of(pool)
    pool._engine._keeper._begin_bud = lambda: None
    for bud in pool._engine._keeper._drop_bud():
        bud.close()


class Budding(ramet.Pool):
    """A pool each of whose calls waits for a bud."""

    def run(self, fn, /, *args, **kwargs):
        """As every pool's; and the bud was used. One call at a time: there is another when that has ended."""
        bud = bud_of(self)
        try:
            return super().run(fn, *args, **kwargs)
        finally:
            assert self._engine._keeper._bud is not bud
