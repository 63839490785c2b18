"""Parts of a task: against the slices of a list that they are named by."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pytest_bertology import Task, load_task
from pytest_bertology.errors import InvalidArgument


def test_a_subset_keeps_the_order_it_is_asked_for():
    task = load_task({"text": ["a", "b", "c"], "label": [0, 1, 2]}).subset([2, 0])

    assert (task.texts, task.labels) == (("c", "a"), (2, 0))
    assert task.name.startswith("the given columns (2 of 3, #")


@pytest.mark.parametrize(
    ("positions", "name"),
    [
        (range(6), "[0:6]"),
        ([4], "[4:5]"),
        ([-2, -1], "[18:20]"),
        (range(0, 20, 5), "[0:20:5]"),
        (range(1, 20, 7), "[1:20:7]"),
        (np.arange(0, 6, 2), "[0:6:2]"),
    ],
)
def test_a_subset_that_is_a_slice_is_called_by_it(positions, name):
    task = Task("made", "language-modelling", tuple(map(str, range(20))), None)

    found = task.subset(positions)

    assert found.name == "made" + name
    first, *rest = map(int, name.strip("[]").split(":"))
    assert found.texts == task.texts[slice(first, *rest)]


def test_other_subsets_are_told_apart_by_their_names():
    task = Task("made", "language-modelling", tuple(map(str, range(20))), None)

    names = [task.subset(positions).name for positions in ([2, 0], [0, 2], [2, 5, 6], [5, 6, 2], [3, 2, 1])]

    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"made \([23] of 20, #[0-9a-f]{4}\)", name) for name in names)
    assert task.subset([2, 0]).name == names[0]


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        (range(60), r"positions=3 is not valid: expected positions of examples: made has 3 examples, 0 to 2"),
        ([-4], "positions=-4"),
        ([], "at least one position: made has 3 examples"),
        ([0.5], "positions=0.5 is not valid: expected whole numbers: made has 3 examples"),
        ([True, False, True], "positions=True is not valid: expected whole numbers"),
        ("01", "positions='0'"),
        (2, r"positions=2 is not valid: expected positions of examples, such as range\(3\)"),
    ],
)
def test_positions_that_the_task_does_not_have_are_refused(positions, expected):
    task = Task("made", "language-modelling", ("a", "b", "c"), None)

    with pytest.raises(InvalidArgument, match=expected):
        task.subset(positions)
