"""The syntax tree of a snippet, the standard library's functions among them.

Oracle: trees and distances worked out by hand; and, for code without decorators, a tree built here by looking for the
deepest node around each token one by one, searched breadth first.
"""

from __future__ import annotations

import ast
import inspect
import io
import keyword
import textwrap
import tokenize
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology.errors import MalformedData
from pytest_bertology.tasks.code import python, syntax_tree
from tests.families import few
from tests.snippets import functions

FUNCTIONS = functions(60)


def kinds(text: str) -> list[str]:
    return [leaf.type for leaf in syntax_tree(text).leaves]


def words(text: str) -> list[str]:
    return [leaf.text for leaf in syntax_tree(text).leaves]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 1.5", ["identifier", "=", "number"]),
        ("if a is not None: pass", ["if", "identifier", "is", "not", "None", ":", "pass"]),
        ("f = lambda *a, b=...: (c := b)",
         ["identifier", "=", "lambda", "*", "identifier", ",", "identifier", "=", "...", ":", "(", "identifier", ":=",
          "identifier", ")"]),
        ("x = 'a' \"b\" '''c\nd'''", ["identifier", "=", "string", "string", "string"]),
        ("x = f'{a:{b}} {f\"{c}\"}' 'd'", ["identifier", "=", "string", "string"]),
        ("match = case = type", ["identifier", "=", "identifier", "=", "identifier"]),
        ("match case:\n case [type]: pass",
         ["match", "identifier", ":", "case", "[", "identifier", "]", ":", "pass"]),
        ("async def f(): await g", ["async", "def", "identifier", "(", ")", ":", "await", "identifier"]),
        ("x = \\\n\ty  # z", ["identifier", "=", "identifier"]),
        ("größe = 1", ["identifier", "=", "number"]),
    ],
)  # fmt: skip
def test_every_token_but_comments_is_a_leaf_of_a_type(text, expected):
    assert kinds(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "é = 'ü'; ß = é\nx = ß",
        "def f(a):\r\n\tif a:\r\n\t\treturn '''x\r\ny'''\r\n\treturn a\r\n",
        "x = (1 +\r  2)",
        "    @dec(1)\n    def f(self):\n        return '''\nno indentation\n'''\n",
        "\n\n# first\n\n  x = [\n1]\n",
        "\fx = 'a\x0cb'\n",
    ],
)
def test_leaves_stand_where_their_text_does(text):
    found = [text[leaf.start : leaf.end] for leaf in syntax_tree(text).leaves]

    assert [word.replace("\r\n", "\n") for word in found] == words(text)
    assert len(found) >= 3


def test_formatted_strings_are_one_leaf_where_they_come_in_parts(monkeypatch):
    """As Python 3.12 and later have them; a string within the string is part of it."""
    text = "x = f'{a}{f\"b\"}' + y"
    parts = [
        (tokenize.NAME, "x", 0), (tokenize.OP, "=", 2), (-1, "f'", 4), (tokenize.OP, "{", 6), (tokenize.NAME, "a", 7),
        (tokenize.OP, "}", 8), (tokenize.OP, "{", 9), (-1, 'f"', 10), (-3, "b", 12), (-2, '"', 13),
        (tokenize.OP, "}", 14), (-2, "'", 15), (tokenize.OP, "+", 17), (tokenize.NAME, "y", 19),
    ]  # fmt: skip
    stream = [tokenize.TokenInfo(kind, word, (1, at), (1, at + len(word)), text) for kind, word, at in parts]
    monkeypatch.setattr(python, "_OPENING", {-1})
    monkeypatch.setattr(python, "_CLOSING", {-2})
    monkeypatch.setattr(python.tokenize, "generate_tokens", lambda readline: iter(stream))

    assert words(text) == ["x", "=", "f'{a}{f\"b\"}'", "+", "y"]
    assert kinds(text)[2] == "string"


def test_nodes_of_one_token_are_that_token():
    tree = syntax_tree("f(x, y=1)")

    assert tree.kinds == ("Module", "Expr", "Call", "keyword")
    assert [tree.kinds[home] for home in tree.homes] == ["Call"] * 4 + ["keyword"] * 3 + ["Call"]


