"""Several models, and markers: turned into fixture parameters when tests are collected.

Parameters, and not a look at the running test, so that the fixtures can have session scope: Hypothesis tests may use
them, and pytest groups tests by model.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_bertology.plugin.options import Settings, marker_arguments


@dataclass(frozen=True)
class ModelRequest:
    """A model that a test is run with, and how it is loaded where that is not as the session has it."""

    source: str | None
    options: tuple[tuple[str, Any], ...] = ()
    label: str | None = field(default=None, compare=False)
    """Its part of the names of tests, where there are several models."""


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
        _one(metafunc, "bertology_task", task, _label_of_task(task))
    if "heads_masked" in asked and "head_mask" in used:
        _one(metafunc, "head_mask", asked["heads_masked"], "mask")
    if "importance" in asked and "head_importance" in used:
        _one(metafunc, "head_importance", asked["importance"], asked["importance"])


def own_name(item: pytest.Item) -> str:
    """The name of a test with its own parameters, without those that are ours: the same whatever model it runs with."""
    found = getattr(item, "callspec", None)
    ids = list(getattr(found, "_idlist", ()))
    name = getattr(item, "originalname", None)
    if not ids or name is None or item.name != f"{name}[{'-'.join(ids)}]":
        return item.name
    for fixture, value in found.params.items() if found is not None else ():
        shown = _shown_as(item, fixture, value)
        if shown in ids:
            ids.remove(shown)
    return f"{name}[{'-'.join(ids)}]" if ids else str(name)


def _shown_as(item: pytest.Item, fixture: str, value: Any) -> str | None:
    """The id that a parameter of ours has in the name of its test; None where it has none."""
    if isinstance(value, ModelRequest) and value.label is not None:
        plain = item.config.getini("disable_test_id_escaping_and_forfeit_all_rights_to_community_support")
        return value.label if plain else value.label.encode("unicode_escape").decode("ascii")
    if hasattr(pytest, "HIDDEN_PARAM"):
        return None
    if isinstance(value, ModelRequest):
        return _ids([value.source or "model"])[0]
    if fixture == "bertology_task" and isinstance(value, dict):
        return _label_of_task(value)
    return {"head_mask": "mask", "head_importance": str(value)}.get(fixture)


def _label_of_task(task: dict[str, Any]) -> str:
    return Path(str(task.get("task", task.get("split", "task")))).name


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
        if settings.value("update") != "none" and "bertology_baseline" in metafunc.fixturenames:
            raise pytest.UsageError(
                f"{metafunc.definition.nodeid}: {settings['update'].source}: baselines are written of one model; found "
                f"{len(sources)}. Give the approved model alone; any number can be compared with what is written."
            )
        ids = _ids(sources)
        requests = [ModelRequest(source, options, label) for source, label in zip(sources, ids, strict=True)]
        metafunc.parametrize("bertology_model", requests, indirect=True, scope="session", ids=ids)
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
