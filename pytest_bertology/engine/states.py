"""The hidden states of texts, layer by layer and batch by batch: never all at once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pytest_bertology.engine.attending import reading_inputs
from pytest_bertology.engine.batching import Batch, Batching, batches, collate, plan
from pytest_bertology.engine.encoding import Encoded, lengths
from pytest_bertology.engine.progress import tracked
from pytest_bertology.engine.texts import Texts, real_tokens
from pytest_bertology.errors import CannotMeasure, InvalidArgument, NonFinite
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.capturing import behind_all_hooks, unseen_hook
from pytest_bertology.models.sampling import accepts

_STACKS = ("encoder", "decoder")
_MOVED = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How far states may move with padding by rounding, in units of the largest number."""


@dataclass(frozen=True, eq=False)
class States:
    """The hidden states of one layer, on the texts of a batch."""

    layer: int
    """0 for the embeddings, n for what the n-th layer gives."""
    layers: int
    """How many layers there are, the embeddings not counted: `layer` is at most that."""
    stack: str | None
    """"encoder" or "decoder" of an encoder-decoder model, else None."""
    positions: tuple[int, ...]
    """Which texts."""
    real: Tensor
    """(texts, tokens), False for padding."""
    states: Tensor
    """(texts, tokens, width); at padding they may be anything."""

    def each(self) -> Iterator[tuple[int, Tensor]]:
        """Text by text: its position, and its states (tokens, width) without padding."""
        for row, position in enumerate(self.positions):
            yield position, self.states[row, self.real[row].to(self.states.device)]


def stream_states(
    model: ModelUnderTest,
    texts: Texts,
    visit: Callable[[States], None],
    *,
    what: str,
    layers: Collection[int] | None = None,
    stack: str | None = None,
    batching: Batching | None = None,
) -> None:
    """Run the model over texts, under the masks in force, and show `visit` the hidden states of each layer.

    Layers are those of transformers' `output_hidden_states`: 0 is the embeddings, L the last layer, after the model's
    last norm where it has one there. Hooks on a layer have acted, whenever they were put there. `visit` sees those
    asked for (None: all) of one batch in order, then those of the next. Encoder-decoder models show the "encoder" or,
    with `stack`, the "decoder", which reads the same texts. States in half precision are shown in float32. `what` is
    measured, for messages.

    Raises InvalidArgument for layers or a stack that there are not, CannotMeasure for a model that shows no hidden
    states of each token or whose states move with padding, NonFinite, naming the text.
    """
    batching = batching or Batching()
    _check(layers, stack)
    check_reads_texts(model, what)
    done = 0
    with torch.inference_mode(), model.frozen(), tracked(f"{texts.name}, {what}", len(texts)) as show:
        check_padding(model, texts.encoded, batching, what, stack)
        for batch in batches(model, texts.encoded, batching):
            real = real_tokens(texts.encoded, batch, batching)
            for states in batch_states(model, texts.name, batch, real, what=what, layers=layers, stack=stack):
                visit(states)
            done += len(batch.positions)
            show(done)


def batch_states(
    model: ModelUnderTest,
    name: str,
    batch: Batch,
    real: Tensor,
    *,
    what: str,
    layers: Collection[int] | None = None,
    stack: str | None = None,
) -> Iterator[States]:
    """The hidden states of one batch, layer by layer; `name` is that of the texts. See `stream_states`."""
    stacks = _run(model, batch, what)
    chosen = stack or next(iter(stacks))
    if chosen not in stacks:
        raise InvalidArgument("stack", stack, f"None: {model.name} is no encoder-decoder model")
    yield from _checked(model, name, batch, real, chosen, stacks[chosen], layers, what)


def states_by_stack(
    model: ModelUnderTest, name: str, batch: Batch, real: Tensor, *, what: str
) -> dict[str | None, list[States]]:
    """All hidden states of one batch, of both stacks of an encoder-decoder model; see `stream_states`."""
    stacks = _run(model, batch, what)
    return {
        stack: list(_checked(model, name, batch, real, stack, found, None, what)) for stack, found in stacks.items()
    }


