"""What each head is for: positional heads, syntactic heads, heads that point to rare words (Voita et al. 2019)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike, read_texts
from pytest_bertology.errors import InvalidArgument, UndefinedScore
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.relation_report import RelationReport
from pytest_bertology.measures.relations import head_relations
from pytest_bertology.measures.role_counts import Rarity, RoleCounts, count_roles, token_frequencies
from pytest_bertology.measures.role_report import FEWEST, POSITIONAL, RARE, SYNTACTIC, RoleReport
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import Sentence, TreesLike, read_conllu
from pytest_bertology.tasks.task import Task

RoleTexts: TypeAlias = "TextsLike | TreesLike"
"""Texts, or sentences with their dependency trees."""
Frequencies: TypeAlias = "Mapping[str, float] | Mapping[int, float] | TextsLike"
"""How often tokens, or token ids, occur; or texts to count them in."""

OFFSETS = (-3, -2, -1, 1, 2, 3)
RELATIONS = ("nsubj", "obj", "amod", "advmod")
"""The relations of section 5.2."""


@remakeable
def head_roles(
    model: ModelUnderTest,
    texts: RoleTexts,
    *,
    offsets: Iterable[int] = OFFSETS,
    positional_share: float = 0.9,
    rare_share: float = 0.5,
    rarest: int = 2,
    frequencies: Frequencies | None = None,
    frequent: int = 500,
    relations: Iterable[str] | None = None,
    select: TreesLike | None = None,
    min_cases: int = 20,
    batching: Batching | None = None,
) -> RoleReport:
    """Which heads are positional, which syntactic, and which point to rare words (Voita et al. 2019, section 5).

    By where a head's greatest weight goes, token by token. Tokens that the tokenizer puts there ([CLS], [SEP], the
    beginning and the end of a text) neither point nor are pointed to; the paper's models know of these only the end.

    - "positional": `positional_share` of the tokens that have another at one of `offsets` point to it (5.1).
    - "syntactic", where `texts` are sentences with trees, a path of a CoNLL-U file or what `read_conllu` takes: on one
      of `relations`, by default nsubj, obj, amod and advmod where they have `min_cases`, the head is right 1.1 times as
      often as the best fixed offset (5.2), and the 95 % interval of the difference lies above 0. Judged by words, as
      `head_relations` does: direction and offset are chosen on `select`, or if None on every second sentence, and
      accuracies are of the others. It is a low bar where the best offset is rarely right, most of all for causal
      models, whose heads choose among the words on one side: see how often `tracks(head)` are right.
    - "rare": `rare_share` of the tokens point to one of the `rarest` tokens of their text, and twice as many as would
      by chance (5.3; published: more than half to one of the two rarest). Only in texts whose rarest token is none of
      the `frequent` most frequent ones, and whose rarest tokens, equally rare ones together, are at most half of it.
      Counts are of `frequencies`: tokens, or token ids, and their numbers, or other texts; if None, of `texts`.

    A role that the texts cannot tell is in `not_judged` with the reason: no trees, fewer than 30 tokens at any offset
    or texts with rare tokens, or only offsets of later tokens where no token attends to one (causal models).
    Encoder-decoder models read each text on both sides.

    Raises InvalidArgument; UndefinedScore for a relation asked for with too few cases; NoTokenizer, EmptyTask,
    MalformedData, NonFinite; CannotMeasure where the weights cannot be had.
    """
    check_model(model)
    check_has_heads(model)
    tried = _offsets(offsets)
    _check_shares(positional_share, rare_share)
    _check_counts(rarest, frequent)
    given, trees = _sorted_out(texts)
    if trees is None and (relations is not None or select is not None):
        name = "relations" if relations is not None else "select"
        raise InvalidArgument(name, relations or select, "None where the texts have no dependency trees")
    not_judged: dict[str, str] = {}
    read = read_texts(model, given)
    read = replace(read, name=Path(texts).name) if isinstance(texts, str | os.PathLike) else read
    counted = token_frequencies(model, read, frequencies)
    counts = count_roles(model, read, tried, Rarity(counted, rarest, frequent), batching or Batching())
    not_judged |= _too_little(counts, tried, len(read), len(counted), frequent)
    tracking, tracked = None, tuple[str, ...]()
    if trees is None:
        not_judged[SYNTACTIC] = "the texts come without dependency trees: give sentences, or a CoNLL-U file"
    else:
        tracking, tracked, reason = _tracking(model, trees, relations, select, min_cases, batching)
        if reason:
            not_judged[SYNTACTIC] = reason
    return RoleReport(
        model=model.name,
        task=read.name,
        all_heads=model.heads,
        texts=len(read),
        tokens=counts.tokens,
        offsets=tried,
        positional_share=float(positional_share),
        rare_share=float(rare_share),
        rarest=int(rarest),
        rare_texts=counts.rare_texts,
        relations=tracked,
        tracking=tracking,
        not_judged=not_judged,
        _counts=counts,
    )


def _sorted_out(texts: Any) -> tuple[TextsLike, TreesLike | None]:
    """What the model reads, and its trees, if any."""
    trees: TreesLike | None = None
    if isinstance(texts, str | os.PathLike):
        trees = texts
    elif isinstance(texts, Iterable) and not isinstance(texts, Task | bytes | Mapping | Sentence):
        texts = list(texts)
        first = texts[0] if texts else None
        parsed = isinstance(first, Sequence) and len(first) > 0 and isinstance(first[0], Mapping)
        trees = texts if isinstance(first, Sentence) or parsed else None
    if trees is None:
        return texts, None
    sentences = read_conllu(trees)
    return [sentence.text for sentence in sentences], trees if isinstance(trees, str | os.PathLike) else sentences


def _too_little(counts: RoleCounts, offsets: Sequence[int], texts: int, types: int, frequent: int) -> dict[str, str]:
    """The roles that these counts cannot tell."""
    found: dict[str, str] = {}
    most = int(counts.offset_cases.max())
    if min(offsets) > 0 and not counts.ahead.any():
        found[POSITIONAL] = "the model never looks ahead: no token attends to a later one, as at the offsets asked for"
    elif most < FEWEST:
        found[POSITIONAL] = f"{most} tokens have another at one of the offsets, and {FEWEST} are needed"
    more = "give frequencies= (more texts to count tokens in, or their numbers), or a smaller frequent="
    if types <= frequent:
        found[RARE] = f"{types} different tokens were counted, and {frequent} of them count as frequent: {more}"
    elif counts.rare_texts < FEWEST:
        rare = f"rarer than the {frequent} most frequent ones, and at most half of their text"
        found[RARE] = f"{counts.rare_texts} of {texts} texts have rare tokens to point to ({rare}), and {FEWEST} are "
        found[RARE] += f"needed: give more texts; or {more}"
    return found


def _tracking(
    model: ModelUnderTest,
    trees: TreesLike,
    relations: Iterable[str] | None,
    select: TreesLike | None,
    min_cases: int,
    batching: Batching | None,
) -> tuple[RelationReport | None, tuple[str, ...], str | None]:
    """How heads track relations; which; and the reason why they cannot be judged, if so."""
    if isinstance(relations, str):
        raise InvalidArgument("relations", relations, "a list of relations, such as ['det', 'obj'], or None")
    wanted = None if relations is None else tuple(relations)
    subtypes = wanted is not None and any(":" in str(relation) for relation in wanted)
    options: dict[str, Any] = {"select": select, "subtypes": subtypes, "min_cases": min_cases, "batching": batching}
    if wanted is not None:
        found = head_relations(model, trees, relations=wanted, **options)
        return found, found.relations, None
    few = f"none of {', '.join(RELATIONS)} has {min_cases} cases (min_cases) in the sentences that do not choose"
    try:
        found = head_relations(model, trees, **options)
    except UndefinedScore:
        return None, (), few
    known = tuple(relation for relation in RELATIONS if relation in found.relations)
    return (found, known, None) if known else (None, (), few)


def _offsets(offsets: Any) -> tuple[int, ...]:
    wanted = "whole numbers of tokens, such as (-1, 1)"
    if isinstance(offsets, str) or not isinstance(offsets, Iterable):
        raise InvalidArgument("offsets", offsets, wanted)
    found = tuple(offsets)
    if not found or not all(is_whole(each) for each in found):
        raise InvalidArgument("offsets", found, wanted)
    return tuple(sorted({int(each) for each in found}))


def _check_shares(positional: object, rare: object) -> None:
    for name, share in (("positional_share", positional), ("rare_share", rare)):
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            raise InvalidArgument(name, share, "a share above 0 and up to 1")


def _check_counts(rarest: object, frequent: object) -> None:
    if not is_whole(rarest) or rarest < 1:  # type: ignore[operator]
        raise InvalidArgument("rarest", rarest, "a whole number of tokens from 1")
    if not is_whole(frequent) or frequent < 0:  # type: ignore[operator]
        raise InvalidArgument("frequent", frequent, "a whole number of tokens from 0")
