"""Which models and tasks a test had to do with, as plain values that travel on its report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pytest

if TYPE_CHECKING:
    from pytest_bertology.plugin.session import Session

_DIGITS = 16
"""Of SHA-256, where people read it."""
_known: WeakKeyDictionary[Any, tuple[Any, dict[str, Any]]] = WeakKeyDictionary()
"""Of each model the weights that were seen last, and what was found."""


def provenance_of(item: pytest.Item, session: Session, verdicts: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The models and tasks that a test was given, and those that its verdicts name. Loads nothing."""
    names = {verdict[kind] for verdict in verdicts for kind in ("model", "task")}
    models = [_of_model(model, session) for model in _used(item, session, names)]
    given = [value for value in getattr(item, "funcargs", {}).values() if _is(value, "tasks.task", "Task")]
    tasks = given + [task for task in session.tasks.values() if task.name in names]
    return {"models": _each_once(models), "tasks": _each_once([_of_task(task) for task in tasks])}


def _used(item: pytest.Item, session: Session, names: set[Any]) -> Iterator[Any]:
    for value in getattr(item, "funcargs", {}).values():
        if _is(value, "models.under_test", "ModelUnderTest") or _is_handle(value):
            yield value
    for value in (*session.handles.values(), *(known.model for known in session.models.values())):
        name = _recalled(value, "name") if _is_handle(value) else value.name
        if name in names:
            yield value


def _is(value: object, module: str, name: str) -> bool:
    """Whether a value is of this class of ours; asks nothing of the value, which may be a stand-in."""
    kind = type(value)
    return kind.__name__ == name and kind.__module__ == f"pytest_bertology.{module}"


def _is_handle(value: object) -> bool:
    return _is(value, "deferred.handles", "ModelHandle")


def _of_model(model: Any, session: Session) -> dict[str, Any]:
    """What is told of a model; of one that is not loaded, what was told when it was."""
    if not _is_handle(model):
        return _of_loaded(model, session)
    from pytest_bertology.deferred.handles import is_loaded

    state = model._state
    key = state.memory.key("provenance", state.key)
    if is_loaded(model):
        found = _of_loaded(state.real, session)
        if state.digest and state.memory.find(key) is None:  # without a digest its files have changed since
            state.memory.keep(key, {"provenance": found})
        return found
    kept = state.memory.find(key)
    if kept is not None:
        return dict(kept["provenance"])
    return {name: str(_recalled(model, name) or "unknown") for name in ("name", "dtype")}


def _recalled(handle: Any, name: str) -> Any:
    """What is known of a model that may not be loaded, without loading it."""
    from pytest_bertology.deferred.handles import is_loaded
    from pytest_bertology.deferred.plain import decode

    state = handle._state
    if is_loaded(handle):
        return getattr(state.real, name)
    found = state.memory.find(state.memory.key("attribute", state.key, name))
    return decode(found["value"]) if found is not None and "value" in found else None


def _of_loaded(model: Any, session: Session) -> dict[str, Any]:
    loaded = next((known for known in session.models.values() if known.model is model), None)
    weights = loaded.state.weights if loaded is not None else None
    if model in _known and weights is not None and _known[model][0] is weights:
        return _known[model][1]
    config = model.model.config
    revision = getattr(config, "_commit_hash", None) or (loaded.options.get("revision") if loaded else None)
    found = {
        "name": model.name,
        "heads": model.heads.describe(),
        "dtype": model.dtype,
        "device": str(model.device),
        "attention": str(getattr(config, "_attn_implementation", None) or "unknown"),
        "weights": model.weights_digest()[:_DIGITS],
        **({"revision": str(revision)} if revision else {}),
    }
    _known[model] = (weights, found)
    return found


def _of_task(task: Any) -> dict[str, Any]:
    return {"name": task.name, "examples": len(task), "metric": task.metric.name, "data": task.digest[:_DIGITS]}


def _each_once(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for number, each in enumerate(found) if each not in found[:number]]
