"""Importance methods that conftests and other plugins bring along, by the hook `pytest_bertology_importance_method`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from pytest_bertology.names import IMPORTANCE_METHODS


def own_methods(config: pytest.Config, name: object) -> dict[str, Callable[..., Any]]:
    """What the hook knows when it is asked for `name`; the innermost conftest goes first.

    Raises pytest.UsageError where it gives something else than functions, or a method that the package has itself.
    """
    found: dict[str, Callable[..., Any]] = {}
    if not isinstance(name, str):
        return found
    for given in config.hook.pytest_bertology_importance_method(name=name, config=config):
        methods = given if isinstance(given, Mapping) else {name: given}
        for known, method in methods.items():
            if not isinstance(known, str) or not callable(method):
                raise pytest.UsageError(
                    f"the hook pytest_bertology_importance_method gave {method!r} for {known!r}; expected a function "
                    "of a model and a task, a mapping from names to such functions, or None"
                )
            if known in IMPORTANCE_METHODS:
                raise pytest.UsageError(
                    f"the hook pytest_bertology_importance_method names a method {known!r}, which there is already; "
                    "give yours another name"
                )
            found.setdefault(known, method)
    return found
