"""Copies of a model that hold nothing twice: its modules first, and of its tensors only those that stay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from pytest_bertology.errors import CannotPrune
from pytest_bertology.models import state


def without_contexts(model: PreTrainedModel) -> tuple[dict[int, Any], Callable[[], None]]:
    """A memo for `copy.deepcopy` with which a copy has no hooks of this package's contexts, and what to call after it.

    Masks, erasures, skipped layers and changes of attention are in force on the model, which is left as it is; the
    copy is of the model as it was loaded. Hooks of others are copied by the call afterwards.
    """
    memo: dict[int, Any] = {}
    others: list[tuple[dict[int, Any], dict[int, Any]]] = []
    for module in model.modules():
        hooks = {**module._forward_pre_hooks, **module._forward_hooks}
        ours = {key for key, hook in hooks.items() if state.is_of_context(hook)}
        for kind in state.HOOKS if ours else ():
            own = getattr(module, kind)
            memo[id(own)] = type(own)()
            others.append((memo[id(own)], {key: value for key, value in own.items() if key not in ours}))

    def finish() -> None:
        for copied, own in others:
            copied.update({key: copy.deepcopy(value, memo) for key, value in own.items()})

    return memo, finish


def structure_of(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules that shares the tensors: nothing large is copied before it is known what stays.

    The gates of masks in force are not copied.
    """
    kept: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    kept |= {id(gating): gating for gating in state.gatings(model)}
    twin = copy.deepcopy(model, kept)
    state.remove_gates(twin)
    return twin


def own_tensors(cut: PreTrainedModel, original: PreTrainedModel) -> None:
    """Give the cut model copies of the tensors it still shares with the original, tied ones tied."""
    shared = {id(tensor) for tensor in (*original.parameters(), *original.buffers())}
    copies: dict[int, Any] = {}
    for module in cut.modules():
        for place in (module._parameters, module._buffers):
            for name, tensor in place.items():
                if tensor is None or id(tensor) not in shared:
                    continue
                if id(tensor) not in copies:
                    own = tensor.detach().clone()
                    if isinstance(tensor, nn.Parameter):
                        own = nn.Parameter(own, requires_grad=tensor.requires_grad)
                    copies[id(tensor)] = own
                place[name] = copies[id(tensor)]


def tie_again(cut: PreTrainedModel, original: PreTrainedModel) -> None:
    """Weights that were one tensor in the original are one in the cut model."""
    tied: dict[int, list[str]] = {}
    for name, parameter in original.named_parameters(remove_duplicate=False):
        tied.setdefault(id(parameter), []).append(name)
    for names in tied.values():
        if len(names) > 1:
            places = [name.rpartition(".") for name in names]
            first = getattr(cut.get_submodule(places[0][0]), places[0][2])
            for path, _, own in places[1:]:
                module = cut.get_submodule(path)
                if getattr(module, own) is not first:
                    if getattr(module, own).shape != first.shape:
                        raise CannotPrune(type(original).__name__, path, "it shares weights with a layer cut otherwise")
                    module._parameters[own] = first