def test_decorators_belong_to_what_they_decorate():
    tree = syntax_tree("class A:\n    @(a.b)\n    @c\n    def f(self): pass\n")

    homes = dict(zip(words("class A:\n    @(a.b)\n    @c\n    def f(self): pass\n"), tree.homes, strict=True))
    assert tree.kinds[homes["@"]] == tree.kinds[homes["c"]] == tree.kinds[homes["def"]] == "FunctionDef"
    assert tree.kinds[homes["b"]] == "Attribute"
    assert tree.kinds[homes["class"]] == "ClassDef"


def test_distances_worked_out_by_hand():
    # Module > FunctionDef (def f ( ) :) > arguments (x), Return (return) > BinOp (x + 1); the two x are joined.
    expected = [
        [0, 1, 2, 3, 2, 2, 3, 4, 4, 4],  # def
        [1, 0, 1, 2, 2, 2, 3, 3, 4, 4],  # f
        [2, 1, 0, 1, 2, 2, 3, 2, 3, 4],  # (
        [3, 2, 1, 0, 1, 2, 2, 1, 2, 3],  # x
        [2, 2, 2, 1, 0, 1, 2, 2, 3, 4],  # )
        [2, 2, 2, 2, 1, 0, 1, 2, 3, 4],  # :
        [3, 3, 3, 2, 2, 1, 0, 1, 2, 3],  # return
        [4, 3, 2, 1, 2, 2, 1, 0, 1, 2],  # x
        [4, 4, 3, 2, 3, 3, 2, 1, 0, 1],  # +
        [4, 4, 4, 3, 4, 4, 3, 2, 1, 0],  # 1
    ]

    assert np.array_equal(syntax_tree("def f(x):\n    return x + 1").distances(), expected)


@pytest.mark.parametrize("index", range(0, len(FUNCTIONS), 3))
def test_distances_are_those_of_a_tree_built_token_by_token(index):
    text = FUNCTIONS[index]

    assert np.array_equal(syntax_tree(text).distances(), built_here(text))


@few
@given(st.sampled_from(FUNCTIONS))
def test_distances_are_a_metric(text):
    distances = syntax_tree(text).distances()

    assert np.array_equal(distances, distances.T)
    assert np.array_equal(distances == 0, np.eye(len(distances), dtype=bool))
    assert (distances[:, None, :] <= distances[:, :, None] + distances[None, :, :]).all()
    assert (np.diagonal(distances, 1) == 1).all()


def test_distances_of_some_tokens_are_those_among_all():
    tree = syntax_tree(FUNCTIONS[0])

    assert np.array_equal(tree.distances([2, 5, 9]), tree.distances()[np.ix_([2, 5, 9], [2, 5, 9])])
    assert tree.distances([]).shape == (0, 0)


@few
@given(st.sampled_from(FUNCTIONS))
def test_other_names_and_comments_change_no_distance(text):
    tree = syntax_tree(text)
    renamed = text
    for leaf in reversed(tree.leaves):
        if leaf.type == "identifier":
            renamed = renamed[: leaf.start] + f"ö{leaf.text}_" + renamed[leaf.end :]
    commented = renamed + "\n# a comment\n"

    assert np.array_equal(syntax_tree(commented).distances(), tree.distances())
    assert syntax_tree(commented).homes == tree.homes


def test_uses_of_a_name_are_joined_one_to_the_next():
    tree = syntax_tree("a = 1\nb = 2\na = a\n")
    leaves = {(start - len(tree.kinds), end - len(tree.kinds)) for start, end in tree.edges()}

    assert {(0, 6), (6, 8)} <= leaves  # the a of the first line, and both of the third
    assert (0, 8) not in leaves


def test_names_are_equal_where_python_takes_them_for_equal():
    tree = syntax_tree("ﬁ = 1\nx = fi\n")  # a ligature, which Python reads as fi

    assert tree.distances()[0, 5] == 1


