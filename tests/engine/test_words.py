"""Words of tokens against shares counted by hand and, for attention between words, sums over single tokens.

The tokenizers are trained here with the `tokenizers` library: WordPiece, byte-level BPE and SentencePiece's Unigram.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pytest_bertology import load_model, read_conllu
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.words import attend_words, read_words, word_weights, words_attention
from pytest_bertology.errors import BertologyWarning, CannotMeasure
from tests.families import POSITIONS, family, tokenizer, under_test

CORPUS = ["the cats do not sleep", "don't the dogs sleep now", "cats and dogs", "naïve café owls sleep"] * 4
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def sentence(words: list[tuple[str, bool]], heads: list[int] | None = None):
    """Of words, and whether a space comes after each; each depends on the next unless `heads` are given."""
    heads = heads or [*range(1, len(words)), -1]
    spaces = [{} if space else {"SpaceAfter": "No"} for _, space in words]
    tokens = [
        {"id": at + 1, "form": form, "head": heads[at] + 1, "deprel": "dep", "misc": spaces[at]}
        for at, (form, _) in enumerate(words)
    ]
    return read_conllu([tokens])[0]


def wordpiece() -> Tokenizer:
    found = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL))
    return found


def byte_level() -> Tokenizer:
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, special_tokens=SPECIAL, initial_alphabet=letters)
    found.train_from_iterator(CORPUS, trainer)
    return found


def byte_level_trimmed() -> Tokenizer:
    """As RoBERTa has it: offsets leave the space out."""
    found = byte_level()
    found.post_processor = processors.ByteLevel(trim_offsets=True)
    return found


def sentencepiece() -> Tokenizer:
    found = Tokenizer(models.Unigram())
    found.normalizer = normalizers.NFKC()
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    )
    return found


KINDS = (wordpiece, byte_level, byte_level_trimmed, sentencepiece)


def with_special(make) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers, with special tokens around a text."""
    backend = make()
    around = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    before = [backend.post_processor] if backend.post_processor is not None else []
    backend.post_processor = processors.Sequence([*before, around])
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def shares_of(make, words: list[tuple[str, bool]]):
    """The sentence, its tokens' offsets, and their shares."""
    read = sentence(words)
    offsets = with_special(make)(read.text, return_offsets_mapping=True)["offset_mapping"]
    return read, offsets, word_weights(offsets, read.spans)


# -- shares ------------------------------------------------------------------------------------------------------


def test_shares_by_hand():
    #           [CLS]   the     " ca"   ts      "tdo"?  [SEP]
    offsets = [(0, 0), (0, 3), (3, 6), (6, 8), (7, 10), (0, 0)]
    spans = [(0, 3), (4, 8), (8, 10)]

    shares = word_weights(offsets, spans)

    assert shares.tolist() == [
        [0, 0, 0],
        [1, 0, 0],
        [0, 1, 0],
        [0, 1, 0],
        [0, pytest.approx(1 / 3), pytest.approx(2 / 3)],
        [0, 0, 0],
    ]


def test_words_that_share_characters_share_their_tokens():
    shares = word_weights([(0, 2), (2, 6)], [(0, 2), (0, 2), (3, 6)])

    assert shares.tolist() == [[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]]


