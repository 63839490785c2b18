"""Whether a published claim holds of a model: examined by the measures that there are, on your data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from pytest_bertology.engine.batching import Batching
from pytest_bertology.engine.texts import TextsLike
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.claims_catalogue import (
    EARLY_POSITIONS,
    FINAL_SPECIFIC,
    MIDDLE_SYNTAX,
    REDUNDANT,
    SINGLE_RELATIONS,
    Claim,
    find_claim,
)
from pytest_bertology.measures.claims_finding import ClaimFinding, Examined
from pytest_bertology.measures.claims_heads import redundant_heads, single_relations
from pytest_bertology.measures.claims_layers import early_positions, final_changes, middle_syntax
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.conllu import TreesLike
from pytest_bertology.tasks.task import Task

_Examiner: TypeAlias = Callable[[Examined], ClaimFinding]

_EXAMINERS: dict[str, _Examiner] = {
    MIDDLE_SYNTAX: middle_syntax,
    EARLY_POSITIONS: early_positions,
    FINAL_SPECIFIC: final_changes,
    REDUNDANT: redundant_heads,
    SINGLE_RELATIONS: single_relations,
}
_GIVE = {
    "conllu": 'conllu="dev.conllu" (or the sentences of read_conllu)',
    "task": "task=load_task(...)",
    "texts": 'texts=["A sentence.", ...] (or a task)',
    "base": "base=load_model(...), the model before fine-tuning",
    "train": "train=",
}


def examine_claim(
    claim: str | Claim,
    model: ModelUnderTest,
    *,
    conllu: TreesLike | None = None,
    task: Task | None = None,
    texts: TextsLike | None = None,
    base: ModelUnderTest | None = None,
    train: Task | TreesLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    batching: Batching | None = None,
) -> ClaimFinding:
    """Whether a claim of the catalogue (`claims()`) holds of a model on your data, does not, or cannot be decided.

    Each claim says what it needs: `conllu` (trees), `task`, `texts`, or `base`, the model before fine-tuning. `train`
    is other data of the same kind to learn or choose from; without it a part of the data is kept for that. Intervals
    are at `confidence`. Masks in force count, as in other measures.

    Raises InvalidArgument for an unknown claim (naming the closest), for data that it needs and is not given, or is
    given and does not need, and for a model with too few layers; and what the measures raise.
    """
    found = find_claim(claim)
    check_model(model)
    given: dict[str, Any] = {"conllu": conllu, "task": task, "texts": texts, "base": base, "train": train}
    _check_given(found, {name for name, value in given.items() if value is not None})
    if base is not None:
        check_model(base, "base")
    if task is not None and not isinstance(task, Task):
        raise InvalidArgument("task", type(task).__name__, "what load_task(...) returns")
    if isinstance(train, Task) != (task is not None) and train is not None:
        expected = "a task, as task= is" if task is not None else "trees, as conllu= is"
        raise InvalidArgument("train", type(train).__name__, expected)
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.5 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number above 0.5 and below 1, such as 0.95")
    if not is_whole(seed) or seed < 0:
        raise InvalidArgument("seed", seed, "a whole number from 0")
    return _EXAMINERS[found.name](
        Examined(found, model, **_held(given), confidence=confidence, seed=seed, batching=batching)
    )


def _check_given(claim: Claim, given: set[str]) -> None:
    """Raise InvalidArgument unless the claim has what it needs, and nothing that it would not look at."""
    ways = [set(need.split("+")) for need in claim.needs]
    needed = f"the claim {claim.name!r} needs {', or '.join(' and '.join(_GIVE[n] for n in sorted(w)) for w in ways)}"
    if not any(way <= given for way in ways):
        missing = min((sorted(way - given) for way in ways), key=len)[0]
        raise InvalidArgument(missing, None, f"data: {needed}")
    chosen = next(way for way in ways if way <= given)
    for name in sorted(given - chosen - set(claim.optional)):
        raise InvalidArgument(name, "(given)", f"None: {needed}, and nothing else would be looked at")


def _held(given: dict[str, Any]) -> dict[str, Any]:
    """Data that can be read only once, as lists."""
    return {
        name: list(value)
        if isinstance(value, Iterable) and not isinstance(value, str | os.PathLike | Task | list | tuple)
        else value
        for name, value in given.items()
    }


__all__ = ["Claim", "ClaimFinding", "examine_claim"]
