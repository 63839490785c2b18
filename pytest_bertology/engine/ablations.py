"""What stands in for an ablated head: nothing, what it gives on average, or what it gives for another example."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pytest_bertology.engine.batching import Batch, Batching, batches, collate
from pytest_bertology.engine.encoding import Encoded, lengths
from pytest_bertology.engine.progress import tracked
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.gating import shaped, spread
from pytest_bertology.models.sites import Site
from pytest_bertology.names import ABLATIONS

Gates = Sequence[Tensor | None]


class Fills(Protocol):
    """What takes the place of ablated heads."""

    @abstractmethod
    def of(self, batch: Batch) -> Mapping[int, Tensor]:
        """Per site contexts that broadcast to (examples, tokens, features) of a batch."""


def fills_for(
    ablation: str, model: ModelUnderTest, encoded: Encoded, base: Gates, batching: Batching, seed: int, where: str
) -> Fills | None:
    """What takes the place of ablated heads; None for nothing. Both are taken from the model under the base gates.

    "mean" is a head's context averaged over all tokens of all examples, padding apart. "resample" is its context for
    another example, of like length: examples are paired in the order of their lengths, `seed` deciding among equal
    ones; a token gets that of the same position, counted round where the other example is shorter.

    Raises InvalidArgument for another name, and for a model whose contexts are not laid out token by token.
    """
    if ablation not in ABLATIONS:
        raise InvalidArgument("ablation", ablation, "one of " + ", ".join(ABLATIONS))
    if ablation == "zero":
        return None
    if ablation == "mean":
        return _Means(model, encoded, base, batching, where)
    return _Others(model, encoded, base, batching, seed)


class _Means:
    def __init__(self, model: ModelUnderTest, encoded: Encoded, base: Gates, batching: Batching, where: str) -> None:
        self._device = model.device
        totals = [torch.zeros(site.features, dtype=torch.float64) for site in model.sites]
        count = 0
        with tracked(f"{where}, mean of each head", len(encoded.examples)) as show:
            done = 0
            for batch in batches(model, encoded, batching):
                real = _real(batch)
                for total, context in zip(totals, _contexts(model, batch, base), strict=True):
                    total += context[real].double().sum(dim=0).cpu()
                count += int(real.sum())
                done += len(batch.positions)
                show(done)
        self._means = {at: (total / count).to(model.device, model.model.dtype) for at, total in enumerate(totals)}

    def of(self, batch: Batch) -> Mapping[int, Tensor]:
        return self._means


class _Others:
    def __init__(self, model: ModelUnderTest, encoded: Encoded, base: Gates, batching: Batching, seed: int) -> None:
        if len(encoded.examples) < 2:
            raise InvalidArgument("ablation", "resample", "'zero' or 'mean': there is one example and no other")
        self._model, self._encoded, self._base, self._side = model, encoded, base, batching.padding_side
        if self._side != "right":
            raise InvalidArgument("padding_side", self._side, "'right' for ablation='resample'")
        self._other = _partners(encoded, seed)

    def of(self, batch: Batch) -> Mapping[int, Tensor]:
        others = [self._other[position] for position in batch.positions]
        batches_of_one = [[other] for other in others]
        size = _real(batch).shape[1]
        groups = [others] if self._model.check.per_example else batches_of_one
        found: dict[int, list[Tensor]] = {at: [] for at in range(len(self._model.sites))}
        for group in groups:
            donors = collate(self._model, [self._encoded.examples[i] for i in group], group)
            length = torch.tensor([len(self._encoded.examples[i].ids) for i in group])
            turns = (torch.arange(size)[None, :] % length[:, None]).to(self._model.device)
            for at, context in enumerate(_contexts(self._model, donors, self._base)):
                found[at].append(context.gather(1, turns[:, :, None].expand(-1, -1, context.shape[-1])))
        return {at: torch.cat(parts) for at, parts in found.items()}


def _partners(encoded: Encoded, seed: int) -> dict[int, int]:
    """For each example another of like length; whatever the order of the examples."""

    def key(index: int) -> tuple[int, str]:
        drawn = hashlib.sha256(f"{seed} {encoded.examples[index].ids}".encode()).hexdigest()
        return int(length[index]), drawn

    length = lengths(encoded)
    order = sorted(range(len(length)), key=key)
    partners = {}
    for at, index in enumerate(order):
        odd_one = at == len(order) - 1 and at % 2 == 0
        partners[index] = order[at - 1 if at % 2 or odd_one else at + 1]
    return partners


def _contexts(model: ModelUnderTest, batch: Batch, base: Gates) -> list[Tensor]:
    """What each projection receives before any gate, (examples, tokens, features)."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        stack.enter_context(model.gated(base))
        for at, site in enumerate(model.sites):

            def note(module: nn.Module, args: Any, kwargs: Any, at: int = at, site: Site = site) -> None:
                found[at] = site.context(args, kwargs)

            handle = site.projection.register_forward_pre_hook(note, with_kwargs=True, prepend=True)
            stack.callback(handle.remove)
        model.model(**batch.inputs)
    for at, site in enumerate(model.sites):
        plain = site.batch_axis == 0 and not site.flattened and site.calls == 1
        if not plain or found[at].shape[:2] != batch.inputs["input_ids"].shape:
            raise InvalidArgument(
                "ablation", "mean or resample", f"'zero': {site.name} is not given one context for each token"
            )
    return [found[at] for at in range(len(model.sites))]


def _real(batch: Batch) -> Tensor:
    """(examples, tokens) which are no padding."""
    mask = batch.inputs.get("attention_mask")
    return torch.ones_like(batch.inputs["input_ids"]).bool() if mask is None else mask.bool()


@contextmanager
def filled(model: ModelUnderTest, weights: Gates, fills: Mapping[int, Tensor], copies: int) -> Iterator[None]:
    """Add to what the projections receive `weights` times what stands in; entered within the gates, acts after them.

    The batch holds the examples that `fills` are of `copies` times, one copy after the other.
    """
    with ExitStack() as stack:
        for at, (site, weight) in enumerate(zip(model.sites, weights, strict=True)):
            if weight is None:
                continue
            fill = fills[at] if fills[at].ndim == 1 else fills[at].repeat(copies, 1, 1)

            def add(
                module: nn.Module,
                args: Any,
                kwargs: Any,
                site: Site = site,
                weight: Tensor = weight,
                fill: Tensor = fill,
            ) -> Any:
                context = site.context(args, kwargs)
                share = shaped(site, context, spread(site, weight.to(context.device, context.dtype), rest=0.0))
                return site.replaced(args, kwargs, context + share * fill)

            stack.callback(site.projection.register_forward_pre_hook(add, with_kwargs=True).remove)
        yield
