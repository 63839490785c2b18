"""Checks on the order in which a model's layers take up tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from pytest_bertology.checks import explain_layer_order as explain
from pytest_bertology.checks.verdicts import Verdict, give
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.arguments import check_model
from pytest_bertology.measures.edge_order import LayerStep, layer_steps
from pytest_bertology.measures.edge_probing import edge_probe
from pytest_bertology.measures.edge_report import EXPECTED, WAYS, EdgeProbeReport
from pytest_bertology.measures.probe_retention import check_options
from pytest_bertology.models import ModelUnderTest
from pytest_bertology.tasks.task import Task


def assert_layer_order(
    model: ModelUnderTest | Mapping[str, EdgeProbeReport],
    order: Sequence[str] | Mapping[str, Task],
    by: str = EXPECTED,
    *,
    tasks: Mapping[str, Task] | None = None,
    train: Mapping[str, Task] | None = None,
    held_out: Mapping[str, Task] | None = None,
    confidence: float | None = None,
    **probing: Any,
) -> dict[str, EdgeProbeReport]:
    """Assert that a model takes up tasks in this order, the first at the lowest layer; return their edge probes.

    As in `assert_layer_order(model, ["pos", "dep", "ner"], by="expected_layer", tasks=tasks, train=train)`, where
    `tasks` and `train` say what data each name stands for; without `tasks`, `order` is itself such a mapping, in its
    order. Instead of a model, edge probes can be given that were trained before: `assert_layer_order(reports, ["pos",
    "dep"])`. `by` is "expected_layer" or "centre_of_gravity" (Tenney et al. 2019, section 3); `probing` are arguments
    of `edge_probe`.

    Each task's layer, mean over seeds, must be below the next one's. With `confidence`, such as 0.95, the interval of
    each difference, paired by seed, must lie above 0: that takes two seeds or more, the same for all tasks. It is of
    seeds alone; the tasks' data is taken as it is. A task without an expected layer, or whose probe is not surely
    better than the commonest label, has no place in an order: then the check fails and says so.

    Raises CheckFailed (an AssertionError); InvalidArgument, for fewer than two tasks too; what `edge_probe` raises.
    """
    __tracebackhide__ = True
    names = _names(order)
    _check(by, confidence)
    if isinstance(model, ModelUnderTest):
        found = _probed(model, order, names, by, tasks, train, held_out, probing)
    else:
        found = _given(model, names, {"tasks": tasks, "train": train, "held_out": held_out, **probing})
    _check_alike(found, by, confidence)
    steps = layer_steps(found, by, confidence)
    gaps = [each.difference if confidence is None or each.interval is None else each.interval[0] for each in steps]
    known = [gap for gap in gaps if gap is not None]
    first = next(iter(found.values()))
    verdict = Verdict(
        check="assert_layer_order",
        passed=all(each.holds for each in steps),
        inconclusive=_undecided(steps),
        observed=min(known) if len(known) == len(gaps) else None,
        required="> 0",
        judged=("lower bound of the " if confidence is not None else "")
        + f"least difference of {explain.NAMES[by]} from task to task",
        model=first.model,
        task=" < ".join(names),
        examples=sum(each.items for each in found.values()),
        details={"by": by, "layers": {name: _layer(each, by) for name, each in found.items()}},
    )
    give(verdict, lambda: explain.out_of_order(found, steps, by, confidence))
    return found


def _undecided(steps: Sequence[LayerStep]) -> bool:
    """Whether some step may or may not hold, and none surely does not."""
    missed = [each for each in steps if not each.holds]
    return bool(missed) and all(each.interval is not None and each.interval[1] > 0.0 for each in missed)


def _probed(
    model: ModelUnderTest,
    order: Sequence[str] | Mapping[str, Task],
    names: Sequence[str],
    by: str,
    tasks: Mapping[str, Task] | None,
    train: Mapping[str, Task] | None,
    held_out: Mapping[str, Task] | None,
    probing: dict[str, Any],
) -> dict[str, EdgeProbeReport]:
    check_model(model)
    check_options(probing, ("model", "task", "train", "held_out"), edge_probe)
    if isinstance(order, Mapping):
        if tasks is not None:
            raise InvalidArgument("tasks", _some(tasks), "None, where `order` already says which task each name is")
        tasks = order
    for argument, value in (("tasks", tasks), ("train", train), ("held_out", held_out)):
        if value is None and argument != "tasks":
            continue
        missing = [name for name in names if name not in value] if isinstance(value, Mapping) else names
        if missing:
            expected = f"a mapping with a task for each of {', '.join(map(repr, names))}"
            raise InvalidArgument(argument, _some(value), f"{expected}; {', '.join(map(repr, missing))} has none")
    assert tasks is not None
    probing = {"cumulative": by == EXPECTED, **probing}
    return {
        name: edge_probe(
            model,
            tasks[name],
            train=None if train is None else train[name],
            held_out=None if held_out is None else held_out[name],
            **probing,
        )
        for name in names
    }


def _given(reports: Any, names: Sequence[str], others: Mapping[str, object]) -> dict[str, EdgeProbeReport]:
    if not isinstance(reports, Mapping):
        check_model(reports)
    for argument, value in others.items():
        if value is not None:
            raise InvalidArgument(argument, _some(value), "none: the edge probes given were trained before")
    for name in names:
        if not isinstance(reports.get(name), EdgeProbeReport):
            raise InvalidArgument("order", name, f"names of the edge probes given: {_some(reports)}")
    return {name: reports[name] for name in names}


def _check_alike(found: Mapping[str, EdgeProbeReport], by: str, confidence: float | None) -> None:
    """Only layers of one model can be compared, and only seeds that are the same be paired."""
    for (one, ours), (other, theirs) in pairwise(found.items()):
        for what, mine, its in (("model", ours.model, theirs.model), ("layers", ours.layers, theirs.layers)):
            if mine != its:
                raise InvalidArgument(what, f"{mine} for {one}, {its} for {other}", "the same for all tasks")
        if confidence is not None and ours.seeds != theirs.seeds:
            expected = "the same for all tasks, so that differences are paired"
            raise InvalidArgument("seeds", f"{ours.seeds} for {one}, {theirs.seeds} for {other}", expected)
        if confidence is not None and len(ours.seeds) < 2:
            raise InvalidArgument("seeds", ours.seeds, "two seeds or more, to judge with confidence=")
    for name, each in found.items():
        if by == EXPECTED and not each.cumulative:
            raise InvalidArgument("order", name, "edge probes with cumulative=True: others have no expected layer")


def _layer(report: EdgeProbeReport, by: str) -> float | None:
    return None if by == EXPECTED and report.undefined else report.layer(by)


def _names(order: object) -> tuple[str, ...]:
    expected = "two names of tasks or more, the one of the lowest layer first, such as ['pos', 'dep']"
    if isinstance(order, str) or not isinstance(order, Sequence | Mapping):
        raise InvalidArgument("order", order if isinstance(order, str) else type(order).__name__, expected)
    names = tuple(order)
    if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument("order", list(names), f"{expected}, all different")
    return names


def _check(by: object, confidence: object) -> None:
    if by not in WAYS:
        raise InvalidArgument("by", by, " or ".join(map(repr, WAYS)))
    if confidence is None:
        return
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0.0 < confidence < 1.0:
        raise InvalidArgument("confidence", confidence, "a number between 0 and 1, such as 0.95, or None")


def _some(value: object) -> object:
    return list(value) if isinstance(value, Mapping) else value
