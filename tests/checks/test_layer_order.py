"""Tasks are in order over layers where their expected layers are, and surely where the seeds agree.

Oracle: a planted model that writes a label at a known layer, and reports of scores made by hand.
"""

from __future__ import annotations

from functools import cache

import pytest

from pytest_bertology import CheckFailed, assert_layer_order, edge_probe, load_task
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument
from tests.measures.test_edge_probing import report_of
from tests.planted_layers import planted_layer_model, planted_layer_task

LOW = [[0.5, 0.9, 0.9, 0.9], [0.5, 0.85, 0.9, 0.9]]
"""Expected layers 1 and 1.125; centre of gravity 2, as of all of these."""
HIGH = [[0.5, 0.5, 0.9, 0.9], [0.5, 0.5, 0.86, 0.9]]
"""Expected layers 2 and 2.1."""
FLAT = [[0.5, 0.5, 0.6, 0.5], [0.5, 0.5, 0.5, 0.5]]
"""Nothing is gained: no expected layer."""
QUICK = {"projection": 8, "steps": 80, "seeds": (0, 1)}


def test_tasks_in_order_pass_and_their_probes_come_back():
    reports = {"dep": report_of(HIGH), "pos": report_of(LOW)}
    verdicts = []

    with hearing(verdicts.append):
        found = assert_layer_order(reports, ["pos", "dep"], by="expected_layer", confidence=0.9)

    assert list(found) == ["pos", "dep"]
    (verdict,) = verdicts
    assert verdict.passed
    assert verdict.details["layers"] == pytest.approx({"pos": 1.0625, "dep": 2.05})


def test_tasks_out_of_order_are_told_with_their_layers():
    reports = {"dep": report_of(HIGH), "pos": report_of(LOW)}

    with pytest.raises(CheckFailed) as failure:
        assert_layer_order(reports, ["dep", "pos"])

    page = str(failure.value)
    assert page.startswith("expected layers are not in order: 'pos' is not above 'dep'")
    assert "'dep' to 'pos': -0.99, missed" in page
    assert "1.06" in page
    assert "2.05" in page
    assert failure.value.verdict.observed == pytest.approx(1.0625 - 2.05)


def test_a_difference_that_seeds_do_not_agree_on_is_not_sure():
    reports = {"one": report_of(LOW), "other": report_of([[0.5, 0.9, 0.9, 0.9], [0.5, 0.5, 0.86, 0.9]])}

    assert_layer_order(reports, ["one", "other"])
    with pytest.raises(CheckFailed, match="'other' is not surely above 'one'"):
        assert_layer_order(reports, ["one", "other"], confidence=0.9)


def test_a_task_without_an_expected_layer_fails_and_says_why():
    reports = {"pos": report_of(LOW), "flat": report_of(FLAT)}

    with pytest.raises(CheckFailed) as failure:
        assert_layer_order(reports, ["pos", "flat"])

    page = str(failure.value)
    assert "'flat' has no place in it" in page
    assert "undefined" in page
    assert "that may be nothing" in page
    assert failure.value.verdict.observed is None


def test_a_task_without_a_place_is_named_once():
    reports = {"pos": report_of(LOW), "flat": report_of(FLAT), "dep": report_of(HIGH), "low": report_of(LOW)}

    with pytest.raises(CheckFailed) as failure:
        assert_layer_order(reports, list(reports))

    title = str(failure.value).splitlines()[0]
    assert title == "expected layers are not in order: 'flat' has no place in it; 'low' is not above 'dep'"
    with pytest.raises(CheckFailed, match=r"order: 'b' and 'a' have no place in it\n"):
        assert_layer_order({"b": report_of(FLAT), "a": report_of(FLAT)}, ["b", "a"])


def test_an_option_that_there_is_not_is_named_with_those_that_there_are():
    models, data = planted()
    tasks = {"a": data["tested"], "b": data["tested"]}

    with pytest.raises(InvalidArgument, match=r"^poolng='mean' .* options of edge_probe, which are layers, seeds, "):
        assert_layer_order(models[1], tasks, poolng="mean")


def test_a_probe_that_does_not_beat_the_commonest_label_has_no_place():
    reports = {"pos": report_of(LOW), "poor": report_of([[0.02, 0.03, 0.05, 0.1]] * 2)}

    with pytest.raises(CheckFailed, match="not surely better than always saying the commonest label"):
        assert_layer_order(reports, ["pos", "poor"], by="centre_of_gravity")


