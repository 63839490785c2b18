"""Syntax trees of Python code, by the standard library alone: nodes of `ast`, tokens of `tokenize`."""

from __future__ import annotations

import ast
import io
import keyword
import re
import tokenize
import warnings
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from pytest_bertology.tasks.code.trees import Leaf, SyntaxTree, Unreadable

_NEWLINE = re.compile("\r\n?")
_INDENTED = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*[ \t]+[^\s#]")
_BLOCK = "if 1:\n"
_OPENING = {getattr(tokenize, name, None) for name in ("FSTRING_START", "TSTRING_START")} - {None}
_CLOSING = {getattr(tokenize, name, None) for name in ("FSTRING_END", "TSTRING_END")} - {None}
_UNREAD = (ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)
"""Nodes without a place in the text."""
_WHOLE = tuple(getattr(ast, name) for name in ("JoinedStr", "TemplateStr") if hasattr(ast, name))
"""Formatted strings: one token each, on every version of Python."""


class _Token(NamedTuple):
    type: int
    text: str
    start: int
    end: int


class _Nodes(NamedTuple):
    """Inner nodes in preorder."""

    nodes: list[ast.AST]
    parents: list[int]
    starts: list[int]
    ends: list[int]


def python_tree(text: str) -> SyntaxTree:
    """The tree of a snippet in the grammar of the running Python; an indented one is read as the block that it is.

    Nodes are those of `ast`. Every token but comments, line ends and indentation is a leaf below the innermost node
    whose text holds it; a node without children that is a single token is that leaf itself. Nodes that `ast` gives no
    place (`arguments`, say) reach from their first child to their last; decorators belong to what they decorate. An
    f-string is one leaf, of type "string". Raises Unreadable.
    """
    plain = _NEWLINE.sub("\n", text)
    source = _BLOCK + plain if _INDENTED.match(plain) else plain
    before = len(source) - len(plain)
    tree = _parsed(source, bool(before))
    lines = _Lines(source)
    tokens = [token for token in _tokens(source, lines) if token.start >= before]
    nodes = _nodes(tree, lines, tokens)
    home = _innermost(nodes, tokens)
    leaves = [_leaf(token, nodes.nodes[at]) for token, at in zip(tokens, home, strict=True)]
    places = _places(text)
    moved = [leaf._replace(start=places[leaf.start - before], end=places[leaf.end - before - 1] + 1) for leaf in leaves]
    return _without_wrappers(nodes, moved, home)


def _parsed(source: str, block: bool) -> ast.Module:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of "\d" in strings: what the snippet does is not judged
            tree = ast.parse(source)
    except SyntaxError as error:
        line = (error.lineno or 1) - block
        shown = (error.text or "").strip()
        raise Unreadable(f"line {max(line, 1)}: {error.msg}" + (f": {shown[:80]!r}" if shown else "")) from None
    except ValueError as error:  # null bytes, lone surrogates
        raise Unreadable(str(error)) from None
    except (RecursionError, MemoryError):
        raise Unreadable("it is nested too deeply for Python's parser") from None
    if block:
        opened = tree.body[0]
        assert isinstance(opened, ast.If)
        if len(tree.body) > 1 or opened.orelse:
            line = tree.body[1].lineno if len(tree.body) > 1 else opened.orelse[0].lineno
            raise Unreadable(f"line {line - 1}: it is indented less than the first line")
        tree.body = opened.body
    return tree


class _Lines:
    """Where lines begin, to turn lines and columns into characters."""

    def __init__(self, source: str) -> None:
        self._lines = source.split("\n")
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line) + 1)
        self.end = self._starts[-1]

    def of_characters(self, line: int, column: int) -> int:
        """The place of a column counted in characters, as `tokenize` does."""
        return self._starts[line - 1] + column

    def of_bytes(self, line: int, column: int) -> int:
        """The place of a column counted in bytes of UTF-8, as `ast` does."""
        text = self._lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode(errors="ignore"))
        return self._starts[line - 1] + column


def _tokens(source: str, lines: _Lines) -> Iterator[_Token]:
    """What is written, without comments and layout; a formatted string is one token."""
    skipped = (
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    )  # fmt: skip
    depth = opened = 0
    try:
        for found in tokenize.generate_tokens(io.StringIO(source).readline):
            start, end = lines.of_characters(*found.start), lines.of_characters(*found.end)
            if found.type in _OPENING:
                opened = opened if depth else start
                depth += 1
            elif found.type in _CLOSING:
                depth -= 1
                if not depth:
                    yield _Token(tokenize.STRING, source[opened:end], opened, end)
            elif not depth and found.type not in skipped and found.string.strip():
                yield _Token(found.type, found.string, start, end)
    except (tokenize.TokenError, SyntaxError) as error:
        raise Unreadable(str(error)) from None


