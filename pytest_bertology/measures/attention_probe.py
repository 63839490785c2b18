"""How much of a sentence's dependency tree a linear combination of attention maps finds (Clark et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.store import Arrays, computed_once
from pytest_bertology.engine.words import Words, read_words
from pytest_bertology.errors import InvalidArgument, TooMuchMemory, UndefinedScore
from pytest_bertology.heads import HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.probe_fit import Pairs, fit, predicted
from pytest_bertology.measures.probe_maps import each_sentence
from pytest_bertology.measures.probe_random import with_random_weights
from pytest_bertology.measures.probe_report import HEAD, OFFSET, PROBE, RANDOM, AttentionProbe
from pytest_bertology.measures.relation_cases import DIRECTIONS, Dependencies, dependencies, pointed_at
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import Sentence, TreesLike
from pytest_bertology.tasks.two_parts import two_parts

Array = npt.NDArray[Any]

OFFSETS = (-3, -2, -1, 1, 2, 3)
LIMIT = 2**30
"""Bytes that the attention of the training sentences may take."""
_WHAT = "the attention probe"


@remakeable
def attention_probe(
    model: ModelUnderTest,
    conllu: TreesLike,
    *,
    train: TreesLike | None = None,
    sentences: int = 1000,
    random_model: bool = True,
    penalty: float = 1e-3,
    confidence: float = 0.95,
    seed: int = 0,
    limit: int = LIMIT,
    batching: Batching | None = None,
) -> AttentionProbe:
    """Predict each word's syntactic head from all heads' attention, linearly combined: its UAS on other sentences.

    Clark et al. 2019, section 4.3, the attention-only probe: p(i is the head of j) ∝ exp Σ_k (w_k A_k[i, j] +
    u_k A_k[j, i]) over the other words i of the sentence, with two numbers for each attention head k and nothing else.
    Attention between words is that of `head_relations`; tokens such as [CLS] take no part, so that the root is no
    candidate and roots are not asked for. Published for BERT-base: 61, against 26 for the next word (right-branching).

    The weights are those of least cross entropy on at most `sentences` sentences of `train`, drawn with `seed`; if
    `train` is None every second sentence of `conllu` is trained on and the others are reported on. Training sentences
    whose text is reported on are left out. The problem is convex and solved by L-BFGS: the result is the same on every
    call. `penalty` times half the squared weights, of maps brought to unit variance, keeps it finite. The best single
    head and the best fixed offset are chosen on the training sentences, too. With `random_model` the same is done with
    a copy of the model whose weights are drawn anew, with `seed`: what tokens and positions alone allow.

    Raises InvalidArgument, EmptyTask, MalformedData; TooMuchMemory where the attention of the training sentences, 4
    bytes for each head and pair of words, is over `limit` bytes; UndefinedScore where no word has a head, or the fit
    does not converge; CannotMeasure.
    """
    check_model(model)
    check_has_heads(model)
    _check_numbers(sentences, penalty, confidence, seed)
    batching = batching or Batching()
    reported, others, data, source, _ = two_parts(conllu, train, "train", "train on")
    training = _drawn(others, sentences, seed)
    trained, tested = (
        read_words(model, part, what=_WHAT, name=name) for part, name in ((training, source), (reported, data))
    )
    parts = _Parts(trained, tested)
    _check_memory(model, trained, limit)
    key = f"{parts.digest}, penalty {penalty!r}"
    inputs = (model, tested.texts.encoded, model.mask_in_force(), batching)
    found = computed_once(f"attention probe 1, {key}", inputs, lambda: _probed(model, parts, penalty, batching))
    right = {PROBE: found["probe"], HEAD: found["head"]}
    offset = max(OFFSETS, key=lambda each: parts.at_offset(each, trained=True).mean())
    right[OFFSET] = parts.at_offset(offset)
    if random_model:
        control = computed_once(
            f"attention probe 1, random weights {seed}, {key}",
            inputs,
            lambda: _probed(with_random_weights(model, seed), parts, penalty, batching),
        )
        right[RANDOM] = control["probe"]
    head, direction = map(int, found["best"])
    return AttentionProbe(
        model=model.name,
        data=data,
        training=source,
        sentences=len(tested),
        trained_on=len(trained),
        to_head=HeadScores(found["weights"][0], model.heads, "probe's weight of A"),
        from_head=HeadScores(found["weights"][1], model.heads, "probe's weight of Aᵀ"),
        loss=float(found["loss"]),
        best_head=model.heads[head],
        direction=DIRECTIONS[direction],
        offset=offset,
        penalty=penalty,
        seed=seed,
        confidence=confidence,
        skipped=parts.tested_cases.skipped,
        _cases=parts.tested_cases,
        _right=right,
    )


class _Parts:
    """The sentences trained on and reported on, and their words that have syntactic heads."""

    def __init__(self, trained: Words, tested: Words) -> None:
        self.trained, self.tested = trained, tested
        self.trained_cases, self.tested_cases = (dependencies(part, False) for part in (trained, tested))
        for part, cases in ((trained, self.trained_cases), (tested, self.tested_cases)):
            if not len(cases):
                raise UndefinedScore(_WHAT, f"no word of {part.texts.name} has a syntactic head: all are roots")

    @property
    def digest(self) -> str:
        """Of all but the token ids that are reported on."""
        return f"{self.trained.digest} {self.trained.texts.encoded.digest} {self.tested.digest}"

    def at_offset(self, offset: int, *, trained: bool = False) -> Array:
        """For each word, 1.0 where the word so many places on is its head."""
        cases = self.trained_cases if trained else self.tested_cases
        return cases.at_offset(np.arange(len(cases)), offset)


def _probed(model: ModelUnderTest, parts: _Parts, penalty: float, batching: Batching) -> Arrays:
    """Train on one part, and say for each word of the other whether probe and best single head are right."""
    words, cases = parts.trained, parts.trained_cases
    pairs = Pairs(words, cases)
    maps = np.empty((len(model.heads), pairs.count), dtype=np.float32)
    single = np.zeros((len(model.heads), len(DIRECTIONS)))
    places = _places(cases, len(words))

    def keep(position: int, found: Tensor) -> None:
        maps[:, pairs.place(position)] = found.flatten(1).numpy()
        single[:] += _right(cases, places[position], pointed_at(found, cases.dependents[places[position]])).sum(axis=0)

    each_sentence(model, words, keep, what=_WHAT, batching=batching)
    weights, loss = fit(maps, pairs, penalty, f"{words.texts.name}, fit of {_WHAT}")
    best = np.unravel_index(int(single.argmax()), single.shape)
    probe, head = _tested(model, parts, weights, (int(best[0]), int(best[1])), batching)
    return {"weights": weights, "loss": np.array(loss), "best": np.array(best), "probe": probe, "head": head}


def _tested(
    model: ModelUnderTest, parts: _Parts, weights: Array, best: tuple[int, int], batching: Batching
) -> tuple[Array, Array]:
    words, cases = parts.tested, parts.tested_cases
    probe, head = np.zeros(len(cases)), np.zeros(len(cases))
    places = _places(cases, len(words))

    def judge(position: int, found: Tensor) -> None:
        at = places[position]
        heads = predicted(found.numpy(), weights, words.present[position])
        probe[at] = heads[cases.dependents[at]] == cases.governors[at]
        single = pointed_at(found[best[0] : best[0] + 1], cases.dependents[at])
        head[at] = _right(cases, at, single)[:, 0, best[1]]

    each_sentence(model, words, judge, what=_WHAT, batching=batching)
    return probe, head


def _right(cases: Dependencies, at: slice, pointed: tuple[Array, Array]) -> npt.NDArray[np.bool_]:
    """(cases, heads, directions) where single heads are right."""
    return np.stack([(each == cases.governors[at]).T for each in pointed], axis=-1)


def _places(cases: Dependencies, sentences: int) -> list[slice]:
    """Where each sentence's cases are."""
    starts = np.searchsorted(cases.sentences, np.arange(sentences + 1)).tolist()
    return [slice(start, end) for start, end in pairwise(starts)]


