"""The ways of searching: a threshold loop, greedy, beam, and best-first with a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

from pytest_bertology.heads import HeadScores
from pytest_bertology.measures.own_methods import Method
from pytest_bertology.search.judging import Found, Judge
from pytest_bertology.search.result import TraceStep

_AT_A_TIME = 240
"""Sets of one size that are drawn from the enumeration before they are judged."""

Note = Callable[[TraceStep], None]


def threshold(judge: Judge, by: str | Method | HeadScores, step: float, seed: int, note: Note) -> None:
    """The bertology script's loop: mask the least important heads, a share of all at a time, until the floor breaks.

    Importance is computed again after each step. Unlike the script's, the loop ends when no head is left, too.
    """
    space = judge.space
    count = max(1, int(len(space.heads) * step))
    current = space.start
    while judge.found[current].holds:
        weights = judge.ranking(current, by, seed)
        order = sorted(space.free, key=lambda i: (weights[i], -i))
        more = space.grown(current, order, count)
        if more == current:
            return
        _tell(note, judge, "threshold", judge.judge([more], near=current))
        current = more


def beam(judge: Judge, width: int, note: Note, start: int | None = None) -> None:
    """From the best `width` sets of each size that keep the floor, every set of one head more (1: greedy search)."""
    phase = "greedy" if width == 1 else f"beam of {width}"
    frontier = [judge.space.start if start is None else start]
    while frontier:
        grown: dict[int, Found] = {}
        for current in frontier:
            sets = [bits for bits in judge.space.one_more(current) if bits not in grown]
            grown |= {found.bits: found for found in judge.judge(sets, near=current)}
        if not grown:
            return
        _tell(note, judge, phase, grown.values())
        holding = sorted((found for found in grown.values() if found.holds), key=judge.rank)
        frontier = [found.bits for found in holding[:width]]


def astar(judge: Judge, by: str | Method | HeadScores, step: float, seed: int, note: Note) -> None:
    """Best-first over sets of heads, by the size that a set can still reach, then by the importance it masks.

    Scores are not monotone in the set of masked heads, so that no set's score bounds those of larger ones: the only
    bound that is sound is the number of heads. Best-first by it takes the sets from the largest downwards, and the
    first size at which one keeps the floor is the optimum, since all larger ones were evaluated. Cheaper searches come
    first, to have something to return where the budget ends before: the threshold loop, greedy search from where it
    ended, and from the start. What is left of a budget that cannot pay for the next whole size goes to wider beams.
    """
    threshold(judge, by, step, seed, note)
    ended = judge.best()
    if ended is not None and ended.bits != judge.space.start:
        beam(judge, 1, note, ended.bits)
    beam(judge, 1, note)
    weights, widened = judge.ranking(judge.space.start, by, seed), False
    for size in range(judge.space.largest, judge.space.start.bit_count(), -1):
        best = judge.best()
        if best is not None and size < best.bits.bit_count():
            return
        missing = judge.space.counts[size] - judge.asked[size]
        if missing and not widened and not judge.affords(missing):
            _widen(judge, note)
            widened = True
        if missing:
            _all_of(judge, size, weights, note)


def _all_of(judge: Judge, size: int, weights: list[float], note: Note) -> None:
    sets = judge.space.of_size(size, weights)
    found: list[Found] = []
    while part := list(islice(sets, _AT_A_TIME)):
        found += judge.judge(part, near=judge.space.everything)
    _tell(note, judge, "all sets", found)


def _widen(judge: Judge, note: Note) -> None:
    """Ever wider beams, until one sees nothing new."""
    width, before = 2, -1
    while judge.evaluations > before:
        before = judge.evaluations
        beam(judge, width, note)
        width *= 2


def _tell(note: Note, judge: Judge, phase: str, found: Iterable[Found]) -> None:
    """Note what was seen at one size; raise Stopped where it is enough."""
    every = list(found)
    best = min(every, key=judge.rank)
    heads = judge.space.select(best.bits)
    held = sum(one.holds for one in every)
    note(TraceStep(phase, len(heads), len(every), held, best.measured.scores, heads, judge.evaluations))
    judge.stop_at_enough()
