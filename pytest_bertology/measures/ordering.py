"""In which order heads are masked: the least important first, some of each layer kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from pytest_bertology.engine.batching import Batching
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.heads import Head, HeadMask, HeadScores
from pytest_bertology.heads.maps import is_whole
from pytest_bertology.heads.scores import refuse_equal
from pytest_bertology.measures.importance import chosen_method, pruning_scores
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def check_by(model: ModelUnderTest, by: str | Method | HeadScores) -> None:
    """Raise InvalidArgument for an unknown method, MaskOfAnotherModel for scores of another model's heads."""
    if isinstance(by, HeadScores):
        model.as_mask(HeadMask.keep_all(by.heads))
    else:
        chosen_method(by, "by")


def name_of(by: str | Method | HeadScores) -> str:
    """What heads are ordered by, in a word."""
    return by.method if isinstance(by, HeadScores) else chosen_method(by, "by")[1]


def check_least(model: ModelUnderTest, least_per_layer: int) -> None:
    """Raise InvalidArgument where the heads to keep in each layer are no number, or leave none to mask."""
    widest = max(model.heads.per_layer)
    if not is_whole(least_per_layer) or not 0 <= least_per_layer < widest:
        raise InvalidArgument("least_per_layer", least_per_layer, f"a whole number from 0 to {widest - 1}")


def ordering_scores(
    model: ModelUnderTest,
    task: Task,
    by: str | Method | HeadScores,
    mask: HeadMask,
    *,
    seed: int = 0,
    batching: Batching | None = None,
) -> HeadScores:
    """The scores to order heads by, of the model under exactly `mask`.

    Scores given are used as they are, those of a method as `pruning_scores` has them. Raises UndefinedScore where all
    heads score the same; not so for scores computed again under a longer mask than that in force around the call, which
    may leave no head that matters.
    """
    check_by(model, by)
    if isinstance(by, HeadScores):
        refuse_equal(by)
        return by
    first = mask == model.mask_in_force() and len(mask.heads) - len(mask.masked) > 1
    with model.exactly(mask):
        scores = pruning_scores(model, task, by, seed=seed, batching=batching)
    if first:
        refuse_equal(scores)
    return scores


def room_per_layer(mask: HeadMask, least_per_layer: int) -> dict[tuple[str | None, int], int]:
    """How many more heads each (stack, layer) can lose under `mask` and still keep the least."""
    gone = Counter((head.stack or None, head.layer) for head in mask.masked)
    return {
        (layer.stack, layer.layer): max(0, layer.heads - gone[layer.stack, layer.layer] - least_per_layer)
        for layer in mask.heads.layers
    }


def next_heads(order: Iterable[Head], mask: HeadMask, count: int, least_per_layer: int) -> list[Head]:
    """The first `count` heads of `order` that `mask` leaves open, as far as their layers can spare them."""
    room, masked = room_per_layer(mask, least_per_layer), set(mask.masked)
    chosen: list[Head] = []
    for head in order:
        if len(chosen) == count:
            break
        layer = (head.stack or None, head.layer)
        if head not in masked and room[layer] > 0:
            room[layer] -= 1
            chosen.append(head)
    return chosen
