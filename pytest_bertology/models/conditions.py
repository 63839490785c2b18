"""What is in force on a model, in words that can be compared, kept and shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from pytest_bertology.errors import InvalidGate
from pytest_bertology.models import erasing, intervening, state
from pytest_bertology.models.edits import is_own_hook
from pytest_bertology.models.projection import Projection
from pytest_bertology.models.skipping import skipped

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

_SHOWN = 12


def in_words(model: ModelUnderTest) -> tuple[str, ...]:
    """All that is in force on a model in this thread: nothing for the model as it was loaded, equal for equals.

    What differs in numbers too many to be shown, has a digest of them. Hooks of others are told by their places.
    """
    found = [*_masked(model), *intervening.described(model)]
    found += [f"layer {path} skipped" for path in skipped(model)]
    units = model.contexts_open()[3]
    found += [f"units masked in {units} contexts"] if units else []
    return (*found, *erasures(erasing.in_force(model)), *_hooked(model.model))


def erasures(projections: Iterable[Projection]) -> tuple[str, ...]:
    """Projections in words, with a digest of each."""
    return tuple(f"{each.rank} directions of layer {each.layer} erased ({each.digest})" for each in projections)


def _masked(model: ModelUnderTest) -> list[str]:
    try:
        mask = model.mask_in_force()
    except InvalidGate:
        return ["gates of each example"]
    touched = mask.touched
    if not touched:
        return []
    names = " ".join(map(str, touched[:_SHOWN])) + (" …" if len(touched) > _SHOWN else "")
    gates = "" if touched == mask.masked and len(touched) <= _SHOWN else f" ({_digest(repr(mask.gates))})"
    return [f"{len(touched)} heads masked: {names}{gates}"]


def _hooked(model: nn.Module) -> list[str]:
    """Where hooks are that neither this package nor transformers put there."""
    found = []
    for path, module in model.named_modules():
        hooks = (module._forward_pre_hooks | module._forward_hooks).values()
        if any(not (state.is_of_context(each) or state.only_watches(each) or is_own_hook(each)) for each in hooks):
            found.append(f"a hook on {path or 'the model'}")
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
