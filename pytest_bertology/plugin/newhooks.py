"""The plugin's own hooks, for a team's conftest.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_bertology.heads import HeadMask
    from pytest_bertology.models import ModelUnderTest


@pytest.hookspec(firstresult=True)
def pytest_bertology_load_model(source: str, config: pytest.Config) -> Any:
    """Load the model called `source` in a way of your own.

    Return a `ModelUnderTest` (from `pytest_bertology.load_model`), a live transformers model with its tokenizer as a
    pair, or None to leave it to others. Called once per model and session, and again after a test changed weights.
    """


@pytest.hookspec(firstresult=True)
def pytest_bertology_head_mask(model: ModelUnderTest, config: pytest.Config) -> HeadMask | None:
    """Return the head mask under which `model` is tested, or None to leave it to others.

    Asked where neither a marker nor `--bertology-head-mask` names one.
    """


@pytest.hookspec
def pytest_bertology_importance_method(
    name: str, config: pytest.Config
) -> Callable[..., Any] | Mapping[str, Callable[..., Any]] | None:
    """Return the importance method of your own called `name`, or a mapping of all you have; None if you have none.

    A method is a function `(model, task)` that returns HeadScores, or an array with one finite number per head,
    (heads,) or (layers, heads), the greatest for the most important. It may then be named wherever one of the
    package's may: `--bertology-importance`, `@pytest.mark.bertology(importance=...)`, `head_importance(...)` and
    `assert_metric_retained(..., by=...)`. Asked for names that are not the package's; with a mapping, a name that
    nobody knows is refused with yours among the valid ones. Options are checked when pytest starts: for
    `--bertology-importance` the hook must be in a conftest.py that is read by then, such as that of the root folder.
    """
