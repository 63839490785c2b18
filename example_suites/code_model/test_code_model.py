"""A model of code: does it attend along the syntax tree, in which layers, and with which heads?

The functions here are the standard library's and the numbers the embedded model's, which was never trained on code:
put functions of your own repository, your model's numbers and a tolerance in their place. Other languages than Python
need `pip install "pytest-bertology[code]"`.
"""

from __future__ import annotations

import bisect
import calendar
import fnmatch
import heapq
import inspect
import shlex
import textwrap

import pytest

from pytest_bertology import assert_cat_score, assert_heads_in_top, cat_score

FUNCTIONS = [
    inspect.getsource(function)
    for module in (bisect, calendar, fnmatch, heapq, shlex, textwrap)
    for name, function in sorted(vars(module).items())
    if inspect.isfunction(function) and function.__module__ == module.__name__
    if 100 <= len(inspect.getsource(function)) <= 900
]
JAVASCRIPT = [
    "function clamp(x, low, high) { return Math.max(low, Math.min(x, high)); }",
    "const sum = (values) => values.reduce((total, value) => total + value, 0);",
    "async function load(url) {\n  const answer = await fetch(url);\n  return answer.json();\n}",
    "for (let i = 0; i < rows.length; i++) {\n  if (!rows[i].done) {\n    queue.push(rows[i]);\n  }\n}",
    "class Point {\n  constructor(x, y) {\n    this.x = x;\n    this.y = y;\n  }\n}",
    "try { parse(text); } catch (error) { report(error.message, text); }",
]


@pytest.fixture(scope="module")
def every_layer(bertology_model):
    return cat_score(bertology_model, FUNCTIONS, layer="all")


def test_a_middle_layer_attends_to_what_is_near_in_the_tree(bertology_model):
    """Attention by distance in the text alone would too: `above_neighbours=True` asks for more than that."""
    report = assert_cat_score(bertology_model, FUNCTIONS, at_least=0.25, layer=2)

    assert not report.above_neighbours  # it was never trained on code


def test_the_last_layer_does_so_more_than_chance(bertology_model):
    assert_cat_score(bertology_model, FUNCTIONS, at_least=0.11)


def test_structure_is_in_the_early_layers(every_layer):
    """Print `every_layer.table()` to see them all."""
    assert max(every_layer.by_layer, key=every_layer.by_layer.get) in (1, 2)
    assert min(every_layer.by_layer, key=every_layer.by_layer.get) == 5


def test_the_heads_that_know_the_tree_are_still_there(every_layer):
    """After a new training run, or pruning, these should still be among the first."""
    assert_heads_in_top(every_layer.by_head, [(3, 8), (1, 2)], k=10)


def test_snippets_that_do_not_parse_are_counted(bertology_model):
    report = cat_score(bertology_model, [*FUNCTIONS[:5], "def f(:"], errors="skip")

    assert report.unreadable == (5,)


def test_javascript(bertology_model):
    pytest.importorskip("tree_sitter_javascript")

    assert_cat_score(bertology_model, JAVASCRIPT, at_least=0.2, language="javascript", layer=2)
