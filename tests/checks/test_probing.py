"""The check on a probe's score against a planted model, and its failure page read line by line."""

from __future__ import annotations

import random
import zlib

import pytest

from pytest_bertology import CheckFailed, assert_probe_score, load_task, save_figure
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument
from pytest_bertology.report.probing_figure import probing_figure
from tests.planted_layers import planted_layer_model, planted_layer_task
from tests.tiny import WORDS, tiny_model

K = 2
TASK = planted_layer_task(160, seed=1)


@pytest.fixture(scope="module")
def model():
    return planted_layer_model(K)


def failure(model, *arguments, task=TASK, **options):
    with pytest.raises(CheckFailed) as raised:
        assert_probe_score(model, task, *arguments, layers=[1, K], **options)
    return raised.value


def test_the_planted_layer_passes(model):
    heard = []

    with hearing(heard.append):
        found = assert_probe_score(
            model, TASK, at_least=0.98, min_selectivity=0.5, min_lead_over_random=0.5, confidence=0.95, layers=[1, K]
        )

    (verdict,) = heard
    assert found.best_layer == K
    assert (verdict.passed, verdict.details["layer"], verdict.details["score"]) == (True, K, 1.0)
    assert (
        verdict.required == ">= 0.98, surely above the majority class, selectivity >= 0.5, >= 0.5 above random weights"
    )
    assert 0.98 <= verdict.observed < 1.0


def test_a_layer_before_it_fails_with_all_that_was_measured(model):
    error = failure(model, 1, at_least=0.9, min_selectivity=0.5)

    page, found = str(error), error.verdict.details
    assert page.startswith("The probe of layer 1 does not reach 0.9 and is no")
    assert f"accuracy        {found['score']:.4f} [" in page
    assert "required: at least 0.9, missed" in page
    assert f"majority class  {found['majority']:.4f}, " in page
    assert f"control task    {found['control']:.4f} on labels drawn at random for each type" in page
    assert f"random weights  {found['random']:.4f}, " in page
    assert "\n        2   1.0000  " in page
    assert "labels found least often:\n    " in page
    assert " taken for " in page
    assert found["missed"] == ["score", "majority", "selectivity"]


def test_no_better_than_the_majority_class_never_passes(model):
    error = failure(model, 0 + 1, at_least=0.0, control=False, random_model=False)

    assert str(error).startswith("The probe of layer 1 is no")  # better, or not surely
    assert "than the majority class" in str(error).splitlines()[0]
    assert "control task    not looked at (control=False)" in str(error)
    assert "random weights  not looked at (random_model=False)" in str(error)
    assert error.verdict.details["not looked at"] == ["control", "random"]


def test_what_memory_knows_as_well_never_passes():
    """Labels are drawn at random for each word, as those of the control task are: above the majority, not selective."""
    noise = random.Random(0)
    words = [[noise.choice(WORDS) for _ in range(6)] for start in range(150)]
    labels = {word: "ab"[zlib.crc32(word.encode()) % 2] for word in WORDS}
    said = [[labels[word] if noise.random() < 0.85 else "b" for word in each] for each in words]
    task, model = load_task({"tokens": words, "labels": said}), tiny_model()

    report = assert_probe_score(model, task, 0, at_least=0.6, layers=[0], control=False, random_model=False)
    with pytest.raises(CheckFailed, match=r"^The probe of layer 0 has a selectivity of -0\.\d+, below 0\n") as raised:
        assert_probe_score(model, task, 0, at_least=0.6, layers=[0])

    assert report.beats_majority(0)
    assert raised.value.verdict.details["missed"] == ["selectivity"]


def test_a_score_that_is_not_sure_fails_by_its_lower_bound(model):
    error = failure(model, K, at_least=1.0, confidence=0.95, control=False, random_model=False)

    assert str(error).startswith("The probe of layer 2 does not surely reach 1\n")
    assert "true score      at least 0.99" in str(error)


@pytest.mark.parametrize(
    ("argument", "options"),
    [
        ("at_least", {"at_least": 1.1}),
        ("at_least", {"at_least": float("nan")}),
        ("at_least", {"at_least": -0.1}),
        ("layer", {"layer": -1}),
        ("layer", {"layer": "last"}),
        ("layer", {"layer": 3, "layers": [1, 2]}),
        ("confidence", {"confidence": 0.5}),
        ("min_selectivity", {"min_selectivity": -0.1}),
        ("control", {"min_selectivity": 0.1, "control": False}),
        ("random_model", {"min_lead_over_random": 0.1, "random_model": False}),
    ],
)
def test_requirements_that_mean_nothing_are_refused(model, argument, options):
    with pytest.raises(InvalidArgument, match=argument):
        assert_probe_score(model, TASK, **{"at_least": 0.9, **options})


def test_the_figure_shows_what_the_report_says(model, tmp_path):
    report = assert_probe_score(model, TASK, at_least=0.9, layers=[1, K])

    figure = probing_figure(report)
    upper, lower = figure.axes
    lines = {line.get_label(): list(line.get_ydata()) for line in upper.lines}
    assert lines["linear probe"] == list(report.scores)
    assert lines["control task"] == list(report.control_scores)
    assert lines["random weights"] == list(report.random_scores)
    assert lines["majority class"] == [report.majority_baseline] * 2
    assert list(lower.lines[0].get_ydata()) == list(report.selectivity)
    save_figure(report, tmp_path / "probes.svg")
    assert "selectivity" in (tmp_path / "probes.svg").read_text(encoding="utf-8")
    with pytest.raises(InvalidArgument, match="report"):
        probing_figure("it")
