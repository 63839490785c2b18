"""A model by its files: proven once, then known."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytest_bertology.deferred.handles import ModelHandle, remember_model
from pytest_bertology.deferred.memory import Memory
from pytest_bertology.deferred.sources import content_digest, files_of_model, marks
from pytest_bertology.errors import BertologyWarning


def model_handle(source: str, options: Mapping[str, Any], load: Callable[[], Any], memory: Memory) -> Any:
    """What stands for the model at `source`, or the model itself where its files cannot be told beforehand.

    A model that `memory` does not know, under these options, is loaded now: so that one whose heads cannot be masked is
    refused before any test uses it. One that was proven before is loaded when it is needed.
    """
    files = files_of_model(source, options)
    if files is None:
        return load()
    before = marks(files)
    given = sorted((name, repr(value)) for name, value in options.items())
    key = memory.key("model", Path(source).name, content_digest(files), given)
    handle = ModelHandle(key, load, lambda: marks(files) == before, memory)
    known = memory.find(key)
    if known is not None:
        for text in known["warnings"]:
            warnings.warn(text, BertologyWarning, stacklevel=2)
        return handle
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        remember_model(handle, memory)
    memory.keep(
        key, {"warnings": [str(each.message) for each in caught if issubclass(each.category, BertologyWarning)]}
    )
    for each in caught:
        warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
    return handle
