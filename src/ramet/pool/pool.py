"""Pool: functions and code in sandboxed copies of a warm interpreter."""

from __future__ import annotations

import atexit
import os
import weakref
from concurrent.futures import Executor, Future

from ramet.call import channel
from ramet.call.build import refuse_free_threaded
from ramet.call.isolated import RESULTS_MAX, FunctionResult, check_function, name_of
from ramet.call.wire import need_msgspec
from ramet.errors import SpecError, SpecTypeError
from ramet.pool.engine import Engine, Options, Ticket
from ramet.pool.result import ExecResult
from ramet.pool.warm import Recipe
from ramet.run.planning import sandbox_with
from ramet.spec import values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any, Self

    from ramet.plan.steps import Plan
    from ramet.pool.tasks import Reach, Task
    from ramet.spec import Sandbox

SIZE_MOST, START_SECONDS = 4096, 120.0
#: A call's own; the other fields of its sandbox are the pool's.
PER_CALL = ("timeout", "output", "output_action")


class _Caller(Executor):
    """What a pool and a view of it have in common."""

    _engine: Engine
    _options: Options
    _tenant: str

    # Functions

    def run(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the function returns, or raises, called in a sandbox of its own. What it prints is passed on to sys.stdout and sys.stderr."""
        ticket = self._ticket(fn, args, kwargs, None)
        self._engine.enter(ticket)
        return self._engine.serve(ticket)

    def report(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> FunctionResult[Any]:
        """The same as a `FunctionResult`: value, exception, status, usage, output captured. Never raises because of what the function does."""
        ticket = self._ticket(fn, args, kwargs, _whole)
        ticket.at_once = False
        self._engine.enter(ticket)
        found: FunctionResult[Any] = self._engine.serve(ticket)
        return found

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The same as a Future, as of any `concurrent.futures.Executor`. Waits while there are `max_tasks` calls already."""
        ticket = self._ticket(fn, args, kwargs, None)
        ticket.future = Future()
        self._engine.enter(ticket)
        return ticket.future

    async def arun(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """`run`, to be awaited. When the awaiting task is cancelled, the call is killed."""
        return await self._awaited(self._ticket(fn, args, kwargs, None))

    # Code

    def exec(
        self, code: str, inputs: Mapping[str, Any] | None = None, *, outputs: Sequence[str] | None = None
    ) -> ExecResult:
        """Run code in a sandbox of its own, with `inputs` as its variables.

        outputs: names of variables that come back; default all new and changed ones that are plain data, arrays or tables. The value
        of the last expression comes back too, and figures of matplotlib, where that is loaded, as PNG.
        """
        ticket = self._code(code, inputs, outputs)
        self._engine.enter(ticket)
        found: ExecResult = self._engine.serve(ticket)
        return found

    async def aexec(
        self, code: str, inputs: Mapping[str, Any] | None = None, *, outputs: Sequence[str] | None = None
    ) -> ExecResult:
        """`exec`, to be awaited."""
        found: ExecResult = await self._awaited(self._code(code, inputs, outputs))
        return found

    # Underneath

    def _ticket(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        unpack: Callable[[FunctionResult[Any]], Any] | None,
    ) -> Ticket:
        self._engine.check()
        check_function(fn)
        task = self._engine.recipe.reach.pack(channel.FUNCTION, name_of(fn), fn, args, kwargs)
        return Ticket(task, self._options, self._tenant, unpack)

    def _code(self, code: str, inputs: Mapping[str, Any] | None, outputs: Sequence[str] | None) -> Ticket:
        self._engine.check()
        task = code_task(self._engine.recipe.reach, code, inputs, outputs)
        return Ticket(task, self._options, self._tenant, _executed)

    async def _awaited(self, ticket: Ticket) -> Any:
        import asyncio

        loop = asyncio.get_running_loop()
        ticket.future = Future()
        while not self._engine.enter(ticket, wait=False):
            await loop.run_in_executor(None, self._engine.wait_for_room)
        try:
            return await asyncio.wrap_future(ticket.future)
        except asyncio.CancelledError:
            self._engine.stop(ticket)
            raise


def code_task(reach: Reach, code: object, inputs: Any, outputs: Any) -> Task:
    """Code as a task. Raises SpecError."""
    if not isinstance(code, str):
        raise SpecTypeError(f"must be text, not {type(code).__name__}", field="code")
    given = {} if inputs is None else inputs
    if not hasattr(given, "items") or not all(isinstance(name, str) for name in given):
        raise SpecTypeError("must be a mapping with names as keys", field="inputs")
    wanted = None if outputs is None else [str(name) for name in values.several(outputs, "outputs", "names")]
    return reach.pack(channel.CODE, "exec", None, (code, dict(given), wanted), {})


def _whole(result: FunctionResult[Any]) -> FunctionResult[Any]:
    return result


def _executed(result: FunctionResult[Any]) -> ExecResult:
    return as_executed(result)


def as_executed(result: FunctionResult[Any]) -> ExecResult:
    """The result of a run of code as what it means."""
    found = ExecResult.__new__(ExecResult)
    for cls in type(result).__mro__:
        for name in getattr(cls, "__slots__", ()):
            setattr(found, name, getattr(result, name))
    for name in ("stdout", "stderr"):
        stream = getattr(found, name)
        if isinstance(stream, bytes):
            setattr(found, name, stream.decode("utf-8", "backslashreplace"))
    found.take(result.value)
    return found


class Pool(_Caller):
    """Sandboxed calls in a millisecond or two: copies of an interpreter that has imported what they need.

        with ramet.Pool(preload=["numpy", "pandas"], memory="512M", timeout=10) as pool:
            pool.run(statistics, data)
            pool.exec("frame = pandas.DataFrame(rows); frame.sum()", {"rows": rows}).outputs

    A *zygote*, a process in a sandbox of its own, imports the modules of `preload`, and runs the code `prepare`, once. Each call is a copy of it in
    namespaces, files, /tmp and limits of its own, and serves that call only: nothing is left for the next. `spare` copies are kept
    ready, and each runs the code `rehearse` while it waits for its call; with 0 the next call's sandbox is, without the copy. At most `size` calls
    run at once; over `max_tasks` of them, waiting ones too, `submit` and its like wait.

    Any field of Sandbox by name, or a Sandbox; it needs user, mount and pid namespaces of its own. results_max, exceptions: as
    for `ramet.isolated`; nothing that comes out is unpickled. What goes in is: a function of a module that the sandbox can import, by
    name, and any other through cloudpickle (`pip install ramet[pool]`).

    It is a `concurrent.futures.Executor`: submit, map, shutdown. With many tenants, `pool.options(tenant=name)` gives each
    its turn. Random generators of Python and numpy, and OpenSSL's, have a seed of their own in each copy; addresses and the
    seed of hash() are those of the zygote.

    Raises SpecError, UnsupportedError; ZygoteError where a module can't be imported, or starts threads; PoolError when used after its
    end, or in a fork. Needs Linux 5.14.
    """

    def __init__(
        self,
        preload: Iterable[str] = (),
        sandbox: Sandbox | None = None,
        *,
        size: int | None = None,
        spare: int | None = None,
        max_tasks: int | None = None,
        prepare: str = "",
        rehearse: str = "",
        results_max: int | str = RESULTS_MAX,
        exceptions: Sequence[type[BaseException]] = (),
        start_timeout: float | str = START_SECONDS,
        **fields: Any,
    ) -> None:
        refuse_free_threaded()
        need_msgspec()
        names = check_preload(preload)
        places = len(os.sched_getaffinity(0)) if size is None else values.integer(size, "size", least=1, most=SIZE_MOST)
        kept = places if spare is None else values.integer(spare, "spare", most=SIZE_MOST)
        most = None if max_tasks is None else values.integer(max_tasks, "max_tasks", least=1, most=2**31)
        for field, code in (("prepare", prepare), ("rehearse", rehearse)):
            if not isinstance(code, str):
                raise SpecTypeError(f"must be code, as text, not {type(code).__name__}", field=field)
        recipe = Recipe(sandbox_with(sandbox, fields), names, prepare, rehearse)
        out = values.size(results_max, "results_max")
        self._options = Options(recipe.spec, out, check_exceptions(exceptions))
        self._tenant = ""
        seconds = values.duration(start_timeout, "start_timeout")
        self._engine = Engine(recipe, size=places, spare=kept, max_tasks=most, seconds=seconds)
        _living.add(self._engine)

    def options(self, *, tenant: str | None = None, **fields: Any) -> View:
        """A view of this pool for calls on behalf of a tenant, and with other limits of time and output: timeout=, output=,
        output_action=."""
        return View(self, self, tenant, fields)

    def plan(self) -> Plan:
        """The plan by which a copy's sandbox is made; print it to read it."""
        return self._engine.recipe.plan

    @property
    def counts(self) -> Mapping[str, int]:
        """How many calls are running and queued, how many copies ready, how often the zygote had to be started again."""
        return self._engine.counts()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; end when the last one has. cancel_futures: those that have not begun are cancelled."""
        self._engine.finish(wait=wait, cancel=cancel_futures)

    def close(self) -> None:
        """End everything now, calls in flight too."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> bool | None:
        if kind is None:
            self.shutdown()
        else:
            self.close()
        return None

    def __del__(self) -> None:
        engine = getattr(self, "_engine", None)
        if engine is not None and not engine.is_over:
            engine.drop()

    def __repr__(self) -> str:
        if self._engine.is_over:
            return "<ramet.Pool closed>"
        found = self.counts
        return f"<ramet.Pool {found['running']} running, {found['queued']} queued, {found['ready']} ready>"


class View(_Caller):
    """A pool, for one tenant, or with other limits. See `Pool.options`. It holds its pool."""

    def __init__(self, pool: Pool, base: _Caller, tenant: str | None, fields: Mapping[str, Any]) -> None:
        self._pool, self._engine = pool, pool._engine
        self._tenant = base._tenant if tenant is None else values.text(tenant, "tenant")
        for name in fields:
            if name not in PER_CALL:
                hint = "give it to the pool" if name in base._options.sandbox._fields else None
                raise SpecTypeError(
                    f"is not one of {', '.join(PER_CALL)}, which a call can have of its own", field=name, hint=hint
                )
        old = base._options
        sandbox = old.sandbox.replace(**fields) if fields else old.sandbox
        self._options = Options(sandbox, old.most, old.exceptions)

    def options(self, *, tenant: str | None = None, **fields: Any) -> View:
        """As of the pool."""
        return View(self._pool, self, tenant, fields)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """A view has no end of its own."""


def check_preload(preload: object) -> tuple[str, ...]:
    """Names of modules. Raises SpecError."""
    names = values.several(preload, "preload", "names of modules")
    for n, name in enumerate(names):
        if not isinstance(name, str):
            raise SpecTypeError(f"must be the name of a module, not {type(name).__name__}", field=f"preload[{n}]")
        if not all(part.isidentifier() for part in name.split(".")):
            raise SpecError(f"{name!r} is no name of a module", field=f"preload[{n}]")
    return tuple(names)


def check_exceptions(exceptions: Sequence[type[BaseException]]) -> tuple[type[BaseException], ...]:
    """Classes. Raises SpecTypeError."""
    for number, cls in enumerate(tuple(exceptions)):
        if not (isinstance(cls, type) and issubclass(cls, BaseException)):
            raise SpecTypeError(f"must be an exception class, not {cls!r}", field=f"exceptions[{number}]")
    return tuple(exceptions)


_living: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before threads stop being scheduled, and descriptors being closed."""
    for engine in list(_living):
        engine.close()
