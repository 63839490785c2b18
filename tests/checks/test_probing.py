"""The check on a probe's score against a planted model, and its failure page read line by line."""

from __future__ import annotations

import random
import re
import zlib

import pytest

from pytest_bertology import CheckFailed, assert_probe_score, load_task, save_figure
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import BertologyWarning, InvalidArgument
from pytest_bertology.report.probing_figure import probing_figure
from tests.planted_layers import LAYERS, planted_layer_model, planted_layer_task
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
    assert page.startswith(f"The probe of layer 1 does not reach 0.9 (accuracy {found['score']:.4f}) and is no")
    assert f"required: at least 0.9, missed by {0.9 - found['score']:.4f}\n" in page
    assert "other layers    the best measured is layer 2 (1.0000), which reaches 0.9\n" in page
    assert f"accuracy        {found['score']:.4f} [" in page
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

    bound = f"{error.verdict.observed:.4f}"
    title = f"The probe of layer 2 does not surely reach 1 (accuracy 1.0000, lower bound {bound} at 95% confidence)\n"
    assert str(error).startswith(title)
    assert f"true score      at least {bound} with 95% confidence; required: at least 1, missed by 0.0" in str(error)
    assert "true score      at least 0.99" in str(error)


def test_the_best_layer_is_called_so(model):
    error = failure(model, at_least=1.0, confidence=0.95, control=False, random_model=False)

    title = "The probe of layer 2, the best on the held-out part, does not surely reach 1 (accuracy 1.0000, lower"
    assert str(error).startswith(title)
    assert "other layers" not in str(error)


def test_only_the_layer_asked_for_is_probed(model):
    quick = {"at_least": 0.9, "control": False, "random_model": False}

    assert assert_probe_score(model, TASK, K, **quick).layers == (K,)
    assert assert_probe_score(model, TASK, K, layers=K, **quick).layers == (K,)
    assert assert_probe_score(model, TASK, **quick).layers == tuple(range(LAYERS + 1))
    with pytest.raises(CheckFailed, match="other layers    not probed; layers='all' shows them"):
        assert_probe_score(model, TASK, 1, **quick)


def test_labels_that_are_not_learned_count_as_wrong_and_the_page_says_so(model):
    few = planted_layer_task(6, seed=2)
    strange = load_task({
        "tokens": few.texts, "labels": [[label if label == "red" else "pink" for label in each] for each in few.labels]
    })  # fmt: skip

    with pytest.warns(BertologyWarning, match="count as wrong: 'pink'"):
        error = failure(model, K, at_least=0.9, task=strange, train=TASK, control=False, random_model=False)

    assert "not judged" not in str(error)
    assert re.search(r"\n  note +\d+ judged items have a label that is not trained on, and count as wrong", str(error))


def test_texts_without_labels_are_no_probing_task(model):
    with pytest.raises(InvalidArgument, match="it has texts and no labels"):
        assert_probe_score(model, load_task({"text": ["red1", "blue1"]}), at_least=0.5)


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
