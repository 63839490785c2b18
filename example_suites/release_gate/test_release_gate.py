"""A release gate: may this candidate replace the model that was approved?

Each test is one question, and each compares the candidate with what the approved model did on the same data: kept in
`bertology_baselines/`, or, with `--bertology-reference`, measured now on the approved model itself.

    pytest release_gate --bertology-model=./candidate --bertology-task=dev.tsv
    pytest release_gate --bertology-model=./candidate --bertology-task=dev.tsv --bertology-reference=./approved

The baselines beside this file are the embedded model's. README.md says how to start with those of your own.
The limits below are what a release is held to: set them once, with a reason, and not after a test has failed.
"""

from __future__ import annotations

import zlib
from collections import Counter

import pytest

from pytest_bertology import assert_metric_retained, attention_statistics, evaluate
from pytest_bertology import head_importance as importance

DROP = 0.01
"""Accuracy that a release may lose: a point is what users of the approved model would put up with.

Small data cannot tell a point: an equal model passes with 400 examples or more (`smallest_tolerance(n, 0)` says what n
can establish), and the failure of one that is nearly as good says "the examples are too few to tell". Then add some,
and do not widen the margin. For a metric on another scale (perplexity, say) write another figure."""

CHANGED = 0.02
"""Share of the answers that may differ, right or wrong: somebody relies on each. Copies of a model that are saved,
sharded or batched otherwise differ in none; rounding weights to 8 bits for each tensor differs in 2 to 3 %."""

LOSS = 0.02
"""Share of the mean loss that may be added: a model that is as often right but less sure moves every threshold that
was set on its probabilities."""

IDLE = 0.001
"""A head with less than this share of the average head's importance does nothing. Heads that live have far more."""

PRUNED = 0.1
"""The share of the heads that production removes."""

PRUNED_DROP = 0.03
"""Accuracy that this may cost. More than `DROP`: its price is known, and was paid for memory and time."""

CONFIDENCE = 0.95
"""How sure both margins are: of 20 releases that are worse than allowed, at most one passes."""


def test_it_is_as_accurate_as_what_was_approved(bertology_baseline, bertology_model, bertology_task):
    """The same examples judge both models; the upper bound on the drop must be within the margin."""
    found = evaluate(bertology_model, bertology_task)

    bertology_baseline.check(found, tolerance=DROP, confidence=CONFIDENCE)


def test_it_answers_as_it_did(bertology_baseline, bertology_model, bertology_task):
    """Twenty answers lost and twenty gained are the same accuracy, and another model."""
    found = evaluate(bertology_model, bertology_task)

    bertology_baseline.check(found, max_changed=CHANGED)


def test_it_is_as_sure_as_it_was(bertology_baseline, bertology_model, bertology_task):
    """The loss moves before the first answer does."""
    if bertology_task.kind == "regression":
        pytest.skip("a number is predicted with no confidence")
    found = evaluate(bertology_model, bertology_task.with_metric("loss"))

    bertology_baseline.check(found, tolerance=LOSS, relative=True, confidence=CONFIDENCE)


def test_its_important_heads_are_still_the_important_ones(bertology_baseline, bertology_model, bertology_task):
    """What may change is what the noise of the baseline's own scores allows: no limit of ours is needed."""
    bertology_baseline.check(importance(bertology_model, bertology_task))


def test_no_head_has_died(bertology_baseline, bertology_model, bertology_task):
    """The least important head too: one that does nothing is a sign of a broken export, whatever the accuracy."""

    def dead_heads(model):
        scores = importance(model, bertology_task)
        return {str(head): int(scores[head] < IDLE * scores.values.mean()) for head in scores.heads}

    bertology_baseline.check(dead_heads, name="dead heads", tolerance=0)


def test_its_attention_looks_the_same(bertology_baseline, bertology_model, bertology_task):
    """Twelve figures for each head, such as how much goes to the first token; far more of them than answers."""
    bertology_baseline.check(attention_statistics(bertology_model, bertology_task))


def test_it_survives_the_pruning_that_production_does(bertology_model, bertology_task):
    """Against itself, unpruned: no baseline is needed."""
    assert_metric_retained(bertology_model, bertology_task, prune=PRUNED, tolerance=PRUNED_DROP, confidence=CONFIDENCE)


def test_the_tokenizer_reads_the_data_as_before(bertology_baseline, bertology_model, bertology_task):
    """Two words exchanged, capitals kept, texts cut: scores may hide it, and the first users do not."""

    texts = [text if isinstance(text, str) else " ".join(text) for text in bertology_task.texts]
    words = Counter(word for text in texts for word in text.split() if len(word) < 15)
    common = [word for word, _ in words.most_common(30)]

    def reading(model):
        read = model.tokenizer(texts, truncation=True)["input_ids"]
        ids = [token for text in read for token in text]
        firsts = model.tokenizer(common, add_special_tokens=False)["input_ids"]
        return {
            "texts": len(texts),
            "tokens": len(ids),
            "different tokens": len(set(ids)),
            "unknown tokens": ids.count(model.tokenizer.unk_token_id),
            "longest text": max(map(len, read)),
            "checksum of all tokens": zlib.crc32(repr(read).encode()) % 10**8,  # files keep nine digits
            **{f"first token of {word!r}": found[0] for word, found in zip(common, firsts, strict=True) if found},
        }

    bertology_baseline.check(reading, name="reading", tolerance=0)
