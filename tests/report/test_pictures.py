"""Results as pictures: text that is always the same, and says the same in words.

Oracle: scores written by hand, an XML parser, matplotlib's own defaults left as they were.
"""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest

from pytest_bertology import Head, HeadMap, HeadScores, attention_statistics, pruning_curve
from pytest_bertology.engine.announcing import Announcement, listening
from pytest_bertology.errors import MissingExtra
from pytest_bertology.measures.attention_maps import AttentionMaps
from pytest_bertology.report import pictures
from pytest_bertology.report.pictures import Picture, picture
from tests.planted import planted_model, planted_task

SCORES = HeadScores(np.arange(8.0), HeadMap([4, 4]), "gradient")


def announced(value=SCORES, kind="importance", task="<script>data", **more):
    return Announcement(kind, value, "the $model$", task, **more)


def words(svg):
    return [each.text for each in ElementTree.fromstring(svg).iter() if each.tag.endswith("text")]


def test_a_picture_has_title_text_and_axes():
    found = picture(announced(state="1 head masked: L0H0"))

    assert found.title.splitlines() == ["gradient importance", "the $model$ on <script>data", "1 head masked: L0H0"]
    assert {"layer", "head", "gradient"} <= set(words(found.svg))
    assert found.alt.splitlines()[0] == "L1H3  7"
    assert len(found.alt.splitlines()) == 8


def test_the_same_result_gives_the_same_text():
    first = picture(announced())
    pictures._drawn.clear()
    other = HeadScores(np.arange(8.0), HeadMap([4, 4]), "gradient")

    again = picture(announced(other))

    assert again == first
    assert again.digest == first.digest
    assert "matplotlib" not in again.svg
    assert picture(announced(HeadScores(np.arange(1.0, 9.0), HeadMap([4, 4]), "gradient"))).digest != first.digest


def test_drawing_leaves_matplotlib_as_it_was():
    before = dict(mpl.rcParams)

    picture(announced(HeadScores(np.ones(4), HeadMap([4]), "ours")))

    assert dict(mpl.rcParams) == before


def test_one_result_is_drawn_once(monkeypatch):
    picture(announced())
    monkeypatch.setattr(pictures, "_made", lambda *_: pytest.fail("drawn again"))

    assert picture(announced()) is picture(announced())


def test_what_is_drawn_already_is_passed_on_without_matplotlib(monkeypatch):
    drawn = Picture("curve", "a title", "<svg/>", "words")
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert picture(announced(drawn)) is drawn
    assert picture(announced(None, picture=drawn.to_jsonable())) == drawn


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    pictures._drawn.clear()
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtra, match=r"pytest-bertology\[figures\]"):
        picture(announced())


def test_curves_statistics_and_views_are_announced_and_drawn():
    model, task, heard = planted_model(Head(1, 2)), planted_task(), []

    with listening(heard.append):
        pruning_curve(model, task, fractions=(0.0, 1.0))
        attention_statistics(model, task.texts[:2])
        AttentionMaps(model, task.texts[:2]).view((1, 2))
    drawn = [picture(found) for found in heard]

    assert [found.kind for found in drawn] == ["curve", "attention", "view"]
    assert "heads masked (%)" in words(drawn[0].svg)
    assert drawn[2].title.startswith("attention of L1H2\n")
    assert "→" in drawn[2].alt
    assert all(len(found.svg) < 100_000 for found in drawn)


def test_long_tables_say_how_much_is_left_out():
    many = HeadScores(np.arange(2000.0), HeadMap([100] * 20), "ours")

    *_, last = pictures.in_words(many).splitlines()

    shown = len(pictures.in_words(many).splitlines()) - 1
    assert last == f"… and {2000 - shown} more lines"
