"""The hidden states of texts, a layer's at a time, and never more than a limit of memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pytest_bertology.engine.batching import Batching, collate
from pytest_bertology.engine.encoding import lengths
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.states import States, batch_states, check_reads_texts, stream_states
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import UnknownLayer
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.layerwise import LIMIT, Arrays, Layerwise
from pytest_bertology.models import ModelUnderTest

Vectors: TypeAlias = "npt.NDArray[np.floating[Any]]"


class HiddenStates(Layerwise):
    """The hidden states of a model on some texts: `states[0]` is the embeddings, `states[2]` what layer 2 of 1…L gives.

    `states[2]` is an array (tokens, width) for each text, without padding, as transformers' `output_hidden_states`
    gives them; `states.tokens` names the tokens. Encoder-decoder models give the encoder's, or with `stack` the
    decoder's, which reads the same texts.

    Nothing is computed before a layer is asked for, under the masks and changes of attention in force then; for
    others the model runs again. All layers are kept if they fit into `limit` bytes together; else the last one asked
    for, and the model runs again for the next. Raises TooMuchMemory, before anything is computed, where a single layer
    does not fit.
    """

    _what = "one layer's states"
    _advice = "Take fewer or shorter texts, or raise limit=."

    def __init__(
        self,
        model: ModelUnderTest,
        texts: TextsLike,
        *,
        stack: str | None = None,
        batching: Batching | None = None,
        limit: int = LIMIT,
    ) -> None:
        super().__init__(model, texts, batching=batching, limit=limit)
        self._stack = stack

    def __len__(self) -> int:
        return len(self._widths)

    def __repr__(self) -> str:
        return f"HiddenStates({self.model.name}, {self.texts.name}: embeddings and {len(self) - 1} layers)"

    def _number(self, layer: Any) -> int:
        if not is_whole(layer) or not -len(self) <= layer < len(self):
            raise UnknownLayer(layer, f"the embeddings, 0, and {len(self) - 1} layers")
        return int(range(len(self))[layer])

    def _bytes(self, layer: int) -> int:
        tokens = int(lengths(self.texts.encoded).sum())
        return int(tokens * self._widths[layer] * self._dtype().itemsize)

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

    def _computed(self, layers: Sequence[int]) -> dict[int, Arrays]:
        return within_memory("hidden states", self.model, lambda: self._run(layers))

    def _run(self, layers: Sequence[int]) -> dict[int, Arrays]:
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
