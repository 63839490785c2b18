"""Which tokens attend and which are attended to, read from what the model was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_bertology.models.sites import Site

if TYPE_CHECKING:
    from pytest_bertology.models.under_test import ModelUnderTest


@dataclass(frozen=True, eq=False)
class Side:
    """The tokens on one side of an attention."""

    real: Tensor
    """(batch, tokens) False for padding."""
    places: Tensor
    """(batch, tokens) where in its text each token stands, from 0, whatever the padding side; 0 or more for padding."""
    ids: Tensor | None
    """(batch, tokens) token ids, or None where the model was not given those of these tokens."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What is known of the tokens of one attention call."""

    stack: str | None
    """The site's."""
    queries: Side
    keys: Side
    texts: bool
    """Whether these are the tokens of texts, and where they stand is known; not so in an image tower, say."""
    allowed: Tensor
    """True where a query may attend to a key, by the model's own mask; padding among keys never. A shape that expands
    to (batch, heads, queries, keys)."""

    def under(self, blocked: Tensor | None, heads: Tensor) -> Seen:
        """The same for some of the heads, under the mask of the call: True where it blocks."""
        if blocked is None:
            return self
        if blocked.shape[1] > 1:
            blocked = blocked.index_select(1, heads)
        return replace(self, allowed=self.allowed & ~blocked)


class Sides:
    """The tokens that one forward pass is given: `inputs` are its arguments by name."""

    def __init__(self, model: ModelUnderTest, inputs: Mapping[str, Any]) -> None:
        self._inputs = inputs
        self._double = bool(getattr(model.model.config, "is_encoder_decoder", False))
        self._known: dict[tuple[Any, ...], Seen | str] = {}

    def of(self, site: Site, like: Tensor) -> Seen | str:
        """The tokens of an attention of weights (batch, heads, queries, keys) like these; or why they are not known."""
        rows, _, queries, keys = like.shape
        key = (site.stack, rows, queries, keys, like.device)
        if key not in self._known:
            self._known[key] = self._find(site.stack, rows, queries, keys, like.device)
        return self._known[key]

    def _find(self, stack: str | None, rows: int, queries: int, keys: int, device: torch.device) -> Seen | str:
        decoder, encoder = ("decoder_", "") if self._double else ("", "encoder_")
        texts = stack in (None, "encoder", "decoder", "cross") and not (stack is None and self._double)
        sides: list[Side | str]
        if not texts:
            sides = [_whole(rows, count, device) for count in (queries, keys)]
        elif stack == "cross":
            masked = self._inputs.get(f"{decoder}attention_mask") is not None
            texts = masked or self._inputs.get("past_key_values") is None
            sides = [self._side(decoder, rows, queries, device, more=True), self._side(encoder, rows, keys, device)]
        elif queries > keys:
            return f"it attends from {queries} places to no more than {keys}"
        else:
            side = self._side(decoder if stack == "decoder" else "", rows, keys, device)
            sides = [side if isinstance(side, str) else _tail(side, queries), side]
        attending, attended = sides
        if isinstance(attending, str) or isinstance(attended, str):
            return str(attending if isinstance(attending, str) else attended)
        return Seen(stack, attending, attended, texts, attended.real[:, None, None, :])

    def _side(self, prefix: str, rows: int, count: int, device: torch.device, *, more: bool = False) -> Side | str:
        """So many tokens; the mask may be of `more`, of which they are the last."""
        mask, ids = (self._inputs.get(f"{prefix}{name}") for name in ("attention_mask", "input_ids"))
        if mask is None:
            side = _whole(rows, count, device)
        else:
            fits = isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[0] == rows
            if not fits or mask.shape[1] < count or (mask.shape[1] > count and not more):
                return _unlike(prefix, mask, rows, count)
            real = mask.to(device) != 0
            side = _tail(Side(real, (real.cumsum(dim=-1) - 1).clamp(min=0), None), count)
        if isinstance(ids, Tensor) and ids.shape == (rows, count):
            side = replace(side, ids=ids.to(device))
        return side


def _unlike(prefix: str, mask: Any, rows: int, count: int) -> str:
    shape = f"of the shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
    return f"it attends over {rows} texts of {count} tokens, and the model's {prefix}attention_mask is {shape}"


def _tail(side: Side, count: int) -> Side:
    """The last tokens alone, as those that a pass adds to its cache."""
    length = side.real.shape[1]
    if length == count:
        return side
    return Side(side.real[:, length - count :], side.places[:, length - count :], None)


def _whole(rows: int, count: int, device: torch.device) -> Side:
    real = torch.ones(rows, count, dtype=torch.bool, device=device)
    return Side(real, torch.arange(count, device=device).expand(rows, count), None)
