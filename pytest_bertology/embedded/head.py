"""A logistic head on a frozen sentence encoder, the same bit for bit every time it is fitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor, nn

_STRENGTH = 0.1
"""Inverse of the L2 penalty, on standardised features."""
_TOKENS = 1024


def fit_head(model: Any, tokenizer: Any, texts: Sequence[str], labels: Sequence[int]) -> None:
    """Fit the classifier of a BertForSequenceClassification in eval mode; nothing else of it is changed."""
    with repeatable():
        write_logistic(model.classifier, _pooled(model.bert, tokenizer, texts), labels)


def write_logistic(classifier: nn.Linear, features: Tensor, labels: Sequence[int]) -> None:
    """Fit a logistic regression on standardised features, (texts, hidden), and write it into a classifier.

    The classifier takes the features as they are: the standardisation is folded into its weights. Its two logits are
    opposite, and their softmax is the regression.
    """
    values = features.double().numpy()
    mean, spread = values.mean(axis=0), values.std(axis=0)
    regression = LogisticRegression(C=_STRENGTH, max_iter=1000).fit((values - mean) / spread, labels)
    weight = torch.from_numpy(regression.coef_[0] / spread)
    bias = torch.from_numpy(regression.intercept_)[0] - weight @ torch.from_numpy(mean)
    with torch.no_grad():
        classifier.weight.copy_(torch.stack([-weight, weight]) / 2)
        classifier.bias.copy_(torch.stack([-bias, bias]) / 2)


@contextmanager
def repeatable() -> Iterator[None]:
    """The same sums whatever the caller has set: one thread, on the CPU, with gradients; all is put back.

    More threads would add numbers up in another order. The global random state is put back as well.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), torch.device("cpu"), torch.random.fork_rng(devices=[]):
            with torch.inference_mode(False), torch.enable_grad():
                yield
    finally:
        torch.set_num_threads(threads)


def _pooled(bert: Any, tokenizer: Any, texts: Sequence[str]) -> Tensor:
    """The pooler's output, (texts, hidden)."""
    ids = tokenizer(list(texts))["input_ids"]
    pooled = torch.zeros(len(ids), bert.config.hidden_size)
    with torch.no_grad():
        for group in _groups([len(row) for row in ids]):
            batch = tokenizer.pad({"input_ids": [ids[i] for i in group]}, return_tensors="pt")
            pooled[group] = bert(**batch).pooler_output
    return pooled


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Positions, the shortest texts first, in groups of _TOKENS padded tokens."""
    groups: list[list[int]] = [[]]
    for position in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if lengths[position] * (len(groups[-1]) + 1) > _TOKENS:
            groups.append([])
        groups[-1].append(position)
    return groups
