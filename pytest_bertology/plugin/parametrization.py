"""Several models, and markers: turned into fixture parameters when tests are collected.

Parameters, and not a look at the running test, so that the fixtures can have session scope: Hypothesis tests may use
them, and pytest groups tests by model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.plugin.options import Settings, marker_arguments


@dataclass(frozen=True)
class ModelRequest:
    """A model that a test is run with, and how it is loaded where that is not as the session has it."""

    source: str | None
    options: tuple[tuple[str, Any], ...] = ()


_TASK_ARGUMENTS = ("task", "split", "text", "label", "metric")
_MODEL_ARGUMENTS = ("kind", "tokenizer")


def parametrize(metafunc: pytest.Metafunc, settings: Settings) -> None:
    """Give each fixture of ours that the test uses what its marker, or several --bertology-model, ask for."""
    markers = metafunc.definition.iter_markers("bertology")
    asked = marker_arguments(markers, metafunc.definition.nodeid, metafunc.config)
    used = metafunc.fixturenames
    _refuse_idle_mask(metafunc)
    if "bertology_model" in used:
        _models(metafunc, settings, asked)
    task = {name: asked[name] for name in _TASK_ARGUMENTS if name in asked}
    if task and "bertology_task" in used:
        _one(metafunc, "bertology_task", task, Path(str(task.get("task", task.get("split", "task")))).name)
    if "heads_masked" in asked and "head_mask" in used:
        _one(metafunc, "head_mask", asked["heads_masked"], "mask")
    if "importance" in asked and "head_importance" in used:
        _one(metafunc, "head_importance", asked["importance"], asked["importance"])


def _refuse_idle_mask(metafunc: pytest.Metafunc) -> None:
    """A test's own marker must not mask heads of a model that the test does not have; a class's may be for others."""
    own = [marker for marker in metafunc.definition.own_markers if marker.name == "bertology"]
    if any(marker.kwargs.get("heads_masked") for marker in own) and "bertology_model" not in metafunc.fixturenames:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: @pytest.mark.bertology(heads_masked=...) masks heads of bertology_model, "
            "and the test does not name that fixture among its arguments: nothing would be masked"
        )


def _models(metafunc: pytest.Metafunc, settings: Settings, asked: dict[str, Any]) -> None:
    named = asked.get("model")
    sources: Sequence[Any] = settings.value("model") if named is None else _named(metafunc, named)
    options = tuple((name, asked[name]) for name in _MODEL_ARGUMENTS if name in asked)
    if len(sources) > 1:
        requests = [ModelRequest(source, options) for source in sources]
        metafunc.parametrize("bertology_model", requests, indirect=True, scope="session", ids=_ids(sources))
    elif named is not None or options:
        request = ModelRequest(sources[0] if sources else None, options)
        _one(metafunc, "bertology_model", request, _ids([request.source or "model"])[0])


def _named(metafunc: pytest.Metafunc, model: Any) -> list[str]:
    """The models that a marker names, one or several."""
    named = list(model) if isinstance(model, list | tuple) else [model]
    if not named or not all(isinstance(source, str | os.PathLike) for source in named):
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: @pytest.mark.bertology(model={_short(model)}) is not valid; expected a "
            "folder, a hub name, 'embedded', or a list of these (for a live model there is load_bertology_model)"
        )
    return [os.fspath(source) for source in named]


def _short(value: Any) -> str:
    shown = repr(value).splitlines()[0]
    return shown if len(shown) <= 60 else f"{shown[:59]}…"


def _one(metafunc: pytest.Metafunc, name: str, value: Any, label: str) -> None:
    """A single parameter, without a trace in the test's name where pytest (8.4) can do that."""
    hidden: Any = getattr(pytest, "HIDDEN_PARAM", label)
    metafunc.parametrize(name, [value], indirect=True, scope="session", ids=[hidden])


def _ids(sources: Sequence[Any]) -> list[str]:
    """Folder names, with as many of the folders above as it takes to tell the models apart."""
    paths = [Path(str(source)) for source in sources]
    for count in range(1, max((len(path.parts) for path in paths), default=0)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if all(names) and len(set(names)) == len(names):
            return names
    return [str(source) for source in sources]