def _nodes(tree: ast.Module, lines: _Lines, tokens: Sequence[_Token]) -> _Nodes:
    """The nodes that have a place, and their places: parents hold their children."""
    nodes, parents = [], []
    stack: list[tuple[ast.AST, int]] = [(tree, -1)]
    while stack:  # not recursive: a sum of a thousand terms is a thousand nodes deep
        node, parent = stack.pop()
        if isinstance(node, _UNREAD):
            continue
        nodes.append(node)
        parents.append(parent)
        if not isinstance(node, _WHOLE):
            stack.extend((child, len(nodes) - 1) for child in reversed(list(ast.iter_child_nodes(node))))
    starts, ends = [lines.end] * len(nodes), [-1] * len(nodes)
    at = [token.start for token in tokens]
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        if getattr(node, "end_lineno", None) is not None:
            place: Any = node
            starts[index] = min(starts[index], lines.of_bytes(place.lineno, place.col_offset))
            ends[index] = max(ends[index], lines.of_bytes(place.end_lineno, place.end_col_offset))
        for decorator in getattr(node, "decorator_list", ()):
            sign = bisect_left(at, lines.of_bytes(decorator.lineno, decorator.col_offset)) - 1
            while tokens[sign].text == "(":
                sign -= 1
            starts[index] = min(starts[index], tokens[sign].start)
        if index:
            above = parents[index]
            starts[above], ends[above] = min(starts[above], starts[index]), max(ends[above], ends[index])
    starts[0], ends[0] = -1, lines.end
    return _Nodes(nodes, parents, starts, ends)


def _innermost(nodes: _Nodes, tokens: Sequence[_Token]) -> list[int]:
    """The innermost node around each token."""
    order = sorted(range(len(nodes.nodes)), key=lambda index: (nodes.starts[index], -nodes.ends[index], index))
    home, open_ = [], []
    waiting = iter(order)
    following = next(waiting, None)
    for token in tokens:
        while following is not None and nodes.starts[following] <= token.start:
            open_.append(following)
            following = next(waiting, None)
        while nodes.ends[open_[-1]] <= token.start:
            open_.pop()
        home.append(open_[-1])
    return home


def _leaf(token: _Token, node: ast.AST) -> Leaf:
    kind = token.text
    if token.type == tokenize.STRING:
        kind = "string"
    elif token.type == tokenize.NUMBER:
        kind = "number"
    elif token.type in (tokenize.NAME, tokenize.ERRORTOKEN) and not _is_keyword(token, node):
        kind = "identifier"
    return Leaf(kind, token.text, token.start, token.end)


def _is_keyword(token: _Token, node: ast.AST) -> bool:
    """Whether a name is a keyword; `match`, `case` and `type` are where their statement holds them directly."""
    if keyword.iskeyword(token.text):
        return True
    return token.text in ("match", "case", "type") and type(node).__name__ in ("Match", "match_case", "TypeAlias")


def _without_wrappers(nodes: _Nodes, leaves: list[Leaf], home: list[int]) -> SyntaxTree:
    """The tree without nodes that hold no token, or are one."""
    children, held = [0] * len(nodes.nodes), [0] * len(nodes.nodes)
    for index in reversed(range(1, len(nodes.nodes))):
        children[nodes.parents[index]] += 1
    for at in home:
        held[at] += 1
    gone = [index > 0 and not children[index] and held[index] <= 1 for index in range(len(nodes.nodes))]
    number: dict[int, int] = {}
    kinds: list[str] = []
    parents: list[int] = []
    for index, node in enumerate(nodes.nodes):
        if not gone[index]:
            number[index] = len(kinds)
            kinds.append(type(node).__name__)
            parents.append(number.get(nodes.parents[index], -1))
    homes = tuple(number[nodes.parents[at] if gone[at] else at] for at in home)
    return SyntaxTree(tuple(kinds), tuple(parents), tuple(leaves), homes)


def _places(text: str) -> Sequence[int]:
    """Where each character stood before line ends were made alike."""
    if "\r" not in text:
        return range(len(text))
    return [index for index, character in enumerate(text) if character != "\n" or text[index - 1 : index] != "\r"]