def _checked(
    model: ModelUnderTest,
    name: str,
    batch: Batch,
    real: Tensor,
    stack: str | None,
    found: tuple[Tensor, ...],
    layers: Collection[int] | None,
    what: str,
) -> Iterator[States]:
    """States of these layers, which are seen to be one of each token, and finite."""
    last = len(found) - 1
    for layer in sorted(set(layers)) if layers is not None else range(last + 1):
        if layer > last:
            raise InvalidArgument("layers", layer, f"numbers up to {last}, the last layer of {model.name}")
        states = found[layer]
        if states.ndim != 3 or states.shape[:2] != real.shape:
            reason = f"its layer {layer} has states {tuple(states.shape)} for {tuple(real.shape)} tokens"
            raise CannotMeasure(what, type(model.model).__name__, reason)
        if states.dtype in (torch.float16, torch.bfloat16):
            states = states.float()
        wrong = ~torch.isfinite(states).all(dim=-1) & real.to(states.device)
        if bool(wrong.any()):
            at = batch.positions[int(wrong.nonzero()[0, 0])]
            raise NonFinite(f"a hidden state of layer {layer}", f"example {at} of {name}")
        yield States(layer, last, stack, batch.positions, real, states)


def check_reads_texts(model: ModelUnderTest, what: str) -> None:
    """Raise CannotMeasure for a model that is not run on token ids."""
    if not accepts(model.model, "input_ids"):
        raise CannotMeasure(what, type(model.model).__name__, f"it reads {model.model.main_input_name}, and no texts")


def check_padding(
    model: ModelUnderTest, encoded: Encoded, batching: Batching, what: str, stack: str | None = None
) -> None:
    """Raise CannotMeasure for a model that gives a text other states when it is padded; tried on two of the texts.

    A convolution over tokens reads padding, and so does a decoder without a mask. (What left padding does, `batches`
    sees for itself.) To be called in inference mode, with the model frozen; `stack` is what is asked for.
    """
    size = lengths(encoded)
    uneven = next((group for group in plan(model, encoded, batching) if size[group[0]] < size[group[-1]]), None)
    if uneven is None or batching.padding_side == "left":
        return
    short, long = encoded.examples[uneven[0]], encoded.examples[uneven[-1]]
    alone = _run(model, collate(model, [short], (0,)), what)
    padded = _run(model, collate(model, [short, long], (0, 1)), what)
    for name, layers in alone.items():
        if stack is not None and name != stack:
            continue
        for layer, (expected, found) in enumerate(zip(layers, padded[name], strict=True)):
            if found.shape[:2] != (2, len(long.ids)) or expected.shape[:2] != (1, len(short.ids)):
                continue  # refused by its own message
            limit = _MOVED.get(expected.dtype, 5e-2) * max(1.0, float(expected.abs().max()))
            if bool(((found[0, : len(short.ids)] - expected[0]).abs() > limit).any()):
                reason = f"its layer {layer} moves with padding; with Batching(tokens=1) each text is read alone"
                raise CannotMeasure(what, type(model.model).__name__, reason)


def _check(layers: Any, stack: str | None) -> None:
    if stack not in (None, *_STACKS):
        raise InvalidArgument("stack", stack, "'encoder', 'decoder', or None")
    if layers is None:
        return
    if isinstance(layers, str) or not isinstance(layers, Collection) or not layers:
        raise InvalidArgument("layers", layers, "numbers from 0 (the embeddings), such as [0, 6], or None")
    for layer in layers:
        if not is_whole(layer) or layer < 0:
            raise InvalidArgument("layers", layer, "numbers from 0 (the embeddings), such as [0, 6], or None")


def _run(model: ModelUnderTest, batch: Batch, what: str) -> dict[str | None, tuple[Tensor, ...]]:
    """Embeddings and layers of each stack."""
    hooked = unseen_hook(model.model)
    if hooked is not None:
        reason = f"this transformers notes its states before the hook on {hooked} acts; a newer one sees them"
        raise CannotMeasure(what, type(model.model).__name__, reason)
    with behind_all_hooks(model.model):
        result: Any = model.model(**reading_inputs(model, batch), output_hidden_states=True, return_dict=True)
    both = hasattr(result, "encoder_hidden_states")
    found: dict[str | None, Any] = {
        stack: getattr(result, f"{stack}_hidden_states" if stack else "hidden_states", None)
        for stack in (_STACKS if both else (None,))
    }
    for states in found.values():
        if not states or not all(isinstance(each, Tensor) for each in states):
            raise CannotMeasure(what, type(model.model).__name__, "asked for its hidden states, it returns none")
    return {stack: tuple(states) for stack, states in found.items()}
