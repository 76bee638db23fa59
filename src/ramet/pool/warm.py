"""The zygote, seen by the caller: started in its sandbox, asked for copies, ended."""

from __future__ import annotations

import json
import os
import select
import site
import sys
from time import monotonic

from ramet.errors import SpecError, TimeoutExpired, ZygoteError
from ramet.host.facts import facts_for
from ramet.plan.branch import check_spec, compile_branch, of_zygote, places
from ramet.plan.compile import compile
from ramet.plan.encode import encodings
from ramet.pool.clone import Clone
from ramet.pool.tasks import Reach
from ramet.pool.zygote import BUD, MAKE, command
from ramet.run.image import above_standard
from ramet.run.planning import groups_if_limited
from ramet.run.process import Popen
from ramet.run.streams import DEVNULL, milliseconds, readable
from ramet.spec import Bind, Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ramet.plan.steps import Plan
    from ramet.run.planning import Argv
    from ramet.spec import Sandbox

#: Libraries that start threads when they are imported, unless told so. Anybody's own setting of env= wins.
ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MPLBACKEND": "agg",
}
#: Of the zygote's own environment: what is found when it is first called would be looked for again in every copy (ld.so(8)). Python has its
#: modules bound at once anyhow; this is for the interpreter.
BOUND_AT_ONCE = {"LD_BIND_NOW": "1"}
TOLD_MOST = 1 << 16
#: ms
LOOK_AGAIN = 20


class Recipe:
    """What zygotes of a pool are made of, and the plan of their copies. Raises what `compile_branch` does."""

    def __init__(
        self, spec: Sandbox, preload: Sequence[str], prepare: str, rehearse: str = "", *, filled: bool = False
    ) -> None:
        from ramet.seccomp.filters import programs_of

        check_spec(spec)
        shown = _own_places(spec)
        mounts = (*spec.mounts, *(Bind(path, path) for path in shown))
        self.spec = spec.replace(env={**ONE_THREAD, **spec.env}, mounts=mounts)
        self.preload, self.prepare, self.rehearse = tuple(preload), prepare, rehearse
        facts = facts_for(self.spec)
        self.plan: Plan = compile_branch(
            self.spec, facts, groups=groups_if_limited(self.spec), filters=programs_of(self.spec), filled=filled
        )
        self.reach = Reach(self.spec, [path for path, _ in facts.python], shown)

    def zygote_spec(self) -> Sandbox:
        """Its filter stands behind the payloads' too, so it is there only where theirs forbids the same and more."""
        from ramet.seccomp import profile

        usual = self.spec.seccomp in ("default", "kill", profile.zygote()) and not self.spec.capabilities
        env = {**BOUND_AT_ONCE, **self.spec.env}
        return of_zygote(self.spec, env=env, seccomp=profile.zygote() if usual else "none")

    def orders(self) -> bytes:
        """What the zygote reads when it starts."""
        import pickle

        found = encodings(self.plan)
        programs = {}
        for name in ("child", "init", "view", "payload"):
            encoded = getattr(found, name)
            programs[name] = encoded.blob, {str(slot): offset for slot, offset in encoded.offsets.items()}
        return pickle.dumps(
            {
                "preload": self.preload,
                "prepare": self.prepare,
                "rehearse": self.rehearse,
                "programs": programs,
                "flags": self.plan.clone_flags,
                "environment": dict(self.plan.environment),
                "pass_fds": self.plan.command.pass_fds,
                "places": places(self.spec),
            }
        )


def _own_places(spec: Sandbox) -> list[str]:
    """Where ramet and packages of the user's own are, if the sandbox would not show them."""
    from ramet.host.facts import facts
    from ramet.spec import Rootfs, view

    if isinstance(spec.rootfs, Rootfs) or spec.rootfs == "host":
        return []
    wanted = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    own = site.getusersitepackages() if site.ENABLE_USER_SITE else None
    if own is not None and own in sys.path and os.path.isdir(own):
        wanted.append(own)
    shown = [*view.TREES, *(path for path, _ in facts().python)]
    shown += [str(mount.destination) for mount in spec.mounts if isinstance(mount, Bind)]
    return [path for path in wanted if not any(path == one or path.startswith(one + "/") for one in shown)]


class _Process(Popen):
    """With the zygote's own filter."""

    def _compile(self, argv: Argv, pass_fds: Sequence[int]) -> Plan:
        from ramet.seccomp.filters import programs_of_zygote

        filters = programs_of_zygote() if self.sandbox.seccomp != "none" else ()
        words = tuple(str(word) for word in argv)
        return compile(self.sandbox, facts_for(self.sandbox), Command(words, tuple(pass_fds)), filters=filters)


