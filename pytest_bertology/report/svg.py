"""SVG that may stand within a page: what matplotlib writes, made small, safe and of the page's own colours."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from xml.etree import ElementTree

_SVG = "http://www.w3.org/2000/svg"
INK = "#000001"
"""Drawn in this, text and axes take the colour of the text around the figure."""
_COLOURS = {
    INK: "currentColor",
    "#333333": "currentColor",
    "#595959": "var(--figure-soft, #595959)",
    "#cccccc": "var(--figure-line, #cccccc)",
    "#ebebeb": "var(--figure-grid, #ebebeb)",
    "#1f59a6": "var(--figure-blue, #1f59a6)",
}
"""Colours of the figures of this package that would be lost on a dark page."""
# fmt: off
_ELEMENTS = frozenset((
    "svg", "g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan", "use", "image",
    "defs", "clipPath", "title", "desc", "linearGradient", "radialGradient", "stop", "marker",
))
_ATTRIBUTES = frozenset((
    "id", "d", "x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy", "width", "height", "points",
    "transform", "style", "clip-path", "fill", "stroke", "opacity", "fill-opacity", "stroke-opacity", "stroke-width",
    "stroke-linejoin", "stroke-linecap", "offset", "stop-color", "viewBox", "href", "clipPathUnits", "gradientUnits",
    "gradientTransform", "preserveAspectRatio", "text-anchor", "font-size", "fill-rule",
))
# fmt: on
_NUMBERS = frozenset(("d", "x", "y", "width", "height", "transform", "viewBox", "points"))
_RECTANGLE = re.compile(r"M (\S+) (\S+) L (\S+) \2 L \3 (\S+) L \1 \4 L \1 \2 z")
_REFERENCE = re.compile(r"(?:url\(#|^#)([^)]*)")


def tidied(svg: str) -> str:
    """An SVG document as it may stand in a page: known elements and attributes only, no script, link or style sheet.

    Numbers are cut to two decimals, ids to those that are needed, each with a digest of the whole in its name: so
    figures of one page do not use each other's parts, and equal figures are equal text. Raises ValueError for what is
    no SVG.
    """
    root = _parsed(svg)
    _clean(root)
    root.attrib.pop("id", None)
    names = {name: f"@{number}@" for number, name in enumerate(_referenced(root))}
    _rename(root, names)
    _unwrap(root)
    _join_paths(root)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("font-family", "sans-serif")  # where it stands alone: in a page, letters are the page's
    root.set("xmlns", _SVG)
    text = re.sub(r">\s+<", "><", ElementTree.tostring(root, encoding="unicode").strip())
    prefix = f"f{hashlib.sha256(text.encode()).hexdigest()[:10]}"
    return re.sub(r"@(\d+)@", rf"{prefix}-\1", text)


def parts(svg: str) -> tuple[str, str]:
    """The viewBox of a tidied SVG, and what is inside it."""
    found = re.fullmatch(r"<svg([^>]*)>(.*)</svg>", svg, flags=re.DOTALL)
    box = found and re.search(r'viewBox="([\d. eE+-]+)"', found[1])
    if not found or not box:
        raise ValueError("not an SVG with a viewBox")
    return box[1], found[2]


def _parsed(svg: str) -> ElementTree.Element:
    if "<!ENTITY" in svg:
        raise ValueError("an SVG with entities")
    try:
        root = ElementTree.fromstring(svg)  # noqa: S314 - expat resolves nothing outside, and entities are refused
    except ElementTree.ParseError as error:
        raise ValueError(f"not an SVG: {error}") from None
    if _local(root.tag) != "svg":
        raise ValueError(f"not an SVG, but <{_local(root.tag)}>")
    return root


def _clean(element: ElementTree.Element) -> None:
    """Keep what is known, by its plain name."""
    element.tag = _local(element.tag)
    if element.tag not in ("text", "tspan", "title", "desc"):
        element.text = None
    kept = {}
    for key, value in element.attrib.items():
        name = _local(key)
        if name in _ATTRIBUTES and _harmless(name, value):
            kept[name] = _rewritten(name, value)
            if not kept[name]:
                del kept[name]
    element.attrib.clear()
    element.attrib.update(kept)
    for child in list(element):
        if isinstance(child.tag, str) and _local(child.tag) in _ELEMENTS:
            _clean(child)
        else:
            element.remove(child)


def _harmless(name: str, value: str) -> bool:
    """Whether a value points to nothing outside of the picture."""
    if name == "href":
        return re.match(r"#|data:image/png;base64,[\sA-Za-z0-9+/=]*$", value) is not None
    return not re.search(r"url\((?!#)|expression|javascript|import|@|\\", value, flags=re.IGNORECASE)


def _rewritten(name: str, value: str) -> str:
    if name in _NUMBERS:
        value = re.sub(r"rotate\(-?0(\.0*)? [^)]*\)", "", value)
        value = re.sub(r"-?\d+\.\d+(?:e[+-]?\d+)?", lambda found: _short(float(found[0])), value)
        return _RECTANGLE.sub(r"M\1 \2H\3V\4H\1z", re.sub(r"\s+", " ", value).strip())
    if name == "href":
        return re.sub(r"\s", "", value)
    if name in ("style", "fill", "stroke"):
        value = re.sub(r"(font:[^;]*?)'[^;]*", r"\1sans-serif", re.sub(r"\s*font-family:[^;]*;?", "", value))
        for colour, instead in _COLOURS.items():
            value = re.sub(rf"(?<!, ){colour}", instead, value)
    return value


def _unwrap(element: ElementTree.Element) -> None:
    """Take away groups that do nothing."""
    children: list[ElementTree.Element] = []
    for child in list(element):
        _unwrap(child)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    for child in list(element):
        element.remove(child)
    element.extend(child for child in children if len(child) or child.tag != "defs")


def _short(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}".rstrip("0").rstrip(".")  # + 0.0: no minus before a zero


def _join_paths(element: ElementTree.Element) -> None:
    """Neighbouring paths that are lines of one style become one path."""
    before: ElementTree.Element | None = None
    for child in list(element):
        _join_paths(child)
        same = (
            before is not None
            and child.tag == before.tag == "path"
            and "fill: none" in child.get("style", "")
            and "opacity" not in child.get("style", "")
            and {**child.attrib, "d": ""} == {**before.attrib, "d": ""}
        )
        if same and before is not None:
            before.set("d", f"{before.get('d')} {child.get('d')}")
            element.remove(child)
        else:
            before = child


def _referenced(root: ElementTree.Element) -> Iterator[str]:
    """Ids that something refers to, each once, in order."""
    known = set()
    for element in root.iter():
        for name, value in element.attrib.items():
            found = _REFERENCE.search(value) if name in ("href", "clip-path", "style", "fill", "stroke") else None
            if found and found[1] not in known:
                known.add(found[1])
                yield found[1]


def _rename(root: ElementTree.Element, names: dict[str, str]) -> None:
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == "id":
                if value in names:
                    element.set("id", names[value])
                else:
                    del element.attrib["id"]
            elif name in ("href", "clip-path", "style", "fill", "stroke"):
                element.set(name, _REFERENCE.sub(lambda m: m[0].replace(m[1], names.get(m[1], m[1])), value))


def _local(name: object) -> str:
    return str(name).rpartition("}")[2]
