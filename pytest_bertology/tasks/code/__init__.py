"""Code as a tree: its tokens, and how far apart they are in its syntax."""

from __future__ import annotations

from pytest_bertology.errors import MalformedData
from pytest_bertology.tasks.code.grammars import check_language, grammar_tree
from pytest_bertology.tasks.code.python import python_tree
from pytest_bertology.tasks.code.trees import Leaf, SyntaxTree, Unreadable

__all__ = ["Leaf", "SyntaxTree", "check_code_language", "syntax_tree"]


def syntax_tree(text: str, language: str = "python", *, name: str = "the snippet") -> SyntaxTree:
    """The syntax tree of a snippet: by `ast` and `tokenize` for Python, by tree-sitter for other languages.

    Raises MalformedData, with `name` and the line, for what cannot be parsed or has no tokens but comments;
    InvalidArgument for an unknown language, MissingExtra without its grammar.
    """
    check_code_language(language)
    try:
        tree = python_tree(text) if language == "python" else grammar_tree(text, language)
    except Unreadable as error:
        raise MalformedData(name, f"it cannot be read as {language}: {error}") from None
    if not tree.leaves:
        raise MalformedData(name, "it has no tokens of code")
    return tree


def check_code_language(language: object) -> None:
    """Raise InvalidArgument for a language that is not known, MissingExtra where its grammar is not installed."""
    if language != "python":
        check_language(language)