def _drawn(sentences: Sequence[Sentence], most: int, seed: int) -> Sequence[Sentence]:
    """So many sentences at most, drawn at random and in their order."""
    if len(sentences) <= most:
        return sentences
    drawn = np.random.default_rng(seed).choice(len(sentences), most, replace=False)
    return [sentences[index] for index in np.sort(drawn).tolist()]


def _check_memory(model: ModelUnderTest, words: Words, limit: int) -> None:
    needed = 4 * len(model.heads) * sum(len(sentence) ** 2 for sentence in words.sentences)
    if needed > limit:
        fitting = max(1, int(len(words) * limit / needed * 0.9))
        advice = f"Train on fewer, with sentences={fitting} or so, or allow more with limit=."
        raise TooMuchMemory(f"the attention on {len(words)} training sentences", needed, limit, advice)


def _check_numbers(sentences: object, penalty: object, confidence: object, seed: object) -> None:
    if not is_whole(sentences) or sentences < 1:  # type: ignore[operator]
        raise InvalidArgument("sentences", sentences, "a whole number from 1")
    if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 0.0 < penalty < float("inf"):
        raise InvalidArgument("penalty", penalty, "a number above 0, such as 0.001")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.0 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
    if not is_whole(seed) or seed < 0:  # type: ignore[operator]
        raise InvalidArgument("seed", seed, "a whole number from 0")