def test_a_method_is_read_as_its_class_has_it():
    text = inspect.getsource(textwrap.TextWrapper._split)
    method, alone = syntax_tree(text), syntax_tree(textwrap.dedent(text))

    assert (method.kinds, method.homes) == (alone.kinds, alone.homes)
    assert [leaf.type for leaf in method.leaves] == [leaf.type for leaf in alone.leaves]


def test_long_sums_are_no_matter():
    assert syntax_tree("x = " + " + ".join("a" * 400)).distances().max() > 100


def test_warnings_of_the_code_itself_are_not_ours():
    assert kinds(r"x = '\d' is 1") == ["identifier", "=", "string", "is", "number"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:\n    pass", "line 1: invalid syntax: 'def f(:'"),
        ("x = 1\ny = = 2\n", "line 2: invalid syntax: 'y = = 2'"),
        ("  x = 1\n  y = (\n", "line 2: '(' was never closed"),
        ("    x = 1\ny = 2", "line 2: it is indented less than the first line"),
        ("    if x:\n        y\nelse:\n    z\n", "line 4: it is indented less"),
        ("x = 1\0", "null byte"),
        ("x = '\ud800'", "surrogates"),
        ("x = " + "(" * 150 + ")" * 150 + "]", "line 1: "),
        ("# nothing", "it has no tokens of code"),
        ("", "it has no tokens of code"),
    ],
)
def test_what_is_no_python_is_told_with_its_line(text, message):
    with pytest.raises(MalformedData) as raised:
        syntax_tree(text, name="snippets[3]")

    assert message in str(raised.value)
    assert str(raised.value).startswith("snippets[3]: ")


def built_here(text: str) -> np.ndarray:
    """Distances by breadth-first search; for ASCII code without decorators and f-strings, from its first column."""
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:row])) for row in range(len(lines) + 1)]
    module = ast.parse(text)
    spans: dict[ast.AST, tuple[int, int]] = {}
    above: dict[object, ast.AST] = {}

    def span(node: ast.AST) -> tuple[int, int]:
        inner = [found for found in map(span, ast.iter_child_nodes(node)) if any(found)]
        if hasattr(node, "end_lineno"):
            begin = starts[node.lineno - 1] + node.col_offset
            inner.append((begin, starts[node.end_lineno - 1] + node.end_col_offset))
        for child in ast.iter_child_nodes(node):
            above[child] = node
        spans[node] = (min((a for a, _ in inner), default=0), max((b for _, b in inner), default=0))
        return spans[node]

    span(module)
    spans[module] = (0, len(text))

    def depth(node: ast.AST) -> int:
        return 0 if node is module else 1 + depth(above[node])

    tokens = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP):
            begin = starts[token.start[0] - 1] + token.start[1]
            tokens.append((begin, starts[token.end[0] - 1] + token.end[1], token))
    joined: dict[object, set[object]] = {}

    def join(one: object, other: object) -> None:
        joined.setdefault(one, set()).add(other)
        joined.setdefault(other, set()).add(one)

    held: dict[ast.AST, int] = {}
    homes = []
    for begin, end, _ in tokens:
        around = [node for node, (a, b) in spans.items() if a <= begin and end <= b]
        homes.append(max(around, key=depth))
        held[homes[-1]] = held.get(homes[-1], 0) + 1
    places = {node: True for node in spans if any(spans[node])}
    for node in places:
        if node is not module:
            join(node, above[node])
    uses: dict[str, int] = {}
    for index, (_, _, token) in enumerate(tokens):
        home = homes[index]
        single = held[home] == 1 and not any(child in places for child in ast.iter_child_nodes(home))
        join(index, above[home] if single and home is not module else home)
        if index:
            join(index, index - 1)
        if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
            if token.string in uses:
                join(index, uses[token.string])
            uses[token.string] = index
    return np.array([_hops(joined, index, len(tokens)) for index in range(len(tokens))])


def _hops(joined: dict[object, set[object]], start: int, tokens: int) -> list[int]:
    found: dict[object, int] = {start: 0}
    waiting = deque([start])
    while waiting:
        here = waiting.popleft()
        for there in joined[here]:
            if there not in found:
                found[there] = found[here] + 1
                waiting.append(there)
    return [found[index] for index in range(tokens)]
