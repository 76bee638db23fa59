"""A failed step as an exception: what was being done, the call, the errno, the field, a hint."""

from __future__ import annotations

from errno import E2BIG, ENFILE, ENOMEM, ENOSPC

from ramet.errors import CommandError, Error, StepError
from ramet.plan.render import clone_text, step_text
from ramet.plan.steps import STAGE_CLONE, STAGE_NUMBERS, STAGE_PAYLOAD_CLONE
from ramet.run.hints import hint_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ramet.plan.steps import Plan


CALL_MAX = 1000


def _shortened(text: str) -> str:
    """Arguments may be megabytes; the plan has them whole."""
    return text if len(text) <= CALL_MAX else f"{text[: CALL_MAX - 40]} ... {text[-30:]}"


def step_failed(plan: Plan, stage_number: int, index: int, errno: int) -> StepError:
    """The error for {stage, step, errno} as the C core reports it."""
    cloning = stage_number in (STAGE_CLONE, STAGE_PAYLOAD_CLONE)
    if _memory_is_little(plan, errno, cloning=cloning):
        hint: str | None = f"Sandbox.memory = {plan.spec.memory}: the sandbox itself takes half a MiB of it, or more"
    elif errno == ENOSPC and not cloning and int(plan.spec.disk) < LITTLE_DISK:
        hint = f"Sandbox.disk = {plan.spec.disk}: the sandbox's own files take some pages of it"
    elif cloning:
        hint = hint_for("clone3", errno, None, plan)
    else:
        step = plan.stages[STAGE_NUMBERS[stage_number]].steps[index]
        hint = hint_for(step.call, errno, step, plan)
    if stage_number == STAGE_CLONE:
        return StepError(
            "clone the child",
            errno=errno,
            call=clone_text(plan),
            origin="Sandbox.namespaces",
            stage="clone",
            hint=hint,
        )
    if stage_number == STAGE_PAYLOAD_CLONE:
        return StepError(
            "clone the payload's process",
            errno=errno,
            call="clone3({flags=CLONE_VM|CLONE_CHILD_CLEARTID, exit_signal=SIGCHLD})",
            origin="command",
            stage="clone",
            hint=hint,
        )
    stage = plan.stages[STAGE_NUMBERS[stage_number]]
    step = stage.steps[index]
    kind = CommandError if step.call == "execve" else StepError
    return kind(
        step.doing,
        errno=errno,
        call=_shortened(step_text(step)),
        origin=step.origin,
        stage=stage.name,
        index=index,
        total=len(stage.steps),
        hint=hint,
    )


LITTLE = 4 << 20
LITTLE_DISK = 256 << 10


def _memory_is_little(plan: Plan, errno: int, *, cloning: bool) -> bool:
    """Did a step fail for the limit of memory?

    exec says E2BIG when it can't have a page for the arguments, tmpfs ENOSPC, socket ENFILE when it can't have an inode.
    """
    memory = plan.spec.memory
    said = (ENOMEM,) if cloning else (ENOMEM, E2BIG, ENOSPC, ENFILE)
    return memory is not None and int(memory) < LITTLE and errno in said


def caller_failed(error: OSError) -> OSError:
    """What the caller itself could not open or make for a launch; an error that is ramet's already stays as it is."""
    if isinstance(error, Error):
        return error
    number = error.errno or 0
    return StepError(
        "get the descriptors that a launch needs",
        errno=number,
        call=f"open({error.filename!r})" if error.filename else "memfd_create, pipe2, socketpair, pidfd_open or fcntl",
        origin="caller",
        stage="caller",
        hint=hint_for("caller", number, None, None),
    )
