"""A planted model: its layer 2 writes the label of a word; nothing tells of it before."""

from __future__ import annotations

import pytest

from pytest_bertology import CheckFailed, load_task
from pytest_bertology.checks.code_length import assert_compression
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.measures.code_length import description_length
from pytest_bertology.report.code_length_figure import code_length_figure
from pytest_bertology.report.figures import figure_of
from tests.planted_layers import planted_layer_model, planted_layer_task


@pytest.fixture(scope="module")
def planted():
    return planted_layer_model(2)


def test_a_layer_that_holds_the_label_compresses_it(planted):
    heard = []

    with hearing(heard.append):
        report = assert_compression(planted, planted_layer_task(60, 0), 3, layer=2)

    (verdict,) = heard
    assert verdict.passed
    assert verdict.observed == report.compression[0] > 3.0
    assert verdict.details["control_compression"] == report.control_compression[0] < 1.5


def test_more_than_there_is_fails_and_says_how_much_there_is(planted):
    with pytest.raises(CheckFailed) as caught:
        assert_compression(planted, planted_layer_task(60, 0), 1000, layer=2, above_control=False)

    page = str(caught.value)
    assert page.startswith("the states of layer 2 compress the labels less than 1000 times")
    assert "uniform code" in page
    assert "online code" in page
    assert "control task" not in page


@pytest.mark.parametrize("above_control", [True, False])
def test_a_layer_that_tells_no_more_than_frequencies_never_passes(planted, above_control):
    with pytest.raises(CheckFailed, match="no further than their own frequencies do"):
        assert_compression(planted, planted_layer_task(60, 0), 0.1, layer=1, above_control=above_control)


def test_labels_that_a_control_task_compresses_as_well_fail(planted):
    """Words of one colour look alike: of labels that tell them apart less can be read than of some control labels."""
    words = ("blue1", "green2", "red3", "blue4")
    texts = [[words[(i * 7 + j * j) % 4] for j in range(4 + i % 5)] for i in range(60)]
    label = {"blue1": "a", "green2": "b", "red3": "a", "blue4": "b"}
    task = load_task({"tokens": texts, "labels": [[label[word] for word in text] for text in texts]})

    for seed in range(20):  # control labels that are not all the same
        report = description_length(planted, task, [0], seed=seed)
        if report.control_compression[0] > report.compression[0]:
            break

    with pytest.raises(CheckFailed, match="no further than those of the control task"):
        assert_compression(planted, task, 0.1, layer=0, seed=seed)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"at_least": 0}, "at_least"),
        ({"at_least": "3"}, "at_least"),
        ({"layer": "best"}, "layer"),
        ({"layer": 7}, "layers"),
        ({"above_control": None}, "above_control"),
    ],
)
def test_wrong_arguments_are_named(planted, arguments, named):
    with pytest.raises(InvalidArgument, match=named):
        assert_compression(planted, planted_layer_task(20, 0), **{"at_least": 2, "layer": 2} | arguments)


def test_the_figure_shows_true_and_control_labels_by_layer(planted):
    report = description_length(planted, planted_layer_task(60, 0), [1, 2, 3])

    axis = figure_of(report).axes[0]

    lines = {line.get_label(): line.get_ydata() for line in axis.lines}
    assert list(lines["labels"]) == list(report.compression)
    assert list(lines["control task"]) == list(report.control_compression)
    assert lines["frequencies alone"][0] == report.frequency_compression
    with pytest.raises(InvalidArgument, match="description_length"):
        code_length_figure(3)
