"""What is left of an SVG that is to stand within a page.

Oracle: SVGs written by hand, read back with an XML parser.
"""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from pytest_bertology.report.svg import parts, tidied


def svg(inside, box="0 0 10 10"):
    return f"""<?xml version="1.0"?>
        <svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}" width="10pt"
        onload="alert(1)">{inside}</svg>"""


def names(text):
    return [element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()]


@pytest.mark.parametrize(
    "hostile",
    [
        "<script>alert(1)</script>",
        "<foreignObject><p xmlns='http://www.w3.org/1999/xhtml'>html</p></foreignObject>",
        "<style>@import url(http://example.org/a.css)</style>",
        "<image xlink:href='http://example.org/a.png'/>",
        "<image href='data:image/svg+xml;base64,PHN2Zz4='/>",
        "<use href='http://example.org/a.svg#x'/>",
        "<path d='M0 0' onclick='alert(1)'/>",
        "<path d='M0 0' style='fill: url(http://example.org/x)'/>",
        "<path d='M0 0' style='fill: url(&#34;javascript:alert(1)&#34;)'/>",
        "<a href='javascript:alert(1)'><text>text</text></a>",
        "<animate attributeName='href' values='javascript:alert(1)'/>",
    ],
)
def test_nothing_is_left_that_runs_or_loads(hostile):
    found = tidied(svg(hostile))

    kept = " ".join(f"{name} {value}" for each in ElementTree.fromstring(found).iter() for name, value in each.items())
    assert not {"script", "foreignObject", "style", "a", "animate"} & set(names(found))
    assert not any(word in kept for word in ("alert", "example.org", "javascript", "svg+xml", "onclick"))


def test_text_stays_text():
    found = tidied(svg("<text x='1.23456'>&lt;script&gt; &amp; so</text>"))

    (text,) = [element for element in ElementTree.fromstring(found).iter() if element.tag.endswith("text")]
    assert text.text == "<script> & so"
    assert text.get("x") == "1.23"


def test_ids_that_are_used_are_the_pictures_own_and_others_go():
    def drawn(width):
        return tidied(
            svg(
                f"<defs><clipPath id='p1'><rect width='{width}' height='1'/></clipPath></defs>"
                "<g id='unused' clip-path='url(#p1)'><path id='m' d='M 0 0 L 1 1' style='fill: none'/>"
                "<use xlink:href='#m' x='1'/></g>"
            )
        )

    one, two = drawn(1), drawn(2)

    of_one, of_two = ({e.get("id") for e in ElementTree.fromstring(text).iter()} - {None} for text in (one, two))
    assert len(of_one) == len(of_two) == 2
    assert not of_one & of_two
    assert all(f"#{name}" in one for name in of_one)


def test_the_same_again_is_the_same():
    once = tidied(svg("<g id='a'><path d='M 0 0 L 1.005 2' style='fill: none; stroke: #cccccc'/></g><use href='#a'/>"))

    assert tidied(once) == once


def test_ink_and_greys_follow_the_page_and_other_colours_stay():
    found = tidied(svg("<path style='fill: #000001'/><path style='stroke: #cccccc'/><path style='fill: #ffffff'/>"))

    assert "fill: currentColor" in found
    assert "var(--figure-line, #cccccc)" in found
    assert "fill: #ffffff" in found


def test_the_inside_comes_with_its_box():
    box, inside = parts(tidied(svg("<path d='M0 0'/>", box="0 0 451.634 300")))

    assert box == "0 0 451.63 300"
    assert inside == '<path d="M0 0" />'


@pytest.mark.parametrize(
    "text", ["", "no xml <", "<html></html>", '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "<svg><g></svg>"]
)
def test_what_is_no_svg_is_refused(text):
    with pytest.raises(ValueError, match="SVG"):
        tidied(text)
