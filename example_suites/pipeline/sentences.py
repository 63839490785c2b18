"""A few hundred English sentences with their trees, from a small grammar: drawn the same way on every call.

Most nouns and verbs are both (watch, play, guard …), many adjectives are nouns or adverbs too, and "that" and "to" are
two things each: a word's part of speech shows in its neighbours. What a noun is to its verb shows in the whole
sentence: objects go before it in questions, and are its subjects in the passive.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from pytest_bertology import Sentence, read_conllu

BOTH = (
    "watch", "play", "guard", "cook", "paint", "dance", "visit", "guide", "judge", "host", "coach", "attack", "nurse",
    "answer", "call", "film", "study", "plan", "test", "help", "question", "change", "design", "fight", "hunt", "cover",
)  # fmt: skip
NOUNS = ("girl", "house", "teacher", "story", "engine", "king")
VERBS = ("see", "hear", "describe", "follow", "remember", "admire")
ADJECTIVES = ("light", "kind", "cold", "early", "fast", "sweet", "green", "fine", "wild", "old")
KINDS = ("light", "kind", "cold", "sweet", "green", "fine", "wild")
"""Nouns that are adjectives too."""
ADVERBS = ("often", "early", "fast", "well", "never")
NAMES = ("Mary", "Rose", "Mark", "Grace", "Will", "Hunter")
PLACES = ("park", "garden", "city", "village", "school")
MANY = 0.85
"""The share of words that may be another part of speech."""


class _Word(NamedTuple):
    form: str
    upos: str
    relation: str
    head: int | None
    """Position of the head among the words of the same phrase; None for the phrase's own head."""


def sentences(count: int = 320, seed: int = 0) -> tuple[Sentence, ...]:
    """So many different sentences and their trees."""
    draw = random.Random(seed)
    found: dict[str, list[dict[str, object]]] = {}
    while len(found) < count:
        words = draw.choice((_statement, _question, _passive, _wish, _thought))(draw)
        found.setdefault(" ".join(word.form for word in words), _tokens(words))
    return read_conllu(list(found.values()))


def _tokens(words: list[_Word]) -> list[dict[str, object]]:
    return [
        {
            "id": at + 1,
            "form": word.form.capitalize() if at == 0 else word.form,
            "upos": word.upos,
            "head": 0 if word.head is None else word.head + 1,
            "deprel": word.relation,
            "misc": {"SpaceAfter": "No"} if at == len(words) - 2 else None,
        }
        for at, word in enumerate(words)
    ]


def _joined(*phrases: list[_Word], head: int) -> list[_Word]:
    """Phrases one after the other; all depend on the head of that at `head`, which has none yet."""
    starts, own = [], []
    for phrase in phrases:
        starts.append(sum(len(each) for each in phrases[: len(starts)]))
        own.append(starts[-1] + next(at for at, word in enumerate(phrase) if word.head is None))
    words: list[_Word] = []
    for index, phrase in enumerate(phrases):
        for word in phrase:
            outside = None if index == head else own[head]
            words.append(word._replace(head=outside if word.head is None else word.head + starts[index]))
    return words


def _one(form: str, upos: str, relation: str) -> list[_Word]:
    return [_Word(form, upos, relation, None)]


def _form(draw: random.Random, double: tuple[str, ...], single: tuple[str, ...]) -> str:
    return draw.choice(double if draw.random() < MANY else single)


def _noun(draw: random.Random, relation: str, *, place: bool = False) -> list[_Word]:
    if not place and draw.random() < 0.15:
        return _one(draw.choice(NAMES), "PROPN", relation)
    parts = [_one(draw.choice(("the", "that", "this", "her")), "DET", "det")]
    if draw.random() < 0.5:
        parts.append(_one(draw.choice(ADJECTIVES), "ADJ", "amod"))
    form = draw.choice(PLACES) if place else _form(draw, (*BOTH, *KINDS), NOUNS)
    parts.append(_one(form, "NOUN", relation))
    words = _joined(*parts, head=len(parts) - 1)
    if not place and draw.random() < 0.15:
        return _joined(words, _with_case(draw, "of", "nmod"), head=0)
    return words


def _with_case(draw: random.Random, preposition: str, relation: str, *, place: bool = False) -> list[_Word]:
    return _joined(_one(preposition, "ADP", "case"), _noun(draw, relation, place=place), head=1)


def _verb(draw: random.Random, relation: str = "root") -> list[_Word]:
    return _one(_form(draw, BOTH, VERBS), "VERB", relation)


def _end(draw: random.Random) -> list[list[_Word]]:
    """What may stand after a verb and its object."""
    found = []
    if draw.random() < 0.3:
        found.append(_one(draw.choice(ADVERBS), "ADV", "advmod"))
    if draw.random() < 0.4:
        found.append(_with_case(draw, draw.choice(("to", "near")), "obl", place=True))
    return found


def _statement(draw: random.Random, relation: str = "root") -> list[_Word]:
    auxiliary = _one(draw.choice(("will", "can", "must", "should")), "AUX", "aux")
    ends = [*_end(draw), _one(".", "PUNCT", "punct")] if relation == "root" else _end(draw)
    return _joined(_noun(draw, "nsubj"), auxiliary, _verb(draw, relation), _noun(draw, "obj"), *ends, head=2)


def _question(draw: random.Random) -> list[_Word]:
    asked = _joined(_one("which", "DET", "det"), _one(_form(draw, (*BOTH, *KINDS), NOUNS), "NOUN", "obj"), head=1)
    auxiliary = _one(draw.choice(("will", "can", "did")), "AUX", "aux")
    parts = [asked, auxiliary, _noun(draw, "nsubj"), _verb(draw), *_end(draw), _one("?", "PUNCT", "punct")]
    return _joined(*parts, head=3)


def _passive(draw: random.Random) -> list[_Word]:
    verb = _one(draw.choice(("seen", "watched", "painted", "guided", "heard", "judged")), "VERB", "root")
    parts = [_noun(draw, "nsubj:pass"), _one("was", "AUX", "aux:pass"), verb, _with_case(draw, "by", "obl")]
    return _joined(*parts, *_end(draw), _one(".", "PUNCT", "punct"), head=2)


def _wish(draw: random.Random) -> list[_Word]:
    wish = _joined(_one("to", "PART", "mark"), _verb(draw, "xcomp"), _noun(draw, "obj"), *_end(draw), head=1)
    parts = [_noun(draw, "nsubj"), _one(draw.choice(("wants", "plans", "hopes")), "VERB", "root"), wish]
    return _joined(*parts, _one(".", "PUNCT", "punct"), head=1)


def _thought(draw: random.Random) -> list[_Word]:
    thought = _joined(_one("that", "SCONJ", "mark"), _statement(draw, "ccomp"), head=1)
    parts = [_noun(draw, "nsubj"), _one(draw.choice(("knows", "answers", "hopes")), "VERB", "root"), thought]
    return _joined(*parts, _one(".", "PUNCT", "punct"), head=1)
