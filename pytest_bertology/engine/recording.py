"""Hidden states of texts, recorded once on disk and shared by all that ask for them."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.memory import within_memory
from pytest_bertology.engine.states import States, stream_states
from pytest_bertology.engine.store import result_key
from pytest_bertology.engine.texts import Texts
from pytest_bertology.errors import TooMuchMemory
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.items import Ints

Vectors = npt.NDArray[np.floating[Any]]

LIMIT = 8 * 2**30
"""Bytes on disk that recordings which nobody holds any more may take together."""


class _Place(NamedTuple):
    """Where a layer's states are in the file."""

    offset: int
    width: int
    dtype: np.dtype[Any]


class Recording:
    """The hidden states of some units of texts, layer by layer, in a file that is read as it is needed.

    A unit is one token or the mean of several. The file has no name where the system allows that: nothing is left of it
    when nobody holds the recording any more, however the process ends.
    """

    def __init__(self, units: int) -> None:
        self.units = units
        self._file = tempfile.TemporaryFile(prefix="bertology-states-")  # noqa: SIM115 - closed by the finalizer
        self._finalizer = weakref.finalize(self, self._file.close)
        self._places: dict[int, _Place] = {}

    def __repr__(self) -> str:
        return f"Recording({self.units} units, layers 0 to {self.layers}, {self.bytes / 2**20:.0f} MiB)"

    @property
    def layers(self) -> int:
        """How many layers there are, the embeddings not counted: `vectors` takes 0 to that."""
        return len(self._places) - 1

    @property
    def bytes(self) -> int:
        """What it takes on disk."""
        return sum(self._size(place) for place in self._places.values())

    def vectors(self, layer: int) -> Vectors:
        """(units, width) of one layer, memory-mapped and read-only; 0 is the embeddings.

        Mapped anew on each call: what was read does not stay in memory longer than what is returned.
        """
        return self._mapped(self._places[layer], "r")

    def _mapped(self, place: _Place, mode: Literal["r", "r+"]) -> np.memmap[Any, Any]:
        return np.memmap(self._file, place.dtype, mode, place.offset, (self.units, place.width))

    def _create(self, layer: int, width: int, dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
        place = _Place(self.bytes, width, dtype)
        needed, folder = self._size(place), tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if needed > free:
            advice = "Take fewer texts, or set the environment variable TMPDIR to a folder with more room."
            raise TooMuchMemory(f"one layer's states in {folder}", needed, free, advice)
        self._places[layer] = place
        self._file.truncate(place.offset + needed)
        return self._mapped(place, "r+")

    def _size(self, place: _Place) -> int:
        return self.units * place.width * place.dtype.itemsize


_held: OrderedDict[str, Recording] = OrderedDict()
_lock = Lock()


def record(
    model: ModelUnderTest,
    texts: Texts,
    units: Sequence[Sequence[Ints]],
    *,
    what: str,
    stack: str | None = None,
    batching: Batching | None = None,
) -> Recording:
    """The hidden states of units of texts, all layers, under the masks in force: from one pass over the texts.

    `units` are, for each text, the positions of the tokens of each unit, of which the mean is recorded. Texts are run
    in an order of their own, so that the order in which they are given changes nothing. The same model, mask, texts and
    units are run once, as long as recordings take no more than 8 GiB on disk; not so where attention is changed, layers
    are skipped, or hooks of others are there.

    Raises what `stream_states` raises, and TooMuchMemory where there is no room on disk.
    """
    batching = batching or Batching()
    known = not (model.altered() or model.in_force() is None)
    key = ""
    if known:
        digest = hashlib.sha256(repr([[tokens.tolist() for tokens in text] for text in units]).encode()).hexdigest()
        with model.frozen():
            key = result_key(f"states 1, {stack}, {digest}", model, texts.encoded, model.mask_in_force(), batching)
        with _lock:
            found = _held.get(key)
            if found is not None:
                _held.move_to_end(key)
                return found
    made = within_memory("recorded states", model, lambda: _recorded(model, texts, units, what, stack, batching))
    if known:
        with _lock:
            _held[key] = made
            while len(_held) > 1 and sum(each.bytes for each in _held.values()) > LIMIT:
                _held.popitem(last=False)
    return made


def forget_recordings() -> None:
    """Let go of all recordings; those that nobody else holds are deleted."""
    with _lock:
        _held.clear()


def _recorded(
    model: ModelUnderTest,
    texts: Texts,
    units: Sequence[Sequence[Ints]],
    what: str,
    stack: str | None,
    batching: Batching,
) -> Recording:
    counts = [len(each) for each in units]
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(int).tolist()
    made = Recording(starts[-1])
    order = sorted(range(len(texts)), key=lambda index: texts.encoded.examples[index].ids)
    pooling = [_pooling(units[index], len(texts.ids(index))) for index in order]
    examples = tuple(texts.encoded.examples[index] for index in order)
    encoded = replace(texts.encoded, examples=examples, truncated=())
    ordered = replace(
        texts, encoded=encoded, texts=tuple(texts.texts[index] for index in order), offsets=None, special=()
    )

    open_files: dict[int, np.memmap[Any, Any]] = {}

    def write(states: States) -> None:
        file = open_files.get(states.layer)
        for position, each in states.each():
            if file is None:
                dtype = np.dtype(np.float64 if each.dtype == torch.float64 else np.float32)
                file = open_files[states.layer] = made._create(states.layer, each.shape[-1], dtype)
            weights = pooling[position]
            pooled = each[weights] if weights.ndim == 1 else weights.to(each.device, each.dtype) @ each
            text = order[position]
            file[starts[text] : starts[text + 1]] = pooled.cpu().numpy()

    stream_states(model, ordered, write, what=what, stack=stack, batching=batching)
    for each in open_files.values():
        each.flush()
    return made


def _pooling(units: Sequence[Ints], tokens: int) -> Tensor:
    """(units,) positions, where each unit is one token; else (units, tokens) weights of means."""
    if all(len(each) == 1 for each in units):
        return torch.tensor([int(each[0]) for each in units], dtype=torch.int64)
    weights = torch.zeros(len(units), tokens, dtype=torch.float64)
    for row, each in enumerate(units):
        weights[row, torch.as_tensor(each)] = 1.0 / len(each)
    return weights
