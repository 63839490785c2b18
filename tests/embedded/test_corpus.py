"""The embedded data set; the oracle is its own tables."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from pytest_bertology.embedded import corpus
from pytest_bertology.embedded.corpus import LABELS, sentences
from pytest_bertology.errors import InvalidArgument

DIGEST = "eeaff1126e821d872c823af67b66a34e50ae9e6ac6daf3ec5507bbea46b31521"
"""Of all sentences and labels: results are published for these, so a change must be meant."""
_PRINT_DIGEST = """
import hashlib, sys
from pytest_bertology.embedded import sentences
heavy = {"torch", "transformers", "numpy", "sklearn"} & sys.modules.keys()
assert not heavy, heavy
print(hashlib.sha256(repr((sentences("train"), sentences("test"))).encode()).hexdigest())
"""
_TRAIN_TEMPLATES = corpus.TEMPLATES + corpus.TWISTED
_ALL_TEMPLATES = _TRAIN_TEMPLATES + corpus.NEW_TEMPLATES + corpus.NEW_TWISTED


@pytest.mark.parametrize(("split", "size"), [("train", 1600), ("test", 600)])
def test_a_split_is_balanced_and_free_of_repetition(split, size):
    texts, labels = sentences(split)

    assert len(set(texts)) == len(texts) == len(labels) == size
    assert [labels.count(label) for label in range(len(LABELS))] == [size // 2, size // 2]


def test_the_splits_share_no_sentence():
    assert not {text.lower() for text in sentences("train")[0]} & {text.lower() for text in sentences("test")[0]}


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_every_process_draws_the_same_sentences_and_loads_nothing_heavy(hash_seed):
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}

    done = subprocess.run(
        [sys.executable, "-c", _PRINT_DIGEST], env=environment, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == DIGEST


def test_the_global_random_state_is_left_alone():
    import random

    before = random.getstate()
    sentences.__wrapped__("train")

    assert random.getstate() == before


@pytest.mark.parametrize("split", ["train", "test"])
def test_neighbours_are_one_sentence_said_both_ways(split):
    texts, labels = sentences(split)

    assert labels == (0, 1) * (len(texts) // 2)
    for bad, good in zip(texts[::2], texts[1::2], strict=True):
        assert _templates_of(bad) & _templates_of(good), (bad, good)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_template_is_used_with_either_label_equally(split):
    uses = {template: [0, 0] for template in (_TRAIN_TEMPLATES if split == "train" else _ALL_TEMPLATES)}
    for text, label in zip(*sentences(split), strict=True):
        for template in _templates_of(text) & uses.keys():
            uses[template][label] += 1

    assert all(bad == good >= 1 for bad, good in uses.values()), uses


def test_each_word_of_praise_has_its_place_among_the_words_of_blame():
    for topic in corpus.topics(corpus.TOPICS) + corpus.topics(corpus.NEW_TOPICS):
        assert len(topic.aspects) >= 5
        assert all(len(blame) == len(praise) == 3 for _, (blame, praise) in topic.aspects), topic.name
        assert all("[" not in deed or "[my]" in deed for pair in topic.deeds for deed in pair), topic.name


def test_sentences_are_finished():
    for split in corpus.SIZES:
        for text in sentences(split)[0]:
            assert re.fullmatch(r"[A-Z][A-Za-z ,;:'-]+\.", text), text


def test_much_of_the_test_part_is_new():
    known = {word for text in sentences("train")[0] for word in _words(text)}
    texts = sentences("test")[0]
    new_words = sum(not known >= set(_words(text)) for text in texts)
    new_templates = sum(not _templates_of(text) & set(_TRAIN_TEMPLATES) for text in texts)

    assert new_words >= 0.5 * len(texts)
    assert new_templates >= 0.1 * len(texts)


def test_another_split_is_refused():
    with pytest.raises(InvalidArgument, match="'train' or 'test'"):
        sentences("validation")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _templates_of(text: str) -> set[str]:
    return {template for template, pattern in _PATTERNS if pattern.fullmatch(text)}


_PATTERNS = [
    (template, re.compile(re.sub(r"\\\[\w+(?:\\[+-]|\+)?\\\]", "[^,;:]+", re.escape(template)), re.IGNORECASE))
    for template in _ALL_TEMPLATES
]
