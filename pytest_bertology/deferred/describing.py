"""What a call depends on, as plain values: equal for equal arguments, refused where that cannot be told."""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pytest_bertology.deferred.handles import Answer, ModelHandle
from pytest_bertology.deferred.sources import content_digest

_LONGEST_PATH = 1024


class Undescribed(TypeError):
    """An argument that may mean something else another time, such as a function or a live model."""


def described(value: Any) -> Any:
    """Plain lists and strings that are equal for equal values; raises Undescribed.

    A string that is the path of a file stands for what is in it.
    """
    kind = type(value)
    if kind is ModelHandle or kind is Answer:  # first: whatever else is asked of them may load them
        return _handle(value)
    if value is None or kind in (bool, int):
        return value
    if kind is float:
        return repr(value) if math.isfinite(value) else ["float", repr(value)]
    if kind is str or isinstance(value, os.PathLike):
        return _text(os.fspath(value))
    if isinstance(value, tuple | list):
        return ["list", *map(described, value)]
    if kind in (set, frozenset):
        return ["set", *sorted(map(repr, map(described, value)))]
    if kind is dict:
        return ["dict", *sorted([[described(name), described(part)] for name, part in value.items()], key=repr)]
    if kind.__module__ == "numpy":
        return _array(value)
    return _own(value)


def _text(value: str) -> Any:
    _refuse_methods(value)
    if len(value) <= _LONGEST_PATH and "\0" not in value and "\n" not in value and value.strip(". "):
        path = Path(value)
        if path.is_file():
            return ["file", path.name, content_digest([path])]
        if path.is_dir():
            # Files come and go in a folder; models and tasks that are loaded from one are told by their own digests.
            raise Undescribed(f"the folder {value}")
    return ["text", value]


def _refuse_methods(name: str) -> None:
    """A name may stand for a function of the user's own."""
    from pytest_bertology.measures.own_methods import find_method

    if find_method(name)[0] is not None:
        raise Undescribed(f"the importance method {name}")


def _handle(value: ModelHandle | Answer) -> Any:
    identity = value.__identity__()
    if identity is None:
        raise Undescribed("a model that is not as it was loaded")
    return ["handle", *identity]


def _array(value: Any) -> Any:
    kind = getattr(getattr(value, "dtype", None), "kind", "O")
    if kind not in "biufU":
        raise Undescribed(type(value).__qualname__)
    content = value.tobytes()
    return ["array", value.dtype.str, list(value.shape), hashlib.sha256(content).hexdigest()]


def _own(value: Any) -> Any:
    """Values of this package: tasks by their contents, frozen dataclasses field by field."""
    kind = type(value)
    if not kind.__module__.startswith("pytest_bertology."):
        raise Undescribed(kind.__qualname__)
    if kind.__name__ == "HeadMap":
        return ["HeadMap", [list(layer) for layer in value.layers], repr(value.kept)]
    if kind.__name__ == "Metric":
        from pytest_bertology.tasks.metrics import METRICS

        if METRICS.get(value.name) != value:
            raise Undescribed(f"the metric {value.name}")
        return ["metric", value.name]
    if kind.__name__ == "Task":
        return ["task", value.name, value.digest, list(value.label_names or ()), described(value.metric)]
    if not is_dataclass(value) or not kind.__dataclass_params__.frozen:
        raise Undescribed(kind.__qualname__)
    parts = [[each.name, described(getattr(value, each.name))] for each in fields(value) if each.init]
    return [kind.__qualname__, *parts]