def test_a_token_of_spaces_is_of_no_word():
    assert word_weights([(3, 4), (4, 6)], [(0, 3), (4, 6)]).tolist() == [[0.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("make", KINDS)
def test_every_word_gets_the_tokens_of_its_characters(make):
    words = [("Don't", True), ("the", True), ("naïve", True), ("cats", True), ("sleep", False), (".", True)]

    read, offsets, shares = shares_of(make, words)

    for token, (start, end) in enumerate(offsets):
        for word, (first, last) in enumerate(read.spans):
            inside = len(set(range(start, end)) & set(range(first, last)))
            of_any = sum(len(set(range(start, end)) & set(range(*span))) for span in read.spans)
            assert shares[token, word] == pytest.approx(inside / of_any if of_any else 0.0)
    assert (shares.sum(axis=0) >= 1.0).all()  # every word has a token of its own
    assert shares[0].sum() == shares[-1].sum() == 0.0  # [CLS] and [SEP]


@pytest.mark.parametrize("make", KINDS)
def test_words_written_as_one_are_told_apart(make):
    words = [("do", False), ("n't", True), ("the", True), ("dogs", True), ("sleep", True)]

    read, offsets, shares = shares_of(make, words)

    assert read.text == "don't the dogs sleep"
    whole = [index for index, (start, end) in enumerate(offsets) if start < 2 < end]
    for index in whole:  # tokens of both words, such as "don"
        start, end = offsets[index]
        assert shares[index, 0] == pytest.approx((2 - start) / (end - start))
    assert (shares[:, :2].sum(axis=0) > 0.0).all()
    spaces = [read.text[start:end].isspace() for start, end in offsets[1:-1]]  # SentencePiece's lone "▁"
    assert np.allclose(shares.sum(axis=1)[1:-1], [0.0 if space else 1.0 for space in spaces])


def test_byte_level_tokens_of_one_character_are_all_its_words():
    _, offsets, shares = shares_of(byte_level, [("猫", True), ("sleep", True)])

    of_cat = [index for index, (start, end) in enumerate(offsets) if (start, end) == (0, 1)]
    assert len(of_cat) == 3  # its bytes in UTF-8
    assert shares[of_cat, 0].tolist() == [1.0, 1.0, 1.0]


def test_a_character_that_the_tokenizer_drops_leaves_a_word_without_token():
    _, _, shares = shares_of(wordpiece, [("cats", True), ("\u200b\u200d", True), ("sleep", True)])

    assert (shares.sum(axis=0) > 0.0).tolist() == [True, False, True]


# -- attention between words -------------------------------------------------------------------------------------


def by_hand(weights, shares):
    """Word by word, token by token: to a word the sum, from a word the mean weighted by shares."""
    tokens, words = shares.shape
    found = np.zeros((words, words))
    for i in range(words):
        for j in range(words):
            total = sum(shares[:, i])
            if total:
                found[i, j] = sum(
                    shares[a, i] / total * weights[a, b] * shares[b, j] for a in range(tokens) for b in range(tokens)
                )
    return found


@settings(deadline=None, database=None, max_examples=40)
@given(data=st.data())
def test_attention_between_words_is_counted_as_by_hand(data):
    words = data.draw(st.integers(1, 4))
    spans, at = [], 0
    for _ in range(words):
        at += data.draw(st.integers(0, 1))
        spans.append((at, at + data.draw(st.integers(1, 3))))
        at = spans[-1][1]
    ends = sorted(data.draw(st.sets(st.integers(1, at), max_size=4)) | {at})
    offsets = [(0, 0), *zip([0, *ends], ends, strict=False), (0, 0)]
    seed = data.draw(st.integers(0, 99))
    weights = np.random.default_rng(seed).dirichlet(np.ones(len(offsets)), size=(2, len(offsets)))
    shares = word_weights(offsets, spans)

    found = words_attention(weights, shares)

    assert found.shape == (2, words, words)
    assert np.allclose(found[0], by_hand(weights[0], shares), atol=1e-12)
    assert np.allclose(words_attention(torch.tensor(weights), shares).numpy(), found, atol=1e-12)
    # What a row adds up to is the attention that goes to words at all, and all rows of shares are 0 or 1.
    to_words = weights[0] @ shares.sum(axis=1)
    own = shares / shares.sum(axis=0)
    assert np.allclose(found[0].sum(axis=1), own.T @ to_words)
    assert np.isin(shares.sum(axis=1).round(9), [0.0, 1.0]).all()


def test_a_word_per_token_is_the_identity():
    weights = torch.rand(3, 4, 4, dtype=torch.float64)
    offsets = [(0, 2), (2, 5), (6, 7), (7, 9)]

    assert torch.equal(words_attention(weights, word_weights(offsets, offsets)), weights)


def test_clarks_example():
    """Attention to a word is summed over its pieces, attention from a word is their mean (section 4.1)."""
    weights = np.array([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [0.2, 0.2, 0.6]])
    shares = word_weights([(0, 1), (2, 3), (3, 4)], [(0, 1), (2, 4)])

    assert np.allclose(words_attention(weights, shares), [[0.5, 0.5], [0.1, 0.9]])


# -- of a model --------------------------------------------------------------------------------------------------

SENTENCES = [
    sentence([("abc", True), ("d", False), ("ef", True), ("g", True)]),
    sentence([("x", True), ("yz", True)]),
    sentence([("hij", True), ("k", True), ("lm", True), ("n", True), ("opq", True), ("r", True)]),
]


def maps_of(model, words, **options):
    found = {}

    def see(position, heads, run, maps):
        for offset, head in enumerate(range(heads.start, heads.stop)):
            found[position, head] = maps[offset].clone()

    attend_words(model, words, see, what="words", **options)
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [1, 500])
def test_words_of_a_model_are_those_of_eager_attention(side, budget):
    model = under_test("bert", dtype=torch.float64)
    words = read_words(model, SENTENCES, what="words")

    found = maps_of(model, words, batching=Batching(tokens=budget, padding_side=side))

    plain = family("bert", dtype=torch.float64)
    plain.set_attn_implementation("eager")
    for position, read in enumerate(SENTENCES):
        inputs = tokenizer()(read.text, return_tensors="pt", return_offsets_mapping=True)
        shares = word_weights([(int(a), int(b)) for a, b in inputs.pop("offset_mapping")[0]], read.spans)
        with torch.no_grad():
            attentions = plain(**inputs, output_attentions=True).attentions
        for layer, attention in enumerate(attentions):
            for head in range(4):
                expected = by_hand(attention[0, head].numpy(), shares)
                assert np.allclose(found[position, 4 * layer + head].numpy(), expected, atol=1e-9)


def test_words_beyond_the_longest_text_are_not_present():
    model = under_test("bert")
    long = sentence([("ab", True)] * POSITIONS)

    with pytest.warns(BertologyWarning, match="were cut"):
        words = read_words(model, [SENTENCES[0], long], what="words")

    kept = (POSITIONS - 2) // 2
    assert words.missing == POSITIONS - kept
    assert words.present[0].all()
    assert words.present[1].tolist() == [True] * kept + [False] * (POSITIONS - kept)
    assert len(maps_of(model, words)) == 2 * 8


def test_some_of_the_words():
    model = under_test("bert", dtype=torch.float64)
    words = read_words(model, SENTENCES, what="words", name="letters")
    every = maps_of(model, words)

    some = maps_of(model, words.subset([2, 0]))

    assert torch.allclose(some[0, 5], every[2, 5])
    assert torch.allclose(some[1, 5], every[0, 5])
    assert words.subset([2, 0]).texts.name == "letters"


def test_digests_tell_trees_apart():
    model = under_test("bert")
    other = sentence([("x", True), ("yz", True)], heads=[-1, 0])

    digests = {read_words(model, [each], what="words").digest for each in (SENTENCES[0], SENTENCES[1], other)}

    assert len(digests) == 3
    assert read_words(model, SENTENCES, what="words").digest == read_words(model, SENTENCES, what="words").digest


def test_a_tokenizer_without_offsets_is_refused():
    class Slow:
        """As a slow tokenizer: it knows no offsets."""

        is_fast = False

        def __init__(self):
            self._fast = tokenizer()

        def __getattr__(self, name):
            return getattr(self._fast, name)

        def __call__(self, *args, **options):
            options.pop("return_offsets_mapping")
            return self._fast(*args, **options)

    model = load_model(family("bert"), tokenizer=tokenizer())
    model.tokenizer = Slow()

    with pytest.raises(CannotMeasure, match=r"relations.*does not tell which characters.*use_fast=True"):
        read_words(model, SENTENCES, what="relations")