def test_equal_layers_are_not_in_order():
    reports = {"one": report_of(LOW), "same": report_of(LOW)}

    with pytest.raises(CheckFailed, match="'same' is not above 'one'"):
        assert_layer_order(reports, ["one", "same"])


@cache
def planted():
    """Models that write the label at layer 1 and 3, and data for it."""
    data = {"train": planted_layer_task(80, 0), "tested": planted_layer_task(40, 1)}
    return {layer: planted_layer_model(layer) for layer in (1, 3)}, data


def test_a_model_is_probed_for_each_task_in_turn():
    models, data = planted()
    tasks, train = {"a": data["tested"]}, {"a": data["train"]}
    early = edge_probe(models[1], tasks["a"], train=train["a"], **QUICK)
    late = edge_probe(models[3], tasks["a"], train=train["a"], **QUICK)

    assert_layer_order({"early": early, "late": late}, ["early", "late"], confidence=0.95)
    with pytest.raises(CheckFailed, match="'b' is not above 'a'"):
        assert_layer_order(models[1], {"a": tasks["a"], "b": tasks["a"]}, train={**train, "b": train["a"]}, **QUICK)


def test_arguments_that_are_none_are_named():
    reports = {"pos": report_of(LOW), "dep": report_of(HIGH)}
    models, data = planted()
    task = data["tested"]

    for order in (["pos"], ["pos", "pos"], "pos", []):
        with pytest.raises(InvalidArgument, match="order="):
            assert_layer_order(reports, order)
    with pytest.raises(InvalidArgument, match="order='ner'"):
        assert_layer_order(reports, ["pos", "ner"])
    with pytest.raises(InvalidArgument, match="by='layer'"):
        assert_layer_order(reports, ["pos", "dep"], by="layer")
    with pytest.raises(InvalidArgument, match="confidence="):
        assert_layer_order(reports, ["pos", "dep"], confidence=95)
    with pytest.raises(InvalidArgument, match="seeds="):
        assert_layer_order(reports, ["pos", "dep"], seeds=(0, 1))
    with pytest.raises(InvalidArgument, match="tasks="):
        assert_layer_order(models[1], ["pos", "dep"], tasks={"pos": task})
    with pytest.raises(InvalidArgument, match="train="):
        assert_layer_order(models[1], {"pos": task, "dep": task}, train={"pos": task})
    with pytest.raises(InvalidArgument, match="tasks="):
        assert_layer_order(models[1], {"pos": task, "dep": task}, tasks={"pos": task})
    with pytest.raises(InvalidArgument, match="model="):
        assert_layer_order("bert", ["pos", "dep"], tasks={"pos": task, "dep": task})


def test_only_probes_alike_are_compared():
    low, high = report_of(LOW), report_of(HIGH)

    with pytest.raises(InvalidArgument, match="layers="):
        assert_layer_order({"a": low, "b": report_of(HIGH, layers=(0, 2, 4, 6))}, ["a", "b"])
    with pytest.raises(InvalidArgument, match="model="):
        assert_layer_order({"a": low, "b": report_of(HIGH, model="n")}, ["a", "b"])
    with pytest.raises(InvalidArgument, match="seeds="):
        assert_layer_order({"a": low, "b": report_of(HIGH, seeds=(3, 4))}, ["a", "b"], confidence=0.9)
    with pytest.raises(InvalidArgument, match="seeds="):
        assert_layer_order({"a": report_of(LOW[:1]), "b": report_of(HIGH[:1])}, ["a", "b"], confidence=0.9)
    with pytest.raises(InvalidArgument, match="cumulative=True"):
        assert_layer_order({"a": low, "b": report_of(HIGH, cumulative=False)}, ["a", "b"])
    assert high.expected_layer == pytest.approx(2.05)


def test_data_of_one_text_that_repeats_is_refused_by_name():
    models, _ = planted()
    task = load_task({"tokens": [["red1", "blue1"]], "labels": [["x", "y"]]})

    with pytest.raises(InvalidArgument, match="at least 3 texts"):
        assert_layer_order(models[1], {"a": task, "b": task}, **QUICK)
