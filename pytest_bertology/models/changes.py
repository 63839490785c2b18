"""What attention can be changed to: constants (PAPA), patterns, the greatest few weights of each token."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pytest_bertology.errors import (
    AttentionNotChanged,
    CannotChangeAttention,
    InvalidArgument,
    MaskOfAnotherModel,
    NoHeadSelected,
    NotAHead,
    UnknownLayer,
    describe_heads,
)
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import as_head, is_whole
from pytest_bertology.models.blocks import LayerLike
from pytest_bertology.models.constants import ConstantAttention
from pytest_bertology.models.intervening import changed_attention
from pytest_bertology.models.patterns import Pattern, PatternLike, as_pattern
from pytest_bertology.models.sides import Seen, Side

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest

HeadsLike: TypeAlias = "HeadLike | Iterable[HeadLike]"


@contextmanager
def constant(model: ModelUnderTest, constants: ConstantAttention, heads: HeadsLike | None) -> Iterator[None]:
    """Run heads with constant attention; see `ModelUnderTest.with_constant_attention`."""
    if not isinstance(constants, ConstantAttention):
        raise InvalidArgument("constants", type(constants).__name__, "what constant_attention(model, texts) returns")
    if constants.heads != model.heads:
        raise MaskOfAnotherModel(constants.heads.identify(), model.heads.identify(), made="the constant attention")
    whole = tuple(model.heads) if heads is None else named(model, heads)
    chosen = by_site(model, whole)
    with changed_attention(model, _Constant(model, constants, chosen), chosen, f"constant in {_said(model, whole)}"):
        yield


@contextmanager
def patterned(model: ModelUnderTest, heads: HeadsLike, pattern: PatternLike) -> Iterator[PatternUse]:
    """Run heads with a pattern; see `ModelUnderTest.with_attention_pattern`."""
    whole = named(model, heads)
    chosen = by_site(model, whole)
    for index in chosen:
        if model.sites[index].stack not in (None, "encoder", "decoder"):
            reason = f"a pattern is of the tokens of one text, and {model.sites[index].attention} is of something else"
            raise CannotChangeAttention(type(model.model).__name__, reason)
    found = as_pattern(pattern, model.needs_tokenizer)
    change = _Patterned(model, found)
    with changed_attention(model, change, chosen, f"the pattern {found.name} in {_said(model, whole)}"):
        yield change.use
    if change.use.rows and change.use.kept == change.use.rows:
        raise AttentionNotChanged(f"all tokens kept what they had; of the pattern {found.name}, {change.why_nothing()}")


@contextmanager
def top_k(model: ModelUnderTest, k: int, layers: Iterable[LayerLike] | None) -> Iterator[None]:
    """Run layers with the greatest few weights; see `ModelUnderTest.with_top_k_attention`."""
    if not is_whole(k) or k < 1:
        raise InvalidArgument("k", k, "a whole number of keys from 1")
    sites = range(len(model.sites)) if layers is None else of_layers(model, layers)
    chosen = {index: list(range(model.sites[index].heads)) for index in sites}
    said = f"top {k} key{'s' if k != 1 else ''} in {_layers(model, sites)}"
    with changed_attention(model, _Top(int(k)), chosen, said):
        yield


def _said(model: ModelUnderTest, heads: Sequence[Head]) -> str:
    return "all heads" if len(heads) == len(model.heads) else describe_heads(heads)


def _layers(model: ModelUnderTest, sites: Sequence[int]) -> str:
    if len(sites) == len(model.sites):
        return "all layers"
    found = [model.sites[at] for at in sites]
    names = ", ".join(f"{site.stack} {site.layer}" if site.stack else str(site.layer) for site in found)
    return f"layer{'s' if len(found) > 1 else ''} {names}"


def named(model: ModelUnderTest, heads: HeadsLike) -> tuple[Head, ...]:
    """One head or several; raises UnknownHead, NotAHead, or NoHeadSelected for none."""
    try:
        found = model.heads.select([as_head(heads)])  # type: ignore[arg-type]
    except NotAHead:
        if isinstance(heads, str | bytes):
            raise
        found = model.heads.select(heads)  # type: ignore[arg-type]
    if not found:
        raise NoHeadSelected("heads=[] names no head", "Name the heads whose attention is changed.")
    return found


def by_site(model: ModelUnderTest, heads: Sequence[Head]) -> dict[int, list[int]]:
    """Heads by the place of their layer in `model.sites`, counted within it."""
    starts = [0, *accumulate(site.heads for site in model.sites)]
    found: dict[int, list[int]] = {}
    for head in heads:
        position = model.heads.index(head)
        site = bisect_right(starts, position) - 1
        found.setdefault(site, []).append(position - starts[site])
    return found


def of_layers(model: ModelUnderTest, layers: Iterable[LayerLike]) -> list[int]:
    """Attention layers by their places in `model.sites`; (number, stack) where the model has several stacks.

    Raises InvalidArgument for none, UnknownLayer.
    """
    expected = 'a list of attention layers, numbers from 0 such as [3, 4], or with their stacks, [(3, "decoder")]'
    if isinstance(layers, str | bytes) or not isinstance(layers, Iterable):
        raise InvalidArgument("layers", layers, expected)
    found = set()
    for layer in (given := list(layers)):
        number, stack = layer if isinstance(layer, tuple) and len(layer) == 2 else (layer, None)
        if not is_whole(number) or not isinstance(stack, str | None):
            raise InvalidArgument("layers", given, expected)
        at = [i for i, site in enumerate(model.sites) if (site.layer, site.stack) == (number, stack) and site.heads]
        if not at:
            stacks = sorted({site.stack for site in model.sites if site.stack})
            hint = f'; name the stack too, for example (0, "{stacks[0]}")' if stacks else ""
            raise UnknownLayer(layer, model.heads.describe() + hint)
        found.add(at[0])
    if not found:
        raise InvalidArgument("layers", given, expected)
    return sorted(found)


class _Constant:
    """The head's matrix, without what may not be seen, each row made to add up to one."""

    def __init__(self, model: ModelUnderTest, constants: ConstantAttention, heads: Mapping[int, Sequence[int]]) -> None:
        self._model, self._constants, self._heads = model, constants, heads
        self._tables: dict[int, Tensor] = {}

    def __call__(self, index: int, weights: Tensor, seen: Seen) -> Tensor:
        self._check(index, seen)
        table = self._table(index, weights)
        queries, keys = seen.queries.places, seen.keys.places
        found = table[:, queries[:, :, None], keys[:, None, :]].transpose(0, 1) * seen.allowed
        sums = found.sum(dim=-1, keepdim=True)
        even = seen.allowed / seen.allowed.sum(dim=-1, keepdim=True).clamp(min=1)
        return torch.where(sums > 0.0, found / sums, even.to(found.dtype))

    def _check(self, index: int, seen: Seen) -> None:
        architecture, path = type(self._model.model).__name__, self._model.sites[index].attention
        if not seen.texts:
            reason = f"where the tokens of {path} stand in a text is not known"
            raise CannotChangeAttention(architecture, reason)
        longest = 1 + int(torch.stack([(side.places * side.real).max() for side in (seen.queries, seen.keys)]).max())
        if longest > self._constants.longest:
            reason = (
                f"a text has {longest} tokens, and the longest of those that the constants were estimated on, "
                f"{self._constants.source}, has {self._constants.longest}; estimate them by constant_attention(model, "
                "texts) on texts one of which is as long as the longest that is run, or run no longer ones"
            )
            raise CannotChangeAttention(architecture, reason)

    def _table(self, index: int, weights: Tensor) -> Tensor:
        known = self._tables.get(index)
        if known is None or known.device != weights.device or known.dtype != weights.dtype:
            chosen = self._constants.tables[index][list(self._heads[index])]
            with torch.inference_mode(False):
                known = torch.from_numpy(chosen).to(weights.device, weights.dtype)
            self._tables[index] = known
        return known


