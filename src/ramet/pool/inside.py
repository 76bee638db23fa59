"""What happens in a copy of the zygote, behind all its walls: take a task, do it, tell."""

from __future__ import annotations

import os
import pickle
import socket
import sys

from ramet import _core
from ramet.call import channel
from ramet.call.inside import Job, flush, mapped_tray
from ramet.call.wire import Packer
from ramet.pool import cell
from ramet.run.fork import NEWS, READY
from ramet.run.hold import Signals
from ramet.run.streams import readable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from ramet.pool.zygote import Warm


#: A task as they come, made by `load`: int().
_NOTHING: list[bytes] = []
#: ms. A copy that has been waiting for so long was made ahead of need, and there is time. (In a pool that is busy all the time none waits
#: as long; what it would map then, another has no processor for.)
IDLE = 20
#: After so many turns Python has made its code fast (PEP 659).
TIMES = 20
#: The state of a Mersenne Twister.
MT_BYTES = 2496


def load() -> None:
    """In the zygote: what every copy needs."""
    import linecache  # noqa: F401
    import random  # noqa: F401  its fork hook gives each copy a seed of its own
    import socket  # noqa: F401
    import traceback  # noqa: F401

    import ramet.pool.kernel  # noqa: F401
    from ramet.call.wire import need_msgspec

    need_msgspec()
    try:
        import cloudpickle  # noqa: F401  what came by value is made by it
    except ImportError:
        pass  # then nothing comes by value
    from ramet.call.inside import preload

    preload(load)
    _NOTHING.append(pickle.dumps((int, (), {}), 5))


def serve(number: int, warm: Warm) -> NoReturn:
    """Say that the walls stand, take the task, do it. Never returns."""
    code = 1
    own = os.getpid()
    signals = Signals()
    try:
        end = socket.socket(fileno=number)
        signals.hold()  # who knows of us may interrupt us, before we know as what we are here
        ready(end)
        # By the time at which the caller has heard that, and sent the task, this is done.
        reseed(known=_core.renew_generator())
        if not readable(number, 0):
            _rehearse()
            if not readable(number, IDLE):
                _core.fetch_shelved()  # nobody waits for us: what the work will look at is there then
                cell.rehearse(warm.rehearsal)
        task = channel.receive(end)
        if task is None:
            os._exit(0)  # the caller does not need this copy
        _, data, buffers, beside = task
        if channel.TASK.unpack_from(data)[0] == channel.SESSION:
            from ramet.pool.kernel import Kernel

            kernel = Kernel(end, warm)
            signals.release()
            kernel.serve()
        signals.release()
        code = _do(end, data, buffers, mapped_tray(beside[0]) if beside else None)
    except BaseException:
        import traceback

        traceback.print_exc()  # nobody listens on the channel any more
    finally:
        if os.getpid() == own:
            flush()
        os._exit(code)


def ready(end: socket.socket) -> None:
    """Tell the caller that the walls stand."""
    end.send(NEWS.pack(READY, 0, 0, 0))


def note_generator() -> None:
    """In the zygote, when all is loaded: have numpy's generator begun anew by C, if it is as we know it."""
    random: Any = sys.modules.get("numpy.random")
    if random is None:
        return
    reseed()  # from now on it has no number left over
    generator = _generator(random)
    if generator is not None and type(generator) is random.MT19937:
        _, words, position, *_ = random.get_state()
        _core.note_generator(generator.capsule, words.tobytes() + position.to_bytes(4, sys.byteorder))


def _generator(random: Any) -> Any:
    """Of numpy's functions; None where it can only be the usual one (before 1.24)."""
    return random.get_bit_generator() if hasattr(random, "get_bit_generator") else None


def reseed(*, known: bool = False) -> None:
    """What all copies would otherwise share. Python's own `random` has seen to itself, as its fork hook does. known: numpy's has been."""
    found: Any = sys.modules.get("numpy.random")
    if found is not None and not known:
        generator = _generator(found)
        if generator is None or type(generator) is found.MT19937:
            words = sys.modules["numpy"].frombuffer(os.urandom(MT_BYTES), "uint32")
            found.set_state(("MT19937", words, MT_BYTES // 4))  # a third of what seed() takes
        else:
            found.set_bit_generator(type(generator)())
    found = sys.modules.get("_ssl")
    if found is not None:
        found.RAND_add(os.urandom(48), 48.0)


def _rehearse() -> None:
    """Touch what every task touches: the first write to a page of the zygote's copies it, and that is what time goes into."""
    fn, args, kwargs = pickle.loads(_NOTHING[0], buffers=[])
    job = Job(fn, args, kwargs, most=1, pickled=False, packer=Packer(None))
    job.packer.pack(job.fn())
    channel.TASK.unpack_from(channel.TASK.pack(channel.FUNCTION, 0, 1))


def practise() -> None:
    """In the zygote, when all is on the shelf: a whole task. What that looks at is mapped here then, and in every copy, which otherwise
    would have to look for it."""
    caller, end = socket.socketpair()
    with caller, end:
        for _ in range(TIMES):
            channel.send(caller, channel.TASK_KIND, channel.TASK.pack(channel.FUNCTION, 1 << 10, 1) + _NOTHING[0])
            task = channel.receive(end)
            assert task is not None
            _, data, buffers, _ = task
            fn, args, kwargs = pickle.loads(memoryview(data)[channel.TASK.size :], buffers=buffers)
            job = Job(fn, args, kwargs, most=1 << 10, pickled=False, packer=Packer(None))
            job._tell(end, job._call())
            caller.recv(1 << 10)
        _rehearse()


def _do(end: socket.socket, data: bytearray, buffers: list[memoryview], tray: memoryview | None) -> int:
    kind, most, hands = channel.TASK.unpack_from(data)
    packer = Packer(None)
    try:
        fn, args, kwargs = pickle.loads(memoryview(data)[channel.TASK.size :], buffers=buffers)  # the caller's own
    except BaseException as error:
        error.add_note("while the function and its arguments were unpickled in the sandbox")
        job = Job(int, (), {}, most=most, pickled=False, packer=packer)
        job.tell_error(end, error)
        return 1
    if kind == channel.CODE:
        fn, args = cell.run, (packer, *args)
    job = Job(fn, args, kwargs, most=most, pickled=False, packer=packer)
    job.tray, job.hands = tray, hands
    return job.run(end)
