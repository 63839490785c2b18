"""Checks on heads that are masked could not fail, or would mean nothing."""

from __future__ import annotations

from collections.abc import Iterable

from pytest_bertology.errors import NothingToJudge, describe_heads
from pytest_bertology.heads import Head
from pytest_bertology.models import ModelUnderTest


def refuse_masked(model: ModelUnderTest, heads: Iterable[Head]) -> None:
    """Raise NothingToJudge where one of these heads is masked (gate 0) in this thread: what it does moves nothing."""
    masked = set(model.mask_in_force().masked)
    gone = [head for head in heads if head in masked]
    if gone:
        are, attend = ("is", "it attends") if len(gone) == 1 else ("are", "they attend")
        what = f"{describe_heads(gone)} {are} masked, and what {attend} to moves nothing"
        raise NothingToJudge(what, "Leave the mask, or name other heads.")
