"""A failed step as an exception: what was being done, the call, the errno, the field, a hint."""

from __future__ import annotations

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
    if stage_number == STAGE_CLONE:
        return StepError(
            "clone the child",
            errno=errno,
            call=clone_text(plan),
            origin="Sandbox.namespaces",
            stage="clone",
            hint=hint_for("clone3", errno, None, plan),
        )
    if stage_number == STAGE_PAYLOAD_CLONE:
        return StepError(
            "clone the payload's process",
            errno=errno,
            call="clone3({flags=CLONE_VM|CLONE_CHILD_CLEARTID, exit_signal=SIGCHLD})",
            origin="command",
            stage="clone",
            hint=hint_for("clone3", errno, None, plan),
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
        hint=hint_for(step.call, errno, step, plan),
    )


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