@dataclass
class PatternUse:
    """What became of the attention of heads that were given a pattern, since the context was entered."""

    rows: int = 0
    """Tokens of texts that attended, counted for each head."""
    kept: int = 0
    """Those of which the pattern left nothing, and which kept their attention."""

    @property
    def share_kept(self) -> float:
        """The share that kept their attention; 0 while nothing was run."""
        return self.kept / self.rows if self.rows else 0.0


class _Patterned:
    """The weights on the pattern, made to add up to one; tokens that may see nothing of it keep what they had."""

    def __init__(self, model: ModelUnderTest, pattern: Pattern) -> None:
        self._model, self._pattern = model, pattern
        self._last: tuple[Side, Tensor] | None = None
        self._held = self._behind = False
        self.use = PatternUse()

    def why_nothing(self) -> str:
        """Why no token was left anything."""
        if not self._held:
            return "there is nothing for any token of what was run"
        blind = "the model's own mask lets no token see it" if self._behind else "the model never looks ahead"
        return f"none can be seen: {blind}"

    def __call__(self, index: int, weights: Tensor, seen: Seen) -> Tensor:
        allowed = (self._allowed(index, seen)[:, None].to(weights.device) & seen.allowed).expand_as(weights)
        on = weights * allowed
        sums, some = on.sum(dim=-1, keepdim=True), allowed.any(dim=-1, keepdim=True)
        real = seen.queries.real[:, None, :]
        self.use.rows += int(real.sum()) * weights.shape[1]
        self.use.kept += int((~some[..., 0] & real).sum())
        even = allowed / allowed.sum(dim=-1, keepdim=True).clamp(min=1)
        on = torch.where(sums > 0.0, on / torch.where(sums > 0.0, sums, 1.0), even.to(on.dtype))
        return torch.where(some, on, weights)

    def _allowed(self, index: int, seen: Seen) -> Tensor:
        """(batch, tokens, tokens), the same for all layers of a pass."""
        side = seen.keys
        if self._last is None or self._last[0] is not side:
            path = self._model.sites[index].attention
            if seen.queries is not seen.keys or not seen.texts:
                self._refuse(f"{path} does not attend from each token of a text to all (a cache, perhaps)")
            if side.ids is None and self._pattern.reads_ids:
                self._refuse(f"the model was not given the token ids that {path} attends over")
            self._last = side, self._found(side)
        return self._last[1]

    def _found(self, side: Side) -> Tensor:
        found = np.zeros((*side.real.shape, side.real.shape[1]), dtype=bool)
        for row, real in enumerate(side.real.cpu().numpy()):
            at = np.flatnonzero(real)
            ids = tuple(range(len(at))) if side.ids is None else tuple(side.ids[row].cpu().numpy()[at].tolist())
            allowed = self._pattern.allowed(ids)
            self._held |= bool(allowed.any())
            self._behind |= bool(np.tril(allowed).any())
            found[row][np.ix_(at, at)] = allowed
        return torch.from_numpy(found)

    def _refuse(self, reason: str) -> None:
        raise CannotChangeAttention(type(self._model.model).__name__, reason)


class _Top:
    """The greatest weights of each token, made to add up to what all did; of equal ones the first."""

    def __init__(self, k: int) -> None:
        self._k = k

    def __call__(self, index: int, weights: Tensor, seen: Seen) -> Tensor | None:
        if self._k >= weights.shape[-1]:
            return None
        greatest = weights.detach().sort(dim=-1, descending=True, stable=True).indices[..., : self._k]
        kept = torch.zeros_like(weights).scatter(-1, greatest, weights.gather(-1, greatest))
        share = kept.sum(dim=-1, keepdim=True)
        total = weights.sum(dim=-1, keepdim=True)
        return torch.where(share > 0.0, kept * (total / torch.where(share > 0.0, share, 1.0)), weights)
