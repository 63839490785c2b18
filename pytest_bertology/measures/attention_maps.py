"""The attention weights themselves, text by text: a layer's at a time, and never more than a limit of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.announcing import announce
from pytest_bertology.engine.attending import Attended, attend
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.encoding import lengths
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument, UnknownLayer
from pytest_bertology.heads import Head, HeadLike
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads
from pytest_bertology.measures.layerwise import LIMIT, Arrays, Layerwise
from pytest_bertology.models import ModelUnderTest

Map: TypeAlias = "npt.NDArray[np.floating[Any]]"
LayerName: TypeAlias = "int | tuple[int, str | None]"


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


class AttentionMaps(Layerwise):
    """The attention weights of a model on some texts, layer by layer: `maps[2]`, counted from 0.

    `maps[2]` is an array (heads, tokens, tokens) for each text, without padding: [h, i, j] is the attention of head h
    of layer 2 that token i pays to token j. `maps.head((2, 4))` is one head's, (tokens, tokens) for each text, and
    `maps.tokens` names the tokens. In encoder-decoder models a layer is `maps[2, "cross"]`.

    Nothing is computed before a layer is asked for, under the masks and changes of attention in force then; for
    others the model runs again. All layers are kept if they fit into `limit` bytes together; else the last one asked
    for, and the model runs again for the next. Raises TooMuchMemory, before anything is computed, where a single layer
    does not fit.
    """

    _what = "one layer's attention"
    _advice = "Take fewer or shorter texts, raise limit=, or use attention_statistics, which keeps no maps."

    def __init__(
        self, model: ModelUnderTest, texts: TextsLike, *, batching: Batching | None = None, limit: int = LIMIT
    ) -> None:
        super().__init__(model, texts, batching=batching, limit=limit)
        check_has_heads(model)

    def __len__(self) -> int:
        return len(self.model.sites)

    def __repr__(self) -> str:
        return f"AttentionMaps({self.model.name}, {self.texts.name}: {self.model.heads.describe()})"

    def head(self, head: HeadLike) -> tuple[Map, ...]:
        """One head's weights, (tokens, tokens) for each text; raises UnknownHead."""
        found = self.model.heads[self.model.heads.index(head)]
        return tuple(text[found.head] for text in self._layer(self._number((found.layer, found.stack))))

    def view(self, head: HeadLike, text: int = 0, kind: str = "matrix") -> HeadView:
        """One head on one text, for `save_figure`: as a "matrix", or as "lines" from tokens to tokens."""
        if kind not in ("matrix", "lines"):
            raise InvalidArgument("kind", kind, "'matrix' or 'lines'")
        if not is_whole(text) or not -len(self.texts) <= text < len(self.texts):
            raise InvalidArgument("text", text, f"a number from 0 to {len(self.texts) - 1}, one of {self.texts.name}")
        found = self.model.heads[self.model.heads.index(head)]
        view = HeadView(found, self.model.name, self.tokens[text], self.head(found)[text], kind)
        announce("view", view, self.model, self.texts.name)
        return view

    def _bytes(self, layer: int) -> int:
        squares = int((lengths(self.texts.encoded) ** 2).sum())
        return self.model.sites[layer].heads * squares * self._dtype().itemsize

    def _number(self, layer: LayerName) -> int:
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

    def _computed(self, layers: Sequence[int]) -> dict[int, Arrays]:
        return within_memory("attention maps", self.model, lambda: self._run(layers))

    def _run(self, layers: Sequence[int]) -> dict[int, Arrays]:
        """The maps of these layers; of a layer that runs several times (ALBERT's), the mean over its runs."""
        starts = np.cumsum([0, *(site.heads for site in self.model.sites)])
        counts = [len(ids.ids) for ids in self.texts.encoded.examples]
        dtype = self._dtype()
        found: dict[int, Arrays]
        found = {s: tuple(np.zeros((self.model.sites[s].heads, n, n), dtype) for n in counts) for s in layers}

        def keep(attended: Attended) -> None:
            own = slice(attended.heads.start - starts[attended.site], attended.heads.stop - starts[attended.site])
            runs = len(self.model.sites[attended.site].taps)
            for position, weights in attended.each():
                found[attended.site][position][own] += weights.cpu().numpy() / runs

        attend(self.model, self.texts, keep, what="attention maps", batching=self._batching, sites=layers)
        for maps in found.values():
            for each in maps:
                each.setflags(write=False)
        return found
