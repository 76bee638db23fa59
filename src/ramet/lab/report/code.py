"""Python source with its words marked: keywords, strings, comments, and what is defined."""

from __future__ import annotations

from ramet.lab.report.html import Markup, element, join

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from tokenize import TokenInfo


def python(source: str, label: str) -> Markup:
    """The source as a block of code, which scrolls sideways by itself. What is no Python is shown as it is."""
    import tokenize

    try:
        inside = join(*_marked(source))
    except (tokenize.TokenError, SyntaxError):
        inside = join(source)
    return element("pre", element("code", inside), role="group", aria_label=label, tabindex="0")


def _marked(source: str) -> Iterator[str]:
    import io
    import tokenize

    lines = source.splitlines(keepends=True)
    row, column = 1, 0
    before = ""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.ENDMARKER:
            break
        yield _between(lines, (row, column), token.start)
        style = _style(token, before)
        yield element("span", token.string, class_=style) if style else token.string
        row, column = token.end
        before = token.string
    yield _between(lines, (row, column), (len(lines) + 1, 0))


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """The text from one place to another: white space, and lines that are continued."""
    if start >= end:
        return ""
    (row, column), (last, until) = start, end
    if row == last:
        return lines[row - 1][column:until]
    rest = lines[row - 1][column:] if row <= len(lines) else ""
    return rest + "".join(lines[row : last - 1]) + (lines[last - 1][:until] if last <= len(lines) else "")


def _style(token: TokenInfo, before: str) -> str:
    import keyword
    import tokenize

    if token.type == tokenize.COMMENT:
        return "comment"
    if token.type == tokenize.STRING or tokenize.tok_name[token.type].startswith("FSTRING"):
        return "string"
    if token.type == tokenize.NAME and keyword.iskeyword(token.string):
        return "keyword"
    if token.type == tokenize.NAME and before in ("def", "class"):
        return "defined"
    return ""
