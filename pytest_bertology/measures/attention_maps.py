"""The attention weights themselves, text by text: a layer's at a time, and never more than a limit of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import lengths
from pytest_bertology.engine.texts import TextsLike, read_texts
from pytest_bertology.errors import InvalidArgument, TooMuchMemory, UnknownLayer
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.models import ModelUnderTest

Map: TypeAlias = "npt.NDArray[np.floating[Any]]"
LayerName: TypeAlias = "int | tuple[int, str | None]"

LIMIT = 512 * 2**20
"""Bytes that maps or states may take unless more are allowed."""


@dataclass(frozen=True, eq=False, repr=False)
class HeadView:
    """One head's attention on one text, to be looked at: `save_figure(view, "head.png")`."""

    head: Head
    model: str
    tokens: tuple[str, ...]
    weights: Map
    """(tokens, tokens): of the token of a row to that of a column."""
    kind: str
    """"matrix" or "lines"."""

    def __repr__(self) -> str:
        return f"HeadView({self.head} of {self.model}, {len(self.tokens)} tokens, {self.kind})"


class AttentionMaps(Sequence[tuple[Map, ...]]):
    """The attention weights of a model on some texts, layer by layer: `maps[2]`, counted from 0.

    `maps[2]` is an array (heads, tokens, tokens) for each text, without padding: [h, i, j] is the attention of head h
    of layer 2 that token i pays to token j. `maps.head((2, 4))` is one head's, (tokens, tokens) for each text, and
    `maps.tokens` names the tokens. In encoder-decoder models a layer is `maps[2, "cross"]`.

    Nothing is computed before a layer is asked for, under the masks in force then. All layers are kept if they fit
    into `limit` bytes together; else the last one asked for, and the model runs again for the next. Weights are those
    of `attention_statistics`. Raises TooMuchMemory, before anything is computed, where a single layer does not fit.
    """

    def __init__(
        self, model: ModelUnderTest, texts: TextsLike, *, batching: Batching | None = None, limit: int = LIMIT
    ) -> None:
        check_model(model)
        check_has_heads(model)
        self.model = model
        self.texts = read_texts(model, texts)
        self.limit = limit
        self._batching = batching
        self._kept: dict[int, tuple[Map, ...]] = {}
        self._gates: Any = None

    def __len__(self) -> int:
        return len(self.model.sites)

    def __repr__(self) -> str:
        return f"AttentionMaps({self.model.name}, {self.texts.name}: {self.model.heads.describe()})"

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of each text, as the tokenizer writes them."""
        tokenizer = self.model.needs_tokenizer()
        return tuple(
            tuple(tokenizer.convert_ids_to_tokens(list(self.texts.ids(index)))) for index in range(len(self.texts))
        )

    def __getitem__(self, layer: Any) -> Any:
        if isinstance(layer, slice):
            return [self[index] for index in range(len(self))[layer]]
        return self._layer(self._site(layer))

    def __iter__(self) -> Iterator[tuple[Map, ...]]:
        return (self._layer(site) for site in range(len(self)))

    def head(self, head: HeadLike) -> tuple[Map, ...]:
        """One head's weights, (tokens, tokens) for each text; raises UnknownHead."""
        found = self.model.heads[self.model.heads.index(head)]
        return tuple(text[found.head] for text in self._layer(self._site((found.layer, found.stack))))

    def view(self, head: HeadLike, text: int = 0, kind: str = "matrix") -> HeadView:
        """One head on one text, for `save_figure`: as a "matrix", or as "lines" from tokens to tokens."""
        if kind not in ("matrix", "lines"):
            raise InvalidArgument("kind", kind, "'matrix' or 'lines'")
        if not is_whole(text) or not -len(self.texts) <= text < len(self.texts):
            raise InvalidArgument("text", text, f"a number from 0 to {len(self.texts) - 1}, one of {self.texts.name}")
        found = self.model.heads[self.model.heads.index(head)]
        return HeadView(found, self.model.name, self.tokens[text], self.head(found)[text], kind)

    def bytes_of(self, site: int) -> int:
        """What the maps of one attention layer take."""
        squares = int((lengths(self.texts.encoded) ** 2).sum())
        width = 8 if self.model.dtype == "float64" else 4
        return self.model.sites[site].heads * squares * width

    def _site(self, layer: LayerName) -> int:
        sites = self.model.sites
        name = layer if isinstance(layer, tuple) else (layer, None)
        if len(name) == 2 and is_whole(name[0]):
            number = name[0]
            if number < 0 and all(site.stack is None for site in sites):
                number += len(sites)
            for index, site in enumerate(sites):
                if (site.layer, site.stack) == (number, name[1]):
                    return index
        raise UnknownLayer(layer, self.model.heads.describe())

    def _layer(self, site: int) -> tuple[Map, ...]:
        gates = self.model.mask_in_force().gates
        if gates != self._gates or self.model.altered():
            self._kept.clear()
        if site not in self._kept:
            needed = [self.bytes_of(index) for index in range(len(self))]
            if needed[site] > self.limit:
                advice = "Take fewer or shorter texts, raise limit=, or use attention_statistics, which keeps no maps."
                what = f"one layer's attention on {self.texts.name}"
                raise TooMuchMemory(what, needed[site], self.limit, advice)
            self._kept = self._computed(range(len(self)) if sum(needed) <= self.limit else [site])
            self._gates = gates
        return self._kept[site]

    def _computed(self, sites: Sequence[int]) -> dict[int, tuple[Map, ...]]:
        """The maps of these layers; of a layer that runs several times (ALBERT's), the mean over its runs."""
        starts = np.cumsum([0, *(site.heads for site in self.model.sites)])
        counts = [len(ids.ids) for ids in self.texts.encoded.examples]
        dtype = np.float64 if self.model.dtype == "float64" else np.float32
        found: dict[int, tuple[Map, ...]]
        found = {s: tuple(np.zeros((self.model.sites[s].heads, n, n), dtype) for n in counts) for s in sites}

        def keep(attended: Attended) -> None:
            own = slice(attended.heads.start - starts[attended.site], attended.heads.stop - starts[attended.site])
            runs = len(self.model.sites[attended.site].taps)
            for position, weights in attended.each():
                found[attended.site][position][own] += weights.cpu().numpy() / runs

        attend(self.model, self.texts, keep, what="attention maps", batching=self._batching, sites=sites)
        for maps in found.values():
            for each in maps:
                each.setflags(write=False)
        return found
