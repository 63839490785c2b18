"""transformers' own recording of hidden states, made to see what the next layer sees.

It notes them by forward hooks that it installs at the first recording and leaves on the model. A hook that comes later
acts behind those, and what it changes would be missed. Here they are taken off before and after each recording:
transformers installs them anew, behind all hooks that are there then.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import generic

from pytest_bertology.models.state import only_watches

HOOKED = find_spec("transformers.utils.output_capturing") is not None
"""Older transformers have no such hooks: they note what a layer's forward returns, before any hook acts."""
_INSTALLED = "_output_capturing_hooks_installed"
_lock = threading.Lock()
_recording: dict[int, int] = {}
"""How many recordings of a model are under way, by its identity."""


@contextmanager
def behind_all_hooks(model: nn.Module) -> Iterator[None]:
    """Let `output_hidden_states` record what hooks on the model leave, for the length of the context.

    No hook of transformers is left on the model afterwards, those of earlier runs of the caller's neither: the next
    run that asks for hidden states installs them anew.
    """
    with _lock:
        others = _recording.get(id(model), 0)
        _recording[id(model)] = others + 1
        if others:  # of another thread, which needs the hooks that are there
            _move_behind(model)
        else:
            _take_off(model)
    try:
        yield
    finally:
        with _lock:
            _recording[id(model)] -= 1
            if not _recording[id(model)]:
                del _recording[id(model)]
                _take_off(model)


def _take_off(model: nn.Module) -> None:
    for module in model.modules():
        for key in [key for key, hook in module._forward_hooks.items() if only_watches(hook)]:
            del module._forward_hooks[key]
        vars(module).pop(_INSTALLED, None)


def _move_behind(model: nn.Module) -> None:
    for module in model.modules():
        for key in [key for key, hook in module._forward_hooks.items() if only_watches(hook)]:
            cast("OrderedDict[int, Any]", module._forward_hooks).move_to_end(key)


def unseen_hook(model: nn.Module) -> str | None:
    """The path of a layer with a hook that acts behind what older transformers note of it, or None."""
    if HOOKED:
        return None
    registry = getattr(generic, "_CAN_RECORD_REGISTRY", {})
    for owner in (part for part in model.modules() if isinstance(part, PreTrainedModel)):
        noted = _classes((registry.get(str(type(owner))) or {}).get("hidden_states"))
        for path, part in owner.named_modules():
            if part._forward_hooks and isinstance(part, noted):
                return str(path)
    return None


def _classes(specs: Any) -> tuple[type, ...]:
    found = [getattr(spec, "target_class", spec) for spec in (specs if isinstance(specs, list) else [specs])]
    return tuple(each for each in found if isinstance(each, type))
