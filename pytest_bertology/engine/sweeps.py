"""Many head masks over the same data: a model's results under each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import Encoded
from pytest_bertology.engine.results import RawResults, run
from pytest_bertology.heads import HeadMask
from pytest_bertology.models import ModelUnderTest


@dataclass(frozen=True)
class Swept:
    """The results under the base mask, and under each variant in the order asked for."""

    base: RawResults
    variants: tuple[RawResults, ...]


def sweep(
    model: ModelUnderTest,
    encoded: Encoded,
    base: HeadMask,
    variants: Sequence[HeadMask],
    batching: Batching,
    where: str,
) -> Swept:
    """Run the model under exactly `base`, and under exactly each of `variants`, over all examples."""
    results = tuple(run(model, encoded, mask, batching, where) for mask in variants)
    return Swept(run(model, encoded, base, batching, where), results)
