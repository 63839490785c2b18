"""Values that can be kept as JSON and come back equal: plain ones, and those of heads."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

_TAG = "@"
_LIGHT = ("HeadScores", "HeadMask")
"""Frozen dataclasses of `heads`, kept field by field."""


class NotPlain(TypeError):
    """A value that could not come back as it is."""


def encode(value: Any) -> Any:
    """As lists, dictionaries and numbers; raises NotPlain."""
    if value is None or isinstance(value, bool | str) or type(value) in (int, float):
        return value
    kind = type(value)
    if kind is list:
        return [encode(part) for part in value]
    if kind is tuple:
        return {_TAG: "tuple", "parts": [encode(part) for part in value]}
    if kind is dict:
        return {_TAG: "dict", "parts": [[encode(name), encode(part)] for name, part in value.items()]}
    if kind.__module__ == "numpy":
        return _number(value)
    if kind.__module__.startswith("pytest_bertology.heads."):
        return _of_heads(value)
    raise NotPlain(kind.__qualname__)


def _number(value: Any) -> Any:
    """A number or an array of NumPy's; objects and records are none."""
    if type(value).__name__ == "ndarray":
        if value.dtype.kind not in "biuf":
            raise NotPlain(f"an array of {value.dtype}")
        return {_TAG: "array", "dtype": value.dtype.str, "shape": list(value.shape), "parts": value.ravel().tolist()}
    if getattr(value, "dtype", None) is not None and value.dtype.kind in "biuf":
        return {_TAG: "scalar", "dtype": value.dtype.str, "value": value.item()}
    raise NotPlain(type(value).__qualname__)


def _of_heads(value: Any) -> Any:
    kind = type(value).__name__
    if kind == "Head":
        return {_TAG: "Head", "parts": list(value)}
    if kind == "HeadMap":
        stacks = [[stack, counts] for stack, counts in value.to_stacks().items()]
        return {
            _TAG: "HeadMap",
            "stacks": stacks,
            "kept": None if value.kept is None else [list(h) for h in value.kept],
        }
    if kind in _LIGHT:
        return {_TAG: kind, "fields": {each.name: encode(getattr(value, each.name)) for each in fields(value)}}
    raise NotPlain(kind)


def decode(found: Any) -> Any:
    """The value that `encode` was given."""
    if isinstance(found, list):
        return [decode(part) for part in found]
    if not isinstance(found, dict):
        return found
    kind = found[_TAG]
    if kind == "tuple":
        return tuple(decode(part) for part in found["parts"])
    if kind == "dict":
        return {decode(name): decode(part) for name, part in found["parts"]}
    return _decode_array(found) if kind in ("array", "scalar") else _decode_heads(kind, found)


def _decode_array(found: dict[str, Any]) -> Any:
    import numpy as np

    if found[_TAG] == "scalar":
        return np.dtype(found["dtype"]).type(found["value"])
    return np.array(found["parts"], dtype=np.dtype(found["dtype"])).reshape(found["shape"])


def _decode_heads(kind: str, found: dict[str, Any]) -> Any:
    from pytest_bertology import heads

    if kind == "Head":
        return heads.Head(*found["parts"])
    if kind == "HeadMap":
        kept = None if found["kept"] is None else [heads.Head(*head) for head in found["kept"]]
        return heads.HeadMap(dict(found["stacks"]), kept)
    values = {name: decode(part) for name, part in found["fields"].items()}
    return (heads.HeadScores if kind == "HeadScores" else heads.HeadMask)(**values)
