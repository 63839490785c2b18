"""Heat maps of heads from plain numbers, as a PNG with one pixel a head: no picture library, and half a kilobyte."""

from __future__ import annotations

import math
import re
import struct
import zlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_STEPS = 25
"""Colours of a map. An odd number: the middle one of two-sided maps is zero's."""
# Viridis (Smith and van der Walt 2015) and RdBu (Brewer), at equal distances; both can be told apart by all eyes.
_ONE_SIDED = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725")
_TWO_SIDED = ("#67001f", "#b2182b", "#d6604d", "#f4a582", "#f7f7f7", "#92c5de", "#4393c3", "#2166ac", "#053061")
_MOST_LABELS = 16


@dataclass(frozen=True)
class Frame:
    """What is around the colours: the same for all maps of a model's heads."""

    width: int
    height: int
    grid: str
    """The path around all heads."""
    labels: tuple[tuple[str, float, float, str], ...]
    """Text, place and anchor, of layers and heads."""

    @property
    def id(self) -> str:
        """A name for it within a page."""
        return f"g{zlib.crc32(repr(self).encode()):08x}"


@dataclass(frozen=True)
class HeatMap:
    """One map: squares of one size, layers upwards from the bottom, heads from the left."""

    title: str
    frame: Frame
    png: str
    """The colours, in base64: a pixel a head, transparent where there is none."""
    low: float
    high: float
    scale: str
    """The colours from low to high, for a CSS gradient."""
    words: str
    """What it shows, for those who do not see it."""


def heat_maps(evidence: dict[str, Any]) -> list[HeatMap]:
    """A map for each list of numbers beside `heads`, and one of what candidate has more than baseline.

    Candidate and baseline have one scale. Heads that cannot be read, or lists of other lengths, give no map.
    """
    heads = [str(head) for head in evidence.get("heads", ())]
    places = _places(heads)
    lists = {
        name: [_number(value) for value in values]
        for name, values in evidence.items()
        if name != "heads" and isinstance(values, list) and len(values) == len(heads)
    }
    if not places or not heads:
        return []
    order: list[str] = [name for name in ("candidate", "baseline") if name in lists]
    order += [name for name in lists if name not in order]
    known = [value for name in order[:2] for value in lists[name] if value is not None]
    both = order[:2] == ["candidate", "baseline"]
    maps = []
    for name in order:
        values = lists[name]
        limits = known if both and name in order[:2] else [value for value in values if value is not None]
        maps.append(_heat_map(name, heads, places, values, limits, two_sided=min(limits, default=0.0) < 0))
    if both:
        change = [
            None if new is None or old is None else new - old
            for new, old in zip(lists["candidate"], lists["baseline"], strict=True)
        ]
        limits = [value for value in change if value is not None]
        maps.insert(2, _heat_map("difference", heads, places, change, limits, two_sided=True))
    return maps


def most_changed(evidence: dict[str, Any], k: int = 8) -> list[tuple[str, float, float, float]]:
    """The heads whose candidate is furthest from its baseline: head, baseline, candidate, difference."""
    lists = [evidence.get(name) for name in ("heads", "baseline", "candidate")]
    if not all(isinstance(each, list) for each in lists) or len({len(each or ()) for each in lists}) != 1:
        return []
    rows = []
    for head, old, new in zip(*(each or () for each in lists), strict=True):
        before, after = _number(old), _number(new)
        if before is not None and after is not None:
            rows.append((str(head), before, after, after - before))
    return sorted(rows, key=lambda row: -abs(row[3]))[:k]


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _places(heads: Sequence[str]) -> list[tuple[str, int, int]]:
    """Stack, layer and head of each name; none at all where one cannot be read."""
    found = [re.fullmatch(r"(?:(.+)\.)?L(\d{1,4})H(\d{1,4})", head) for head in heads]
    return [(m[1] or "", int(m[2]), int(m[3])) for m in found if m] if all(found) else []


def _heat_map(
    title: str,
    heads: Sequence[str],
    places: Sequence[tuple[str, int, int]],
    values: Sequence[float | None],
    limits: Sequence[float],
    *,
    two_sided: bool,
) -> HeatMap:
    reach = max((abs(value) for value in limits), default=0.0) or 1.0
    low, high = (-reach, reach) if two_sided else (0.0, max(limits, default=0.0) or 1.0)
    colours = _colours(_TWO_SIDED if two_sided else _ONE_SIDED)
    rows = _rows(places)
    height, width = len(rows), max(head for _, _, head in places) + 1
    pixels = [[0] * width for _ in range(height)]
    grid = []
    for (stack, layer, head), value in zip(places, values, strict=True):
        row = height - 1 - rows[stack, layer]
        grid.append(f"M{head} {row}h1v1h-1z")
        if value is not None:
            step = round((value - low) / (high - low) * (_STEPS - 1))
            pixels[row][head] = 1 + min(max(step, 0), _STEPS - 1)
    frame = Frame(width, height, "".join(grid), _labels(rows, width, height))
    known = [(value, head) for value, head in zip(values, heads, strict=True) if value is not None]
    words = f"{title} of {len(heads)} heads"
    if known:
        (least, where), (most, there) = min(known), max(known)
        words += f", from {least:.4g} ({where}) to {most:.4g} ({there})"
    return HeatMap(title, frame, _png(pixels, colours), low, high, ", ".join(colours[::4]), words)


def _rows(places: Sequence[tuple[str, int, int]]) -> dict[tuple[str, int], int]:
    """The row of each layer, counted from the bottom; a stack stands above the one before it."""
    stacks = list(dict.fromkeys(stack for stack, _, _ in places))
    rows: dict[tuple[str, int], int] = {}
    start = 0
    for stack in stacks:
        layers = max(layer for own, layer, _ in places if own == stack) + 1
        rows |= {(stack, layer): start + layer for layer in range(layers)}
        start += layers
    return rows


def _labels(rows: dict[tuple[str, int], int], width: int, height: int) -> tuple[tuple[str, float, float, str], ...]:
    every = -(-height // _MOST_LABELS)
    found = [
        (f"{stack} {layer}" if stack and layer == 0 else str(layer), -0.3, height - 1 - row + 0.72, "end")
        for (stack, layer), row in rows.items()
        if layer % every == 0
    ]
    found += [(str(head), head + 0.5, height + 0.95, "middle") for head in range(0, width, -(-width // _MOST_LABELS))]
    return tuple(found)


def _colours(anchors: Sequence[str]) -> list[str]:
    """The steps between the anchors, each channel in proportion."""
    channels = [[int(anchor[i : i + 2], 16) for i in (1, 3, 5)] for anchor in anchors]
    found = []
    for step in range(_STEPS):
        place = step / (_STEPS - 1) * (len(anchors) - 1)
        below = min(int(place), len(anchors) - 2)
        share = place - below
        mixed = [round(a + (b - a) * share) for a, b in zip(channels[below], channels[below + 1], strict=True)]
        found.append("#" + "".join(f"{channel:02x}" for channel in mixed))
    return found


def _png(pixels: Sequence[Sequence[int]], colours: Sequence[str]) -> str:
    """A picture of these colours, counted from 1, in base64; 0 is transparent (PNG specification, indexed colour)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    size = struct.pack(">IIBBBBB", len(pixels[0]), len(pixels), 8, 3, 0, 0, 0)
    palette = bytes(3) + b"".join(bytes.fromhex(colour[1:]) for colour in colours)
    rows = b"".join(b"\0" + bytes(row) for row in pixels)
    chunks = ((b"IHDR", size), (b"PLTE", palette), (b"tRNS", b"\0"), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)).decode()
