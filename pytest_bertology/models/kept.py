"""Which layers of an earlier model are left in one that layers were cut out of, remembered while both are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, final

from pytest_bertology.models.blocks import blocks

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


class Left(NamedTuple):
    """What is left of the layers of one stack."""

    before: int
    """How many layers there were before anything was cut."""
    layers: tuple[int, ...]
    """Those that are left, by their numbers then, in order."""


@final
@dataclass(frozen=True)
class KeptLayers:
    """Of each stack the layers that are left. A checkpoint does not hold this: it is lost where a model is saved."""

    attention: Mapping[str | None, Left]
    """Layers as heads are numbered; those without attention do not count, and attention to an encoder is "cross"."""
    blocks: Mapping[str | None, Left]
    """Layers as `without_layers` counts them."""

    @classmethod
    def after(cls, model: ModelUnderTest, kept: Mapping[str, Sequence[int]]) -> KeptLayers:
        """What is left of `model` where of the module lists at these paths only so many layers are."""
        gone = tuple(
            f"{each.path}.{layer}."
            for each in blocks(model)
            for layer in range(each.count)
            if layer not in kept.get(each.path, range(each.count))
        )
        before = model.layers_kept
        return cls(
            _chained(before and before.attention, _attention_left(model, gone)),
            _chained(
                before and before.blocks,
                {each.stack: Left(each.count, tuple(kept.get(each.path, range(each.count)))) for each in blocks(model)},
            ),
        )


def _attention_left(model: ModelUnderTest, gone: tuple[str, ...]) -> dict[str | None, Left]:
    """The attention layers that are in none of these modules; layers that lost all heads are known by the plan."""
    paths = {(site.stack, site.layer): site.attention for site in model.sites}
    if model.plan is not None:
        paths |= {(layer.stack, layer.layer): layer.projection for layer in model.plan.layers}
    return {
        stack: Left(
            len(counts),
            tuple(at for at in range(len(counts)) if not f"{paths[stack, at]}.".startswith(gone or ("\0",))),
        )
        for stack, counts in model.heads.to_stacks().items()
    }


def _chained(before: Mapping[str | None, Left] | None, now: Mapping[str | None, Left]) -> dict[str | None, Left]:
    """By the numbers before the first cut."""
    if before is None:
        return dict(now)
    return {
        stack: Left(before[stack].before, tuple(before[stack].layers[at] for at in left.layers))
        for stack, left in now.items()
        if stack in before
    }
