"""The hidden states of texts, a layer's at a time, and never more than a limit of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pytest_bertology.engine.batching import Batching, collate
from pytest_bertology.engine.encoding import lengths
from pytest_bertology.engine.states import States, batch_states, check_reads_texts, stream_states
from pytest_bertology.engine.texts import TextsLike, read_texts
from pytest_bertology.errors import TooMuchMemory, UnknownLayer
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.attention_maps import LIMIT
from pytest_bertology.models import ModelUnderTest

Vectors: TypeAlias = "npt.NDArray[np.floating[Any]]"


class HiddenStates(Sequence[tuple[Vectors, ...]]):
    """The hidden states of a model on some texts: `states[0]` is the embeddings, `states[2]` what layer 2 of 1…L gives.

    `states[2]` is an array (tokens, width) for each text, without padding, as transformers' `output_hidden_states`
    gives them; `states.tokens` names the tokens. Encoder-decoder models give the encoder's, or with `stack` the
    decoder's, which reads the same texts.

    Nothing is computed before a layer is asked for, under the masks in force then. All layers are kept if they fit
    into `limit` bytes together; else the last one asked for, and the model runs again for the next. Raises
    TooMuchMemory, before anything is computed, where a single layer does not fit.
    """

    def __init__(
        self,
        model: ModelUnderTest,
        texts: TextsLike,
        *,
        stack: str | None = None,
        batching: Batching | None = None,
        limit: int = LIMIT,
    ) -> None:
        check_model(model)
        self.model = model
        self.texts = read_texts(model, texts)
        self.limit = limit
        self._stack = stack
        self._batching = batching
        self._kept: dict[int, tuple[Vectors, ...]] = {}
        self._gates: Any = None

    def __len__(self) -> int:
        return len(self._widths)

    def __repr__(self) -> str:
        return f"HiddenStates({self.model.name}, {self.texts.name}: embeddings and {len(self) - 1} layers)"

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
        if not is_whole(layer) or not -len(self) <= layer < len(self):
            raise UnknownLayer(layer, f"the embeddings, 0, and {len(self) - 1} layers")
        return self._layer(range(len(self))[layer])

    def __iter__(self) -> Iterator[tuple[Vectors, ...]]:
        return (self._layer(layer) for layer in range(len(self)))

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        """How wide the states of each layer are, seen on the first text."""
        what = "hidden states"
        check_reads_texts(self.model, what)
        batch = collate(self.model, [self.texts.encoded.examples[0]], (0,))
        real = torch.ones(1, len(self.texts.ids(0)), dtype=torch.bool, device=self.model.device)
        with torch.inference_mode(), self.model.frozen():
            seen = list(batch_states(self.model, self.texts.name, batch, real, what=what, stack=self._stack))
        return tuple(states.states.shape[-1] for states in seen)

    def _layer(self, layer: int) -> tuple[Vectors, ...]:
        gates = self.model.mask_in_force().gates
        if gates != self._gates or self.model.altered():
            self._kept.clear()
        if layer not in self._kept:
            tokens = int(lengths(self.texts.encoded).sum())
            needed = [tokens * width * self._dtype().itemsize for width in self._widths]
            if needed[layer] > self.limit:
                what = f"one layer's states on {self.texts.name}"
                raise TooMuchMemory(what, needed[layer], self.limit, "Take fewer or shorter texts, or raise limit=.")
            self._kept = self._computed(range(len(self)) if sum(needed) <= self.limit else [layer])
            self._gates = gates
        return self._kept[layer]

    def _dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float64 if self.model.dtype == "float64" else np.float32)

    def _computed(self, layers: Sequence[int]) -> dict[int, tuple[Vectors, ...]]:
        found: dict[int, dict[int, Vectors]] = {layer: {} for layer in layers}

        def keep(states: States) -> None:
            for position, each in states.each():
                array = each.cpu().numpy().copy()
                array.setflags(write=False)
                found[states.layer][position] = array

        stream_states(
            self.model,
            self.texts,
            keep,
            what="hidden states",
            layers=layers,
            stack=self._stack,
            batching=self._batching,
        )
        return {layer: tuple(each[i] for i in range(len(self.texts))) for layer, each in found.items()}
