"""Results on texts, layer by layer: computed when a layer is asked for, and never more than a limit of memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike, read_texts
from pytest_bertology.errors import TooMuchMemory
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.models import ModelUnderTest

Arrays: TypeAlias = "tuple[npt.NDArray[np.floating[Any]], ...]"
"""One for each text."""

LIMIT = 512 * 2**20
"""Bytes that results may take unless more are allowed."""


class Layerwise(Sequence[Arrays]):
    """Arrays for each text, layer by layer; see `AttentionMaps` and `HiddenStates`."""

    _what: str
    """What a layer's arrays are, for messages."""
    _advice: str
    """What to do where they do not fit."""

    def __init__(
        self, model: ModelUnderTest, texts: TextsLike, *, batching: Batching | None = None, limit: int = LIMIT
    ) -> None:
        check_model(model)
        self.model = model
        self.texts = read_texts(model, texts)
        self.limit = limit
        self._batching = batching
        self._kept: dict[int, Arrays] = {}
        self._under: Any = None

    @property
    def tokens(self) -> tuple[tuple[str, ...], ...]:
        """The tokens of each text, as the tokenizer writes them."""
        tokenizer = self.model.needs_tokenizer()
        return tuple(
            tuple(tokenizer.convert_ids_to_tokens(list(self.texts.ids(index)))) for index in range(len(self.texts))
        )

    def __getitem__(self, layer: Any) -> Any:
        if isinstance(layer, slice):
            return [self._layer(index) for index in range(len(self))[layer]]
        return self._layer(self._number(layer))

    def __iter__(self) -> Iterator[Arrays]:
        return (self._layer(layer) for layer in range(len(self)))

    @abstractmethod
    def _number(self, layer: Any) -> int:
        """Which layer is meant, counted from 0; raises UnknownLayer."""

    @abstractmethod
    def _bytes(self, layer: int) -> int:
        """What the arrays of one layer take."""

    @abstractmethod
    def _computed(self, layers: Sequence[int]) -> dict[int, Arrays]:
        """Run the model, and keep these layers."""

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.model.dtype == "float64" else np.float32)

    def _layer(self, layer: int) -> Arrays:
        now = self.model.in_force()
        if now is None or now != self._under:
            self._kept.clear()
        if layer not in self._kept:
            needed = [self._bytes(index) for index in range(len(self))]
            if needed[layer] > self.limit:
                raise TooMuchMemory(f"{self._what} on {self.texts.name}", needed[layer], self.limit, self._advice)
            self._kept = self._computed(range(len(self)) if sum(needed) <= self.limit else [layer])
            self._under = now
        return self._kept[layer]
