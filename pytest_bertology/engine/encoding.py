"""From texts to token ids and label ids, once per model and task."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from pytest_bertology.errors import InvalidArgument, LabelMismatch, MalformedData, WrongTaskKind
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.models.sampling import accepts
from pytest_bertology.tasks.metrics import CLASSIFICATION, LANGUAGE, REGRESSION, SPANS, TOKENS
from pytest_bertology.tasks.task import Task

IGNORED = -100
"""The label of a position that is not judged, as cross entropy has it."""
READ = "texts"
"""The objective of texts that are only read."""
_MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Example:
    """One example as the model reads it."""

    ids: tuple[int, ...]
    types: tuple[int, ...] | None
    """Token type ids, where the tokenizer makes them and the model reads them."""
    labels: tuple[int, ...] | int | float
    """One for the example; or one per token, IGNORED where none is judged."""


@dataclass(frozen=True)
class Encoded:
    """All examples of a task for one model."""

    objective: str
    """"sequence-classification", "regression", "token-classification", "causal-lm", "masked-lm"; or READ."""
    examples: tuple[Example, ...]
    n_labels: int
    truncated: tuple[int, ...]
    """Positions of examples longer than the model can read."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the model reads and is judged by, as hexadecimal."""
        sha = hashlib.sha256(f"{self.objective} {self.n_labels}\n".encode())
        for example in self.examples:
            sha.update(repr((example.ids, example.types, example.labels)).encode())
        return sha.hexdigest()


_cache: WeakKeyDictionary[ModelUnderTest, dict[tuple[Any, ...], Encoded]] = WeakKeyDictionary()


def encode(model: ModelUnderTest, task: Task) -> Encoded:
    """Tokenize a task for a model, cut to the longest text it can read, and bring its labels to the model's ids.

    Raises NoTokenizer, WrongTaskKind, LabelMismatch, or MalformedData for an example with nothing to judge.
    """
    known = _cache.setdefault(model, {})
    names = tuple((getattr(model.model.config, "id2label", None) or {}).items())
    key = (task.digest, task.label_names, names, id(model.tokenizer), max_length(model))
    if key not in known:
        while len(known) >= 8:
            known.pop(next(iter(known)))
        known[key] = _encode(model, task)
    return known[key]


def _encode(model: ModelUnderTest, task: Task) -> Encoded:
    objective = _objective(model, task)
    n_labels = int(getattr(model.model.config, "num_labels", 0)) if objective in (CLASSIFICATION, TOKENS) else 0
    limit = max_length(model)
    tokens, truncated = _tokens(model, task, limit)
    types = tokens.get("token_type_ids") if accepts(model.model, "token_type_ids") else None
    labels: Sequence[Any]
    if objective == TOKENS:
        labels = _word_labels(model, task, tokens)
    elif objective == CLASSIFICATION:
        labels = task.label_ids(model.model.config.id2label, model.name)
    elif objective == REGRESSION:
        labels = task.labels or ()
    else:
        labels = [_language_labels(model, task, index, ids, objective) for index, ids in enumerate(tokens["input_ids"])]
        if objective == "masked-lm":
            tokens["input_ids"] = _with_masks(model, tokens["input_ids"], labels)
    examples = tuple(
        Example(tuple(ids), tuple(types[index]) if types else None, labels[index])
        for index, ids in enumerate(tokens["input_ids"])
    )
    for index, example in enumerate(examples):
        if not example.ids:
            raise MalformedData(task.name, f"example {index} has no tokens: {task.texts[index]!r}")
    return Encoded(objective, examples, n_labels, truncated)


def _objective(model: ModelUnderTest, task: Task) -> str:
    """What the model is judged by on this task; raises WrongTaskKind where it cannot do it."""
    if task.kind == LANGUAGE:
        if model.kind not in ("causal-lm", "masked-lm"):
            needs = "labels for this model: it has no label column; name one with label=, or load a language model"
            raise WrongTaskKind(model.name, model.kind, task.name, needs)
        return model.kind
    if task.kind == SPANS:
        raise WrongTaskKind(model.name, model.kind, task.name, "a probe: spans are labelled by probe(...), by no model")
    needs = "token-classification" if task.kind == TOKENS else "sequence-classification"
    if model.kind != needs:
        raise WrongTaskKind(model.name, model.kind, task.name, f"a {needs} model ({task.kind})")
    outputs = int(model.model.config.num_labels)
    if task.kind == REGRESSION and outputs != 1:
        raise LabelMismatch(task.name, ["a number each"], model.name, list(model.model.config.id2label.values()))
    if task.kind == CLASSIFICATION and outputs == 1:
        needs = "a classifier; this one has a single output: for regression load the task with metric='pearson'"
        raise WrongTaskKind(model.name, model.kind, task.name, needs)
    if getattr(model.model.config, "problem_type", None) == "multi_label_classification":
        raise WrongTaskKind(model.name, "multi-label classification", task.name, "one label per example")
    return task.kind


