"""What attention that is changed must give: a text at a time, by an attention function written here, in float64.

The function stands in for a family's own eager attention (or, where a family calls softmax itself, for that softmax).
Which layer calls it is told by the family's own names. Changes are made row by row in NumPy.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from pytest_bertology.models import ModelUnderTest, load_model
from tests.families import HEADS, LABELS, POSITIONS, VOCABULARY, family, redraw, tokenizer

Array = np.ndarray[Any, np.dtype[Any]]
Edit = Callable[[Array, Sequence[int]], Array]
"""One head's weights (queries, keys) on one text, and its token ids: other weights."""
PATHS = {
    "bert": {None: "bert.encoder.layer.{}.attention.self"},
    "gpt2": {None: "transformer.h.{}.attn"},
    "llama": {None: "model.layers.{}.self_attn"},
    "bloom": {None: "transformer.h.{}.self_attention"},
    "bart": {
        "encoder": "model.encoder.layers.{}.self_attn",
        "decoder": "model.decoder.layers.{}.self_attn",
        "cross": "model.decoder.layers.{}.encoder_attn",
    },
}
"""Where each family has its attention, by stack."""


def changeable(name: str, dtype: torch.dtype = torch.float64) -> ModelUnderTest:
    """A classifier of two layers of four heads, of one of the families above."""
    if name in ("bert", "gpt2", "llama"):
        return load_model(family(name, dtype=dtype), tokenizer=tokenizer())
    common: dict[str, Any] = {"vocab_size": len(VOCABULARY) + 1, "num_labels": LABELS, "pad_token_id": 0}
    if name == "bloom":
        config: Any = transformers.BloomConfig(hidden_size=24, n_layer=2, n_head=HEADS, **common)
        model: PreTrainedModel = transformers.BloomForSequenceClassification(config)
    else:
        config = transformers.BartConfig(
            d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=HEADS,
            decoder_attention_heads=HEADS, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=POSITIONS,
            bos_token_id=2, eos_token_id=3, decoder_start_token_id=2, **common,
        )  # fmt: skip
        model = transformers.BartForSequenceClassification(config)
    return load_model(redraw(model, 0).to(dtype).eval(), tokenizer=tokenizer())


def logits_by_hand(
    monkeypatch: Any, model: ModelUnderTest, rows: Sequence[Sequence[int]], edits: dict[Any, Edit]
) -> Array:
    """(texts, outputs) with the attention of heads changed; `edits` by head, (layer, head) or (layer, head, stack)."""
    with by_hand(monkeypatch, model, edits) as twin:
        return np.concatenate([twin(ids).logits.double().numpy() for ids in rows])


@contextmanager
def by_hand(
    monkeypatch: Any, model: ModelUnderTest, edits: dict[Any, Edit]
) -> Iterator[Callable[[Sequence[int]], Any]]:
    """A copy of the model that runs one text, by the attention function of this file."""
    plain = copy.deepcopy(model.model)
    plain.set_attn_implementation("eager")
    kind = plain.config.model_type
    places = {
        id(plain.get_submodule(path.format(layer))): (layer, stack)
        for stack, path in PATHS[kind].items()
        for layer in range(2)
    }
    now: dict[str, Any] = {}

    def changed(place: tuple[int, str | None], weights: Tensor) -> Tensor:
        made = weights[0].double().numpy().copy()
        for (layer, head, *stack), edit in edits.items():
            if (layer, *stack) == (place[0], *([place[1]] if place[1] else [])):
                made[head] = edit(made[head], now["ids"])
        return torch.from_numpy(made)[None].to(weights.dtype)

    def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any) -> Any:
        key, value = (each.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for each in (key, value))
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        scores = query @ key.transpose(2, 3) * scale
        weights = changed(places[id(module)], (scores if mask is None else scores + mask).softmax(dim=-1))
        return (weights @ value).transpose(1, 2).contiguous(), weights

    calls: list[int] = []

    def softmax(scores: Tensor, **options: Any) -> Tensor:
        calls.append(1)
        return changed(((len(calls) - 1) % 2, None), scores.softmax(**options))

    def run(ids: Sequence[int]) -> Any:
        now["ids"] = list(ids)
        inputs = {"input_ids": torch.tensor([list(ids)])}
        if "token_type_ids" in inspect.signature(plain.forward).parameters:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])  # as the tokenizer has them
        with torch.no_grad():
            return plain(**inputs, output_attentions=True)

    modeling = import_module(f"transformers.models.{kind}.modeling_{kind}")
    with monkeypatch.context() as patch:
        if hasattr(modeling, "eager_attention_forward"):
            patch.setattr(modeling, "eager_attention_forward", attention)
        else:
            patch.setattr(modeling, "F", SimpleNamespace(**{**vars(modeling.F), "softmax": softmax}))
        yield run


def top(k: int) -> Edit:
    """Keep the k greatest of each row, of equal ones the first."""

    def edit(weights: Array, ids: Sequence[int]) -> Array:
        made = np.zeros_like(weights)
        for i, row in enumerate(weights):
            kept = sorted(range(len(row)), key=lambda j: (-row[j], j))[:k]
            made[i, kept] = row[kept] / row[kept].sum()
        return made

    return edit


def on(allows: Callable[[Sequence[int], int, int], bool]) -> Edit:
    """Keep what is allowed; a row with nothing on it stays."""

    def edit(weights: Array, ids: Sequence[int]) -> Array:
        made = weights.copy()
        for i, row in enumerate(weights):
            kept = [j for j in range(len(row)) if allows(ids, i, j)]
            if row[kept].sum() > 0.0:
                made[i] = 0.0
                made[i, kept] = row[kept] / row[kept].sum()
        return made

    return edit


def constant(table: Array, *, causal: bool) -> Edit:
    """Rows of a table, without what may not be seen, made to add up to one."""

    def edit(weights: Array, ids: Sequence[int]) -> Array:
        made = np.zeros_like(weights)
        queries, keys = weights.shape
        for i in range(queries):
            seen = range(min(i + 1, keys)) if causal else range(keys)
            total = sum(table[i, j] for j in seen)
            for j in seen:
                made[i, j] = table[i, j] / total
        return made

    return edit
