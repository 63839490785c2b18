"""Trees of other languages, by tree-sitter.

Oracle: the tokens of short snippets, and distances worked out by hand.
"""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from pytest_bertology.errors import InvalidArgument, MalformedData, MissingExtra
from pytest_bertology.tasks.code import grammars, syntax_tree

SNIPPETS = {
    "javascript": ("function é(a) {\n  // x\n  return a.b + 'é';\n}\n", "function é ( a ) { return a . b + ' é ' ; }"),
    "java": ("int f(List<A> x) { /* y */ return x.size(); }", "int f ( List < A > x ) { return x . size ( ) ; }"),
    "go": ("func f(x int) int {\n\treturn x + 1 // y\n}\n", "func f ( x int ) int { return x + 1 }"),
    "c": ("int f(char *s) {\r\n  return s[0] == 1;\r\n}", "int f ( char * s ) { return s [ 0 ] == 1 ; }"),
    "cpp": ("int A::f() const { return v.g(); }", "int A :: f ( ) const { return v . g ( ) ; }"),
}


@pytest.fixture(autouse=True)
def _parsers_anew():
    grammars._parser.cache_clear()
    yield
    grammars._parser.cache_clear()


@pytest.mark.parametrize("language", SNIPPETS)
def test_leaves_are_the_tokens_without_comments(language):
    text, expected = SNIPPETS[language]

    leaves = syntax_tree(text, language).leaves

    assert [leaf.text for leaf in leaves] == expected.split()
    assert [text[leaf.start : leaf.end] for leaf in leaves] == expected.split()
    assert {"identifier", "return", "("} <= {leaf.type for leaf in leaves}


def test_distances_worked_out_by_hand():
    # program > expression_statement (;) > assignment_expression (=) > a, binary_expression (a * 2)
    expected = [
        [0, 1, 1, 2, 3, 3],  # a
        [1, 0, 1, 2, 3, 3],  # =
        [1, 1, 0, 1, 2, 3],  # a, the next use
        [2, 2, 1, 0, 1, 2],  # *
        [3, 3, 2, 1, 0, 1],  # 2
        [3, 3, 3, 2, 1, 0],  # ;
    ]

    assert np.array_equal(syntax_tree("a = a * 2;", "javascript").distances(), expected)


def test_names_of_two_kinds_are_two_names():
    distances = syntax_tree("a; f(x.a); a", "javascript").distances()

    assert distances[0, 6] > 1  # a variable, and a property
    assert distances[0, 9] == 1


@pytest.mark.parametrize(
    ("text", "language", "message"),
    [
        ("f(1;", "javascript", "line 1"),
        ("int f() {\n  return = ;\n}", "java", "line 2"),
        ("// nothing", "go", "no tokens of code"),
        ("'\ud800'", "c", "surrogates"),
    ],
)
def test_errors_are_told_with_their_line(text, language, message):
    with pytest.raises(MalformedData, match=message):
        syntax_tree(text, language)


@pytest.mark.parametrize("language", ["Java", "", "klingon", "../c", None, 3])
def test_unknown_languages_are_refused(language):
    with pytest.raises(InvalidArgument, match="javascript"):
        syntax_tree("x", language)


@pytest.mark.parametrize("gone", ["tree_sitter", "tree_sitter_go"])
def test_without_its_grammar_a_language_names_the_extra(monkeypatch, gone):
    there = importlib.util.find_spec
    monkeypatch.setattr(grammars, "find_spec", lambda name: None if name == gone else there(name))

    with pytest.raises(MissingExtra, match=rf"{gone.replace('_', '-')}.*pytest-bertology\[code\]"):
        syntax_tree("x := 1", "go")
