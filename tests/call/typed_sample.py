"""What a type checker is shown by test_types.py; never run."""

import asyncio
from typing import TYPE_CHECKING, assert_type

import ramet

if TYPE_CHECKING:
    from ramet.call.isolated import BoundIsolated, Decorator, Isolated


@ramet.isolated(memory="1G", timeout=10)
def parse(upload: bytes, *, strict: bool = False) -> list[str]:
    return upload.decode(errors="strict" if strict else "replace").split()


@ramet.isolated
def bare(n: int) -> int:
    return n


@ramet.isolated
async def later(n: int) -> str:
    await asyncio.sleep(0)
    return str(n)


@ramet.isolated(timeout=1)
async def later_with_options() -> float:
    return 1.0


class Parser:
    @ramet.isolated
    def parse(self, text: str) -> int:
        return len(text)


def sum_of(a: float, b: float) -> float:
    return a + b


def uses() -> None:
    assert_type(parse(b"x", strict=True), list[str])
    result = parse.run(b"x")
    assert_type(result, ramet.FunctionResult[list[str]])
    assert_type(result.value, list[str] | None)
    assert_type(result.exception, BaseException | None)
    assert_type(result.usage.wall, float | None)
    assert_type(bare(1), int)
    assert_type(later(1), str)
    assert_type(later.run(1).value, str | None)
    assert_type(later_with_options(), float)
    assert_type(Parser().parse("x"), int)
    assert_type(Parser().parse.run("x").value, int | None)
    assert_type(ramet.isolated(sum_of, memory="64M")(1, 2), float)
    assert_type(asyncio.run(asyncio.to_thread(bare, 1)), int)
    assert_type(ramet.call(sum_of, 1, 2), float)


def is_what() -> "tuple[Isolated[[int], int], BoundIsolated[[str], int], Decorator]":
    return bare, Parser().parse, ramet.isolated(timeout=1)


def wrong() -> None:
    parse("text")  # error: arg-type
    parse(b"x", strikt=True)  # error: call-arg
    parse()  # error: call-arg
    parse.run(1)  # error: arg-type
    bare("x")  # error: arg-type
    Parser().parse(1)  # error: arg-type
    Parser().parse.run(b"x")  # error: arg-type
    _: int = parse(b"x")  # error: assignment
    ramet.isolated(5)  # error: call-overload
    ramet.isolated(results_max=1.5)  # error: call-overload
