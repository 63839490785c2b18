"""Which heads track which dependency relation, on sentences other than those that chose them (Clark et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pytest_bertology.engine.announcing import announced
from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.words import read_words
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_has_heads, check_model
from pytest_bertology.measures.origins import remakeable
from pytest_bertology.measures.relation_cases import WHAT, Dependencies, dependencies, relation_cases
from pytest_bertology.measures.relation_report import RelationReport, too_few_cases, unknown_relation
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import TreesLike
from pytest_bertology.tasks.two_parts import two_parts

OFFSETS = (-3, -2, -1, 1, 2, 3)


@remakeable
@announced("relations")
def head_relations(
    model: ModelUnderTest,
    conllu: TreesLike,
    *,
    select: TreesLike | None = None,
    relations: Iterable[str] | None = None,
    subtypes: bool = True,
    offsets: Iterable[int] = OFFSETS,
    min_cases: int = 20,
    confidence: float = 0.95,
    batching: Batching | None = None,
) -> RelationReport:
    """How often each head's greatest attention links a word to its syntactic head, by dependency relation.

    Clark et al. 2019, section 4.2. Attention between words is the sum over the tokens of the word attended to and the
    mean over those of the word that attends; a word's attention to itself and special tokens do not count. A head is
    right about a dependency where, of all other words, its dependent attends most to its syntactic head ("to_head"); or
    where its syntactic head is the word that attends most to it ("from_head"). In causal models no word attends to one
    on its right: "to_head" finds syntactic heads on the left alone, "from_head" those on the right. Accuracies stand
    beside that of the best fixed offset: the word so many places after the dependent. Of layers that run several times
    in a pass (ALBERT) the accuracy is the mean over their runs.

    The best of hundreds of heads looks better on the data that chose it than it is. Heads, directions and offsets are
    therefore chosen on other sentences than those reported on: `select`, or if None every second sentence of `conllu`,
    the first among them. Sentences whose text is also reported on choose nothing. `conllu` and `select` are paths of
    CoNLL-U files or iterables of sentences (see `read_conllu`).

    `relations` are those to report (None: all with `min_cases`), with subtypes (nsubj:pass) unless `subtypes` is False.
    Roots have no head and punctuation is a relation like others. Words of a sentence are alike, so that intervals at
    `confidence` are of sentences drawn, not words.

    Raises InvalidArgument, EmptyTask, MalformedData; CannotMeasure where the tokenizer does not tell which characters a
    token stands for; UndefinedScore for a relation asked for, or all, with fewer than `min_cases` cases.
    """
    check_model(model)
    check_has_heads(model)
    tried, named = _offsets(offsets), _named(relations)
    _check_numbers(min_cases, confidence)
    reported, selecting, data, selection, left_out = two_parts(conllu, select, "select", "choose by")
    words, choosing_words = (
        read_words(model, sentences, what=WHAT, name=name)
        for sentences, name in ((reported, data), (selecting, selection))
    )
    listed, choosing = dependencies(words, subtypes), dependencies(choosing_words, subtypes)
    chosen, rare = _reported(named, listed, choosing, min_cases)
    return RelationReport(
        model=model.name,
        data=data,
        selection=selection,
        heads=model.heads,
        relations=chosen,
        rare=rare,
        offsets=tried,
        min_cases=min_cases,
        confidence=confidence,
        sentences=len(reported),
        selecting=len(selecting),
        left_out=left_out,
        missing=words.missing,
        skipped=listed.skipped,
        _reporting=relation_cases(model, words, listed, batching),
        _selecting=relation_cases(model, choosing_words, choosing, batching),
        _words=words,
    )


def _named(relations: Any) -> tuple[str, ...] | None:
    wanted = "a list of relations, such as ['det', 'obj'], or None for all"
    if relations is None:
        return None
    if isinstance(relations, str) or not isinstance(relations, Iterable):
        raise InvalidArgument("relations", relations, wanted)
    named = tuple(relations)
    if not named or not all(isinstance(relation, str) for relation in named):
        raise InvalidArgument("relations", named, wanted)
    return tuple(dict.fromkeys(named))


def _reported(
    named: tuple[str, ...] | None, listed: Dependencies, choosing: Dependencies, min_cases: int
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The relations to report, and of a report of all those that have too few cases."""
    counts = listed.counts
    enough = {name: count >= min_cases and len(choosing.of(name)) > 0 for name, count in counts.items()}
    for relation in named or ():
        if relation not in counts:
            raise unknown_relation(relation, counts)
    wanted = counts if named is None else sorted(named, key=list(counts).index)
    lacking = {name: counts[name] for name in wanted if not enough[name]}
    chosen = tuple(name for name in wanted if enough[name])
    if not chosen or (lacking and named is not None):
        raise too_few_cases(lacking, min_cases, choosing)
    return chosen, lacking


def _offsets(offsets: Any) -> tuple[int, ...]:
    wanted = "whole numbers other than 0, such as (-2, -1, 1, 2)"
    if isinstance(offsets, str) or not isinstance(offsets, Iterable):
        raise InvalidArgument("offsets", offsets, wanted)
    found = tuple(offsets)
    if not found or not all(is_whole(offset) and offset != 0 for offset in found):
        raise InvalidArgument("offsets", found, wanted)
    return tuple(sorted({int(offset) for offset in found}))


def _check_numbers(min_cases: Any, confidence: Any) -> None:
    if not is_whole(min_cases) or min_cases < 1:
        raise InvalidArgument("min_cases", min_cases, "a whole number from 1")
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.0 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95")
