"""Data that a search does not look at: given, or split off."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.tasks.task import Task

HeldOut: TypeAlias = "Task | Mapping[Task, Task] | float | None"
"""One task's held-out task, each task's, or the fraction of each task to hold out."""


def parts(tasks: Sequence[Task], held_out: HeldOut, seed: int) -> list[tuple[Task, Task | None]]:
    """Each task's part to search on, and its part to judge on.

    Raises InvalidArgument for a fraction that leaves one of them empty, and for held-out data that is searched.
    """
    if held_out is None:
        return [(task, None) for task in tasks]
    if isinstance(held_out, int | float) and not isinstance(held_out, bool):
        return [_split(task, float(held_out), seed) for task in tasks]
    if isinstance(held_out, Task) and len(tasks) == 1:
        held_out = {tasks[0]: held_out}
    if not isinstance(held_out, Mapping) or not all(isinstance(part, Task) for part in held_out.values()):
        given = held_out if isinstance(held_out, str | bool) else type(held_out).__name__
        expected = "a task of other examples" if len(tasks) == 1 else "a mapping of each task to one of other examples"
        raise InvalidArgument("held_out", given, f"{expected}, or the fraction to hold out, such as 0.3")
    if set(held_out) != set(tasks):
        raise InvalidArgument("held_out", [task.name for task in held_out], "a held-out task for each task searched")
    for task in tasks:
        _check_other(task, held_out[task])
    return [(task, held_out[task].with_metric(task.metric)) for task in tasks]


def _split(task: Task, fraction: float, seed: int) -> tuple[Task, Task]:
    """Hold out so many examples, drawn with `seed`; equal texts stay together."""
    if not 0.0 < fraction < 1.0:
        raise InvalidArgument("held_out", fraction, "a fraction between 0 and 1, or a task")
    wanted = int(fraction * len(task) + 0.5)
    groups: dict[object, list[int]] = {}
    for position, text in enumerate(task.texts):
        groups.setdefault(text, []).append(position)
    held: set[int] = set()
    every = list(groups.values())
    for index in np.random.default_rng(seed).permutation(len(every)):
        if len(held) + len(every[index]) <= wanted:
            held.update(every[index])
    if not 0 < len(held) < len(task):
        raise InvalidArgument("held_out", fraction, f"a fraction of {len(task)} examples that leaves some on each side")
    searched = [position for position in range(len(task)) if position not in held]
    return task.subset(searched), task.subset(sorted(held))


def _check_other(task: Task, held_out: Task) -> None:
    if held_out.kind != task.kind:
        raise InvalidArgument("held_out", held_out.name, f"a task of the kind {task.kind}, as {task.name} is")
    known = set(task.texts)
    shared = sum(text in known for text in held_out.texts)
    if shared == len(held_out):
        raise InvalidArgument(
            "held_out", held_out.name, f"examples other than those of {task.name}: it has all of them"
        )
    if shared:
        text = f"{shared} of {len(held_out)} held-out examples of {held_out.name} are searched on, too"
        warnings.warn(text, BertologyWarning, stacklevel=6)