class Zygote:
    """A running zygote. Raises ZygoteError where it can't start: a module that can't be imported, or starts threads."""

    def __init__(self, recipe: Recipe, seconds: float) -> None:
        import socket

        self.recipe = recipe
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        handed: list[int] = []
        self._process: _Process | None = None
        try:
            handed.append(above_standard(theirs.detach()))
            handed.append(above_standard(os.memfd_create("ramet-orders", os.MFD_CLOEXEC)))
            with open(os.dup(handed[1]), "wb") as file:
                file.write(recipe.orders())
            os.lseek(handed[1], 0, os.SEEK_SET)
            path = [os.path.abspath(one) for one in sys.path if one]
            self._process = _Process(
                command(path, *handed), recipe.zygote_spec(), stdout=DEVNULL, stderr=DEVNULL, pass_fds=handed
            )
            os.close(handed.pop(0))
            self._wait(monotonic() + seconds, seconds)
        except BaseException:
            self.close()
            raise
        finally:
            for fd in handed:
                os.close(fd)

    def _wait(self, deadline: float, seconds: float) -> None:
        """Until it has imported everything."""
        poller = select.poll()
        poller.register(self.control, select.POLLIN)
        late = f"its preload took more than {seconds:g} s"
        if not poller.poll(milliseconds(deadline)):
            raise ZygoteError(late, module=None)
        said = self.control.recv(TOLD_MOST)
        if not said:
            how = self._how_it_ended(max(0.0, deadline - monotonic()))
            raise ZygoteError(late if how is None else f"its process has ended: {how}", module=None)
        try:
            found = json.loads(said)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ZygoteError("it told nonsense: a module has got at its descriptors", module=None)
        if found.get("ready") is True:
            return
        why, trace = (str(found.get(key, "")) for key in ("why", "traceback"))
        module = found.get("failed")
        raise ZygoteError(why, module=None if module is None else str(module), traceback=trace)

    def _how_it_ended(self, seconds: float) -> str | None:
        """None: it has not, though it has let go of the socket."""
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except TimeoutExpired:
            return None
        return f"killed by signal {-code}" if code < 0 else f"it exited with {code}"

    @property
    def pidfd(self) -> int:
        """Readable when it has ended."""
        assert self._process is not None
        return self._process.pidfd

    @property
    def alive(self) -> bool:
        """Is its init there?"""
        return not self.ends(0)

    @property
    def serves(self) -> bool:
        """Is there anybody who takes orders? Its init may take its time to end."""
        return not self.hung_up and self.alive

    def ends(self, seconds: float) -> bool:
        """Has it ended, within so many seconds? Asked again and again: when another thread closes it, the number of its pidfd may be
        another's while we wait."""
        deadline = monotonic() + seconds
        while (process := self._process) is not None:
            left = deadline - monotonic()
            try:
                if readable(process.pidfd, max(0, min(LOOK_AGAIN, int(left * 1000)))):
                    return True
            except SpecError:
                return True  # closed by another thread
            if left <= 0:
                return self._process is None
        return True

    @property
    def hung_up(self) -> bool:
        """Has its process let go of the socket that it takes orders from? That is known before its init has ended."""
        poller = select.poll()
        try:
            poller.register(self.control, 0)  # no more than POLLHUP, which is always told
        except ValueError:
            return True  # closed by another thread
        return bool(poller.poll(0))

    @property
    def pid(self) -> int:
        """Of its init, here."""
        assert self._process is not None
        return self._process.pid

    def put_forth(self) -> Clone:
        """A copy in the making. Raises OSError where the zygote is gone."""
        return self._ordered(MAKE)

    def bud(self) -> Clone:
        """All of a copy's sandbox but the copy: `Clone.break_bud` asks for that. Of several the zygote has the last. Raises OSError, or
        StepError."""
        return self._ordered(BUD)

    def _ordered(self, word: bytes) -> Clone:
        clone = Clone(self.recipe.plan, self)
        try:
            clone.ask(word)
        except BaseException:
            clone.close()
            raise
        return clone

    def close(self) -> None:
        """End it, and with it all of its copies."""
        self.control.close()
        process, self._process = self._process, None
        if process is not None:
            process.close()


__all__ = ["Recipe", "Zygote"]
