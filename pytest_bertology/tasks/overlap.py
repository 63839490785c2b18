"""Texts that two tasks share."""

from __future__ import annotations

from pytest_bertology.tasks.task import Task


def shared_texts(one: Task, other: Task) -> str:
    """How many examples of a task have texts of the other, in words, by the task of which it is more; "" for none."""
    shares = []
    for task, beside in ((one, other), (other, one)):
        known = set(beside.texts)
        shares.append((sum(text in known for text in task.texts), task, beside))
    count, task, beside = max(shares, key=lambda share: share[0] / len(share[1]))
    return f"{count} of {len(task)} examples of {task.name} are in {beside.name} too" if count else ""
