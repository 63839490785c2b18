"""Arguments of measures that are not what they should be, told by what they are."""

from __future__ import annotations

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def check_model_and_task(model: object, task: object) -> None:
    """Raise InvalidArgument for a model or task that has not been loaded, or where they are exchanged."""
    check_model(model)
    if not isinstance(task, Task):
        raise InvalidArgument("task", _named(task), "what load_task(...) returns, or the fixture bertology_task")


def check_has_heads(model: ModelUnderTest) -> None:
    """Raise InvalidArgument for a model of which all heads were cut out."""
    if not len(model.heads):
        raise InvalidArgument("model", model.name, "a model with attention heads; those of this one were all cut out")


def check_model(model: object, argument: str = "model") -> None:
    """Raise InvalidArgument for a model that has not been loaded."""
    if not isinstance(model, ModelUnderTest):
        raise InvalidArgument(argument, _named(model), "what load_model(...) returns, or the fixture bertology_model")


def _named(value: object) -> object:
    return value if isinstance(value, str) else type(value).__name__
