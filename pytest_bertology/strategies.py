"""Hypothesis strategies for head sets, head masks and token batches: valid values only, shrinking to few and low."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head, HeadMap, HeadMask

if TYPE_CHECKING:
    from pytest_bertology.models import ModelUnderTest


def head_sets(
    model: ModelUnderTest | HeadMap, *, min_size: int = 1, max_size: int | None = None
) -> SearchStrategy[tuple[Head, ...]]:
    """Sets of a model's heads, as tuples in the model's order; shrink to few heads with low indices.

    `max_size` is by default all heads. Raises InvalidArgument for sizes the model cannot give.
    """
    return _sets(_heads(model), ("min_size", min_size), ("max_size", max_size))


def head_masks(
    model: ModelUnderTest | HeadMap, *, min_masked: int = 1, max_masked: int | None = None
) -> SearchStrategy[HeadMask]:
    """Masks of a model's heads, every gate 0 or 1; shrink to few masked heads with low indices.

    `max_masked` is by default all heads. Raises InvalidArgument for sizes the model cannot give.
    """
    heads = _heads(model)
    sets = _sets(heads, ("min_masked", min_masked), ("max_masked", max_masked))
    return sets.map(lambda masked: HeadMask.without(heads, masked))


def token_batches(
    model: ModelUnderTest, *, max_batch: int = 4, min_length: int = 2, max_length: int = 16
) -> SearchStrategy[dict[str, Any]]:
    """Batches of token ids for the model, padded on the right: `input_ids` and, where it is read, `attention_mask`.

    Tensors (batch, tokens) on the model's device, drawn from its vocabulary without special tokens; shrink to one
    short sequence of low ids. A model that takes one sequence at a time gets no more. Raises InvalidArgument for
    lengths the model cannot read.
    """
    from pytest_bertology.engine.batching import collate
    from pytest_bertology.engine.encoding import Example
    from pytest_bertology.engine.encoding import max_length as readable
    from pytest_bertology.models.sampling import can_batch

    longest = readable(model)
    if not 1 <= min_length <= max_length <= longest:
        raise InvalidArgument("max_length", max_length, f"lengths from 1 to {longest}, min_length the smaller")
    if max_batch < 1:
        raise InvalidArgument("max_batch", max_batch, "at least one sequence")
    if not can_batch(model.model):
        max_batch = 1
    tokens = st.sampled_from(_ordinary_tokens(model))
    sequences = st.lists(tokens, min_size=min_length, max_size=max_length)

    def batch(rows: list[list[int]]) -> dict[str, Any]:
        return collate(model, [Example(tuple(row), None, 0) for row in rows], range(len(rows))).inputs

    return st.lists(sequences, min_size=1, max_size=max_batch).map(batch)


def _heads(model: ModelUnderTest | HeadMap) -> HeadMap:
    return model if isinstance(model, HeadMap) else model.heads


def _sets(heads: HeadMap, least: tuple[str, int], most: tuple[str, int | None]) -> SearchStrategy[tuple[Head, ...]]:
    """Sets of heads; the sizes come with the names that the caller knows them by."""
    (low, smallest), (high, greatest) = least, most
    largest = len(heads) if greatest is None else greatest
    for name, size in ((low, smallest), (high, largest)):
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(heads):
            raise InvalidArgument(name, size, f"a number of heads from 0 to {len(heads)}")
    if smallest > largest:
        raise InvalidArgument(low, smallest, f"at most {high}, {largest}")
    if not largest:
        return st.just(())
    # Not sampled_from, nor bare integers: lists of those are drawn without replacement, each draw standing for another
    # head once an earlier one is dropped, and do not shrink well.
    one = st.integers(0, len(heads) - 1).map(heads.__getitem__)
    return st.lists(one, min_size=smallest, max_size=largest, unique=True).map(heads.select)


def _ordinary_tokens(model: ModelUnderTest) -> list[int]:
    vocabulary = int(model.model.config.get_text_config().vocab_size)
    special = set(getattr(model.tokenizer, "all_special_ids", None) or ())
    config = model.model.config
    for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
        value = getattr(config, name, None)
        special |= set(value) if isinstance(value, list) else {value}
    return [token for token in range(vocabulary) if token not in special] or list(range(vocabulary))
