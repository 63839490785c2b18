"""Where a model has the hidden states of each layer: found by running it on its sample and comparing, bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_bertology.errors import CannotDropLayers, CannotErase
from pytest_bertology.models.blocks import Blocks, blocks, of_stack
from pytest_bertology.models.capturing import behind_all_hooks
from pytest_bertology.models.skipping import states_key, states_of

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


@dataclass(frozen=True)
class Place:
    """Where one layer's states are: what a module gives, or (layer 0) what it is given."""

    layer: int
    path: str
    given: bool = False
    """Whether it is what the module is given."""
    read_by: str | None = None
    """The block that is given these states next."""


def places(model: ModelUnderTest, stack: str | None = None) -> tuple[Place, ...]:
    """Where the states of each layer are, 0 to the last; seen by running the model, as it is, on its sample.

    Raises CannotErase where that cannot be told, UnknownLayer for a stack that there is not.
    """
    architecture = type(model.model).__name__
    found = stack_of(model, stack)
    paths = [f"{found.path}.{number}" for number in range(found.count)]
    seen = _Seen(model.model, paths)
    with seen.watching():
        recorded = shown_states(model, found.stack)
    if len(recorded) != found.count + 1:
        reason = f"it shows {len(recorded)} hidden states of the {found.count} blocks of {found.path}"
        raise CannotErase(architecture, reason)
    for path in paths:
        if seen.calls[path] != 1:
            raise CannotErase(architecture, f"{path} runs {seen.calls[path]} times in one pass")
    places = [Place(0, paths[0], given=True)]
    places += [Place(at, paths[at - 1], read_by=paths[at]) for at in range(1, found.count)]
    for place in places:
        states = seen.given.get(place.path) if place.given else seen.made.get(place.path)
        if not _equal(states, recorded[place.layer]):
            what = "is given" if place.given else "gives"
            raise CannotErase(
                architecture, f"its hidden states of layer {place.layer} are not what {place.path} {what}"
            )
    last = next((path for path in seen.after(paths[-1]) if _equal(seen.made.get(path), recorded[-1])), None)
    if last is None:
        raise CannotErase(architecture, f"no module gives its hidden states of layer {found.count}, the last")
    return (*places, Place(found.count, last))


def stack_of(model: ModelUnderTest, stack: str | None) -> Blocks:
    """The blocks of a stack; without a name those of the encoder, or the only ones."""
    try:
        known = [each.stack for each in blocks(model)]
        return of_stack(model, "encoder" if stack is None and "encoder" in known else stack)
    except CannotDropLayers as error:
        raise CannotErase(error.architecture, error.reason) from error


def _equal(states: Tensor | None, recorded: Tensor) -> bool:
    return states is not None and torch.equal(states, recorded)


class _Seen:
    """What modules were given and gave in one pass, in the order of their ends."""

    def __init__(self, model: nn.Module, paths: Sequence[str]) -> None:
        self._blocks = frozenset(paths)
        inside = tuple(f"{path}." for path in paths)
        self._watched = {
            name: module
            for name, module in model.named_modules()
            if name in self._blocks or not (name.startswith(inside) or paths[0].startswith(f"{name}.") or not name)
        }
        self.calls: Counter[str] = Counter()
        self.given: dict[str, Tensor] = {}
        self.made: dict[str, Tensor] = {}
        self._order: list[str] = []

    def after(self, block: str) -> list[str]:
        """A block, and the modules that ran once, after it."""
        own = self._order[self._order.index(block) :]
        return [path for path in own if self.calls[path] == 1]

    @contextmanager
    def watching(self) -> Iterator[None]:
        with ExitStack() as stack:
            for name, module in self._watched.items():
                hook = module.register_forward_hook(self._look(name), with_kwargs=True)
                stack.callback(hook.remove)
            yield

    def _look(self, name: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            self.calls[name] += 1
            self._order.append(name)
            key = states_key(module, args, kwargs) if name in self._blocks else None
            given = kwargs.get(key) if key is not None else args[0] if args else None
            for found, states in ((self.given, given), (self.made, states_of(result))):
                if isinstance(states, Tensor):
                    found[name] = states.clone()

        return look


def shown_states(model: ModelUnderTest, stack: str | None) -> tuple[Tensor, ...]:
    """The hidden states of the model's sample."""
    architecture = type(model.model).__name__
    try:
        with behind_all_hooks(model.model):
            result: Any = model.model(**model.sample(), output_hidden_states=True, return_dict=True)
    except TypeError as error:
        raise CannotErase(architecture, f"it does not show its hidden states ({error})") from error
    both = hasattr(result, "encoder_hidden_states")
    found = getattr(result, f"{stack}_hidden_states" if both and stack else "hidden_states", None)
    if not found or not all(isinstance(each, Tensor) and each.ndim == 3 for each in found):
        raise CannotErase(architecture, "asked for its hidden states, it shows none of each token")
    return tuple(each.clone() for each in found)
