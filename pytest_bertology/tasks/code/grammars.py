"""Syntax trees of other languages than Python, by the grammars of tree-sitter (the extra `code`)."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from pytest_bertology.errors import InvalidArgument, MissingExtra
from pytest_bertology.tasks.code.trees import Leaf, SyntaxTree, Unreadable

IN_EXTRA = ("c", "cpp", "go", "java", "javascript")
"""Languages whose grammars come with the extra."""
_ENTRY = {"typescript": "language_typescript", "tsx": "language_tsx", "php": "language_php_only"}
_PACKAGE = {"tsx": "typescript"}


def grammar_tree(text: str, language: str) -> SyntaxTree:
    """The tree of a snippet in tree-sitter's grammar of a language: its leaves are the tree's, comments left out.

    A leaf's type is that of its node. Raises Unreadable for what has a syntax error; InvalidArgument and MissingExtra
    as `check_language`.
    """
    parser = _parser(language)
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        raise Unreadable(str(error)) from None
    root = parser.parse(data).root_node
    if root.has_error:
        raise Unreadable(_first_error(root, text))
    # How many characters begin before each byte: bytes 10xxxxxx go on with one.
    begun = np.concatenate([[0], np.cumsum((np.frombuffer(data, dtype=np.uint8) & 0xC0) != 0x80)])
    kinds: list[str] = []
    parents: list[int] = []
    leaves: list[Leaf] = []
    homes: list[int] = []
    stack = [(root, -1)]
    while stack:
        node, parent = stack.pop()
        if "comment" in node.type:
            continue
        if parent < 0 or node.child_count:
            kinds.append(node.type)
            parents.append(parent)
            stack.extend((child, len(kinds) - 1) for child in reversed(node.children))
            continue
        start, end = int(begun[node.start_byte]), int(begun[node.end_byte])
        if text[start:end].strip():  # some grammars have ends of lines, and tokens of no characters
            leaves.append(Leaf(node.type, text[start:end], start, end))
            homes.append(parent)
    return SyntaxTree(tuple(kinds), tuple(parents), tuple(leaves), tuple(homes))


def check_language(language: object) -> None:
    """Raise InvalidArgument for a language that is not known, MissingExtra where its grammar is not installed."""
    if not isinstance(language, str) or not re.fullmatch("[a-z][a-z0-9_]*", language):
        raise InvalidArgument("language", language, _known())
    _parser(language)


def _known() -> str:
    others = "another whose package tree-sitter-<language> is installed"
    return f"'python', {', '.join(map(repr, IN_EXTRA))} with the extra code, or {others}"


@lru_cache(maxsize=16)
def _parser(language: str) -> Any:
    package = f"tree_sitter_{_PACKAGE.get(language, language)}"
    if find_spec(package) is None or find_spec("tree_sitter") is None:
        if language in IN_EXTRA or find_spec(package) is not None:
            missing = "tree-sitter" if find_spec("tree_sitter") is None else package.replace("_", "-")
            raise MissingExtra(f"reading {language}", missing, "code")
        raise InvalidArgument("language", language, _known())
    tree_sitter, grammar = import_module("tree_sitter"), import_module(package)
    entry = getattr(grammar, _ENTRY.get(language, "language"), None)
    if entry is None:
        raise InvalidArgument("language", language, _known())
    return tree_sitter.Parser(tree_sitter.Language(entry()))


def _first_error(root: Any, text: str) -> str:
    """Where the first syntax error stands, and what is there."""
    stack = [root]
    while stack:
        node = stack.pop()
        if node.is_missing:
            return f"line {node.start_point[0] + 1}: {node.type!r} is missing"
        if node.is_error:
            row = node.start_point[0]
            return f"line {row + 1}: syntax error: {text.split(chr(10))[row].strip()[:80]!r}"
        stack.extend(child for child in reversed(node.children) if child.has_error)
    return "it has a syntax error"
