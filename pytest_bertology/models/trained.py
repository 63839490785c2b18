"""The model as trained, amid what is in force, and what that is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pytest_bertology.models.erasing import erased, unerased
from pytest_bertology.models.intervening import unchanged
from pytest_bertology.models.skipping import skipped, unskipped

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


@contextmanager
def as_trained(model: ModelUnderTest) -> Iterator[None]:
    """Attention as trained, no layer skipped and nothing erased, whatever is in force outside; masks stay."""
    with unchanged(model), unskipped(model), unerased(model):
        yield


def departs(model: ModelUnderTest) -> bool:
    """Whether, masks aside, something is in force in this thread that `as_trained` takes away."""
    return model.attention_changed() or bool(skipped(model)) or bool(erased(model))
