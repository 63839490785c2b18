"""The plugin's own hooks, for a team's conftest.py."""

from __future__ import annotations

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
