"""Amnesic probing against a planted classifier whose head reads one of two properties, and plain losses by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_bertology import AmnesicReport, Task, amnesic_probe, erase, evaluate, save_figure
from pytest_bertology.engine.announcing import listening
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.relation_intervals import paired_difference
from tests.families import task_for, under_test
from tests.hooked import hooked
from tests.planted_properties import colour_classifier, colours_and_sizes

pytestmark = hooked

COUNT = 60


@pytest.fixture(scope="module")
def planted():
    """The model; its task; colours and sizes to learn from; sizes to judge on."""
    colours, sizes = colours_and_sizes(COUNT, 1)
    train_colours, train_sizes = colours_and_sizes(160, 2)
    return colour_classifier(), colours, sizes, train_colours, train_sizes


@pytest.fixture(scope="module")
def used(planted):
    model, colours, _, train, _ = planted
    return amnesic_probe(model, colours, colours, train=train, pooling="first")


@pytest.fixture(scope="module")
def unused(planted):
    model, colours, sizes, _, train = planted
    return amnesic_probe(model, sizes, colours, train=train, pooling="first")


def test_what_the_head_reads_is_used_and_its_removal_brings_the_task_to_chance(used):
    assert used.baseline == 1.0
    for layer in (1, 2):
        found = used.at(layer)
        assert found.erasure.only.accuracy_before == 1.0
        assert found.erasure.only.accuracy_after == found.erasure.only.majority == 0.5
        assert (found.score, found.drop) == (0.5, 0.5)
        assert found.random_drop < 0.1
        assert found.last.difference < 0.1
        assert found.used
    assert used.used_at == (1, 2)


def test_what_is_there_and_not_read_is_not_used(unused):
    for layer in (1, 2):
        found = unused.at(layer)
        assert found.erasure.only.accuracy_before == 1.0
        assert found.erasure.only.accuracy_after == 0.5
        assert (found.score, found.drop) == (1.0, 0.0)
        assert not found.used
        low, high = found.interval
        assert low <= 0.0 <= high
    assert unused.used_at == ()


def test_what_is_not_there_yet_is_not_used(used):
    found = used.at(0)

    assert not found.erasure.only.was_there
    assert (found.rank, found.score) == (0, 1.0)
    assert not found.used
    assert "was not there" in used.table()


def test_scores_are_those_under_the_erasures_and_random_draws(planted, used):
    model, colours, _, train, _ = planted
    own = erase(model, colours, 2, train=train, pooling="first")
    with model.erasing(own):
        erased = evaluate(model, colours)
    controls = []
    for seed in range(5):
        with model.erasing(*own.at_random(seed)):
            controls.append(evaluate(model, colours))

    found = used.at(2)

    assert found.score == erased.score
    assert found.random_scores == tuple(each.score for each in controls)
    mean = np.mean([each.right for each in controls], axis=0)
    expected = paired_difference(mean, erased.right.astype(float), np.arange(COUNT), 0.95)
    assert found.interval == pytest.approx(expected.interval)
    assert found.difference == pytest.approx(expected.difference)


@pytest.mark.filterwarnings("ignore:probes learn from only")
def test_the_loss_of_a_language_model_is_judged_by_a_bootstrap_of_its_texts():
    model = under_test("bert", "masked-lm")
    texts = task_for("masked-lm", 12)
    words = task_for("token-classification", 12)
    shapes = tuple(tuple("long" if len(word) > 1 else "short" for word in row) for row in words.texts)
    tagged = Task("length of words", "token-classification", words.texts, shapes)

    report = amnesic_probe(model, tagged, texts, [1, 2], metric="loss", random_controls=3, last=False)

    assert (report.metric, report.higher_is_better) == ("loss", False)
    for found in report.layers:
        assert found.drop == pytest.approx(found.score - report.baseline)
        assert found.interval[0] <= found.difference <= found.interval[1]
        assert found.interval[0] < found.interval[1]
        assert found.last is None


def test_results_do_not_depend_on_the_order_of_the_data(planted, used):
    model, colours, _, train, _ = planted
    turned = amnesic_probe(
        model,
        colours.subset(range(COUNT - 1, -1, -1)),
        colours,
        [2],
        train=train.subset(range(159, -1, -1)),
        pooling="first",
        last=False,
    )

    one, other = turned.at(2), used.at(2)
    assert (one.score, one.random_scores) == (other.score, other.random_scores)
    np.testing.assert_allclose(one.erasure.to_numpy(), other.erasure.to_numpy(), atol=1e-5)


def test_the_table_and_the_figure_show_each_layer(used, tmp_path):
    lines = used.table().splitlines()

    assert [line.split()[0] for line in lines[3:6]] == ["0", "1", "2"]
    assert lines[5].endswith("✱")
    assert "✱" not in lines[3]
    assert repr(used).startswith("AmnesicReport(")
    assert save_figure(used, tmp_path / "amnesic.png").stat().st_size > 5000


def test_the_report_is_announced_once(planted):
    model, colours, _, train, _ = planted
    heard = []

    with listening(heard.append):
        amnesic_probe(model, colours, colours, 2, train=train, pooling="first", last=False, random_controls=2)

    assert [(each.kind, type(each.value)) for each in heard] == [("amnesic", AmnesicReport)]


def test_wrong_arguments_are_told(planted, used):
    model, colours, _, train, _ = planted

    with pytest.raises(InvalidArgument, match="random_controls"):
        amnesic_probe(model, colours, colours, train=train, random_controls=1)
    with pytest.raises(InvalidArgument, match="layers"):
        amnesic_probe(model, colours, colours, [7], train=train)
    with pytest.raises(InvalidArgument, match="layer"):
        used.at(3)