def max_length(model: ModelUnderTest) -> int:
    """The longest text the model can read, in tokens, special tokens among them."""
    limits = [int(getattr(model.tokenizer, "model_max_length", 0) or 0)]
    positions = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(positions, int) and positions > 0:
        limits.append(positions - _reserved_positions(model.model, positions))
    return min([limit for limit in limits if limit > 0], default=512)


def _reserved_positions(model: PreTrainedModel, positions: int) -> int:
    """Position embeddings with a padding index count from behind it (RoBERTa: two positions fewer than rows)."""
    words = model.get_input_embeddings()
    for module in model.modules():
        if not isinstance(module, nn.Embedding) or module is words or module.padding_idx is None:
            continue
        if module.num_embeddings == positions:
            return module.padding_idx + 1
    return 0


def _tokens(model: ModelUnderTest, task: Task, limit: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """The tokenizer's output as lists, and which examples were cut."""
    tokenizer = model.needs_tokenizer()
    if task.pairs:
        first, second = (list(side) for side in zip(*task.texts, strict=True))
        arguments: tuple[Any, ...] = (first, second)
    else:
        arguments = ([list(text) if task.kind == TOKENS else text for text in task.texts],)
    options = {"is_split_into_words": task.kind == TOKENS, "return_attention_mask": False, "verbose": False}
    whole = tokenizer(*arguments, truncation=False, **options)
    too_long = tuple(index for index, ids in enumerate(whole["input_ids"]) if len(ids) > limit)
    if not too_long:
        return _plain(whole), too_long
    return _plain(tokenizer(*arguments, truncation=True, max_length=limit, **options)), too_long


def _plain(tokens: Any) -> dict[str, Any]:
    columns = {name: list(tokens[name]) for name in ("input_ids", "token_type_ids") if name in tokens}
    columns["words"] = tokens
    return columns


def _word_labels(model: ModelUnderTest, task: Task, tokens: dict[str, Any]) -> list[tuple[int, ...]]:
    """Each word's label at its first sub-token."""
    labels = task.label_ids(model.model.config.id2label, model.name)
    aligned = []
    for index, ids in enumerate(tokens["input_ids"]):
        words = tokens["words"].word_ids(index)
        firsts = [word is not None and word not in words[:at] for at, word in enumerate(words)]
        aligned.append(
            tuple(
                labels[index][words[at]] if first else IGNORED
                for at, first in zip(range(len(ids)), firsts, strict=True)
            )
        )
        if not any(firsts):
            raise MalformedData(task.name, f"example {index} has no token for any of its words")
    return aligned


def _language_labels(
    model: ModelUnderTest, task: Task, index: int, ids: Sequence[int], objective: str
) -> tuple[int, ...]:
    """What is predicted at each position: the next token, or the token behind a mask."""
    if objective == "causal-lm":
        if len(ids) < 2:
            raise MalformedData(task.name, f"example {index} is one token long; there is nothing to predict in it")
        return (*ids[1:], IGNORED)
    tokenizer = model.needs_tokenizer()
    if getattr(tokenizer, "mask_token_id", None) is None:
        raise InvalidArgument(
            "tokenizer", type(tokenizer).__name__, "one with a mask token, for a masked language model"
        )
    special = set(tokenizer.all_special_ids)
    ordinary = [at for at, token in enumerate(ids) if token not in special]
    if not ordinary:
        raise MalformedData(task.name, f"example {index} has only special tokens; there is nothing to mask in it")
    # Drawn from the text alone, so that an example is masked alike whatever stands beside it.
    chosen = random.Random(hashlib.sha256(repr(list(ids)).encode()).hexdigest())  # noqa: S311
    masked = set(chosen.sample(ordinary, max(1, round(_MASKED_SHARE * len(ordinary)))))
    return tuple(token if at in masked else IGNORED for at, token in enumerate(ids))


def _with_masks(model: ModelUnderTest, ids: Sequence[Sequence[int]], labels: Sequence[Any]) -> list[list[int]]:
    mask = int(model.tokenizer.mask_token_id)
    return [
        [mask if label != IGNORED else token for token, label in zip(row, row_labels, strict=True)]
        for row, row_labels in zip(ids, labels, strict=True)
    ]


def lengths(encoded: Encoded) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Tokens of each example."""
    return np.array([len(example.ids) for example in encoded.examples], dtype=np.int64)
