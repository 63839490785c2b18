"""Drawn values against the head map and vocabulary written down in `tiny.py`; the least ones found by Hypothesis."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from pytest_bertology import Head, HeadMap, HeadMask
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.strategies import head_masks, head_sets, token_batches
from tests.tiny import WORDS, tiny_model

HEADS = HeadMap([3, 1, 4])
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (2, 1), (2, 2), (2, 3)]
properties = settings(deadline=None, database=None, max_examples=60)
few = settings(deadline=None, database=None, max_examples=8, suppress_health_check=[HealthCheck.too_slow])
exact = settings(deadline=None, database=None, derandomize=True)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@properties
@given(head_sets(HEADS))
def test_head_sets_are_heads_of_the_map_each_once_in_its_order(heads):
    assert heads
    assert all(isinstance(head, Head) for head in heads)
    assert list(heads) == sorted(set(heads))
    assert set(heads) <= set(PAIRS)


@properties
@given(st.data(), st.integers(0, 8), st.integers(0, 8))
def test_head_sets_and_masks_keep_to_their_sizes(data, one, other):
    low, high = sorted((one, other))

    heads = data.draw(head_sets(HEADS, min_size=low, max_size=high))
    mask = data.draw(head_masks(HEADS, min_masked=low, max_masked=high))

    assert low <= len(heads) <= high
    assert low <= len(mask.masked) <= high


@properties
@given(head_masks(HEADS))
def test_masks_are_of_the_map_with_gates_open_or_shut(mask):
    assert isinstance(mask, HeadMask)
    assert mask.heads == HEADS
    assert set(mask.gates) <= {0.0, 1.0}
    assert 0.0 in mask.gates


def test_every_head_and_every_size_is_drawn():
    for pair in PAIRS:
        assert pair in find(head_sets(HEADS), lambda heads, pair=pair: pair in heads, settings=exact)
    for size in range(9):
        strategy = head_sets(HEADS, min_size=0)
        assert len(find(strategy, lambda heads, size=size: len(heads) >= size, settings=exact)) == size


def test_head_sets_and_masks_shrink_to_one_low_head():
    assert find(head_sets(HEADS), lambda heads: True, settings=exact) == ((0, 0),)
    assert find(head_masks(HEADS), lambda mask: True, settings=exact).masked == ((0, 0),)


@pytest.mark.parametrize("culprits", [{(1, 0)}, {(2, 1)}, {(0, 1), (2, 0)}])
def test_a_failing_head_set_shrinks_to_the_culprits(culprits):
    heads = find(head_sets(HEADS), lambda heads: culprits <= set(heads), settings=exact)
    mask = find(head_masks(HEADS), lambda mask: culprits <= set(mask.masked), settings=exact)

    assert set(heads) == culprits
    assert set(mask.masked) == culprits


def test_a_model_stands_for_its_heads(model):
    assert len(find(head_sets(model, min_size=8), lambda heads: True, settings=exact)) == 8
    assert find(head_masks(model), lambda mask: True, settings=exact).heads == model.heads


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        ((-1, None), "min"),
        ((9, None), "min"),
        ((1.0, None), "min"),
        ((True, None), "min"),
        ((1, 9), "max"),
        ((1, -1), "max"),
        ((3, 2), "min"),
    ],
)
def test_sizes_the_model_cannot_give_are_refused_by_their_own_names(sizes, name):
    low, high = sizes

    with pytest.raises(InvalidArgument) as of_sets:
        head_sets(HEADS, min_size=low, max_size=high)
    with pytest.raises(InvalidArgument) as of_masks:
        head_masks(HEADS, min_masked=low, max_masked=high)

    assert of_sets.value.name == f"{name}_size"
    assert of_masks.value.name == f"{name}_masked"


def test_a_map_without_heads_gives_the_empty_set_alone():
    assert find(head_sets(HeadMap([]), min_size=0), lambda heads: True, settings=exact) == ()
    with pytest.raises(InvalidArgument):
        head_sets(HeadMap([]))


# -- token batches -----------------------------------------------------------------------------------------------


@few
@given(data=st.data())
def test_token_batches_run_through_the_model(model, data):
    batch = data.draw(token_batches(model))

    with torch.no_grad():
        logits = model.model(**batch).logits

    assert logits.shape == (len(batch["input_ids"]), 2)
    assert torch.isfinite(logits).all()


@properties
@given(data=st.data())
def test_token_batches_are_words_of_the_vocabulary_padded_on_the_right(model, data):
    batch = data.draw(token_batches(model, max_batch=3, min_length=2, max_length=5))

    ids, attention = batch["input_ids"], batch["attention_mask"]
    words = {model.tokenizer.convert_tokens_to_ids(word) for word in WORDS}
    assert ids.dtype == torch.long
    assert ids.shape == attention.shape
    assert 1 <= ids.shape[0] <= 3
    lengths = attention.sum(dim=1).tolist()
    assert all(2 <= length <= 5 for length in lengths)
    assert max(lengths) == ids.shape[1]
    for row, mask, length in zip(ids.tolist(), attention.tolist(), lengths, strict=True):
        assert mask == [1] * length + [0] * (len(row) - length)
        assert set(row[:length]) <= words
        assert set(row[length:]) <= {model.tokenizer.pad_token_id}


def test_a_token_batch_shrinks_to_one_short_sequence_of_low_ids(model):
    batch = find(token_batches(model, min_length=3), lambda batch: True, settings=exact)

    lowest = min(model.tokenizer.convert_tokens_to_ids(word) for word in WORDS)
    assert batch["input_ids"].tolist() == [[lowest] * 3]
    assert batch["attention_mask"].tolist() == [[1] * 3]


def test_a_classifier_without_a_padding_token_is_given_one_sequence_at_a_time():
    class LastTokenForSequenceClassification(torch.nn.Module):
        """As decoder classifiers are: without a padding token, the last one cannot be told in a batch."""

        config = SimpleNamespace(pad_token_id=None, vocab_size=9, max_position_embeddings=8)
        config.get_text_config = lambda: SimpleNamespace(pad_token_id=None, vocab_size=9, max_position_embeddings=8)

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return input_ids

        def get_input_embeddings(self) -> None:
            return None

    model = SimpleNamespace(model=LastTokenForSequenceClassification(), tokenizer=None, device=torch.device("cpu"))

    @properties
    @given(token_batches(model, max_batch=4, max_length=4))
    def check(batch):
        assert len(batch["input_ids"]) == 1

    check()


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"min_length": 0}, "max_length"),
        ({"min_length": 5, "max_length": 4}, "max_length"),
        ({"max_length": 33}, "max_length"),
        ({"max_batch": 0}, "max_batch"),
    ],
)
def test_lengths_the_model_cannot_read_are_refused(model, options, name):
    with pytest.raises(InvalidArgument) as caught:
        token_batches(model, **options)

    assert caught.value.name == name
