"""A check on heads that track relations, against a planted model, and failure pages read line by line."""

from __future__ import annotations

from itertools import product

import pytest
from scipy import stats

from pytest_bertology import CheckFailed, Head, assert_head_tracks, head_relations, save_figure
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore, UnknownHead
from pytest_bertology.report.relation_figure import relation_figure
from tests.planted_relations import CASE, DET, VERBS, tracked_sentences, tracking_model

SENTENCES = tracked_sentences(60)


@pytest.fixture(scope="module")
def model():
    return tracking_model()


@pytest.mark.parametrize(("head", "relation", "direction"), [(DET, "det", "to_head"), (CASE, "case", "from_head")])
def test_a_planted_head_passes(model, head, relation, direction):
    heard = []

    with hearing(heard.append):
        found = assert_head_tracks(model, SENTENCES, head, relation, 1.0)

    assert (found.head, found.direction, found.accuracy) == (head, direction, 1.0)
    (verdict,) = heard
    assert (verdict.passed, verdict.observed, verdict.heads) == (True, 1.0, (str(head),))
    assert verdict.required == ">= 1, and better than the best offset"


def test_another_head_fails_and_the_planted_one_is_named(model):
    with pytest.raises(CheckFailed) as raised:
        assert_head_tracks(model, SENTENCES, (0, 1), "det", 0.9)

    page = str(raised.value)
    best = head_relations(model, SENTENCES).tracked("det", (0, 1))
    assert page.startswith("L0H1 does not track det: less often right than 0.9 and no")
    assert f"accuracy     {best.accuracy:.4f} [" in page
    assert "required: at least 0.9" in page
    assert "best head    L1H2 (to_head), 1.0000 [" in page
    assert f"{best.cases} cases in {best.sentences} of 30 sentences" in page
    assert f"best offset  {best.offset:+d}: {best.offset_accuracy:.4f}" in page
    assert "for example:\n    'det" in page
    assert ", and not 'noun" in page
    assert raised.value.verdict.observed == best.accuracy


def test_the_planted_head_fails_in_the_other_direction(model):
    with pytest.raises(CheckFailed, match=r"from_head \(the syntactic head attends to it\)"):
        assert_head_tracks(model, SENTENCES, DET, "det", 0.9, direction="from_head")


def test_a_head_must_beat_the_offset(model):
    """Where each determiner stands before its noun, an offset is as good as any head can be."""
    fixed = [
        [
            {"id": 1, "form": f"det{kind}", "head": 2, "deprel": "det"},
            {"id": 2, "form": f"noun{kind}", "head": 0, "deprel": "root"},
            *({"id": 3 + at, "form": verb, "head": 2, "deprel": "dep"} for at, verb in enumerate(verbs)),
        ]
        for kind in range(3)
        for verbs in product(VERBS, repeat=3)
    ]

    with pytest.raises(CheckFailed) as raised:
        assert_head_tracks(model, fixed, DET, "det", 0.9)

    assert "L1H2 does not track det: no better than the best fixed offset" in str(raised.value)
    assert "best offset  +1: 1.0000, a difference of +0.0000 [" in str(raised.value)
    assert "required: above 0, missed" in str(raised.value)
    assert "required: at least 0.9, kept" in str(raised.value)
    assert assert_head_tracks(model, fixed, DET, "det", 0.9, beats_offset=False).accuracy == 1.0


def test_a_masked_head_tracks_nothing(model):
    with model.masked([DET]), pytest.raises(NothingToJudge, match="L1H2 is masked"):
        assert_head_tracks(model, SENTENCES, DET, "det", 0.9)


def test_with_confidence_the_lower_bound_must_reach_it(model):
    found = assert_head_tracks(model, SENTENCES, DET, "det", 0.9, confidence=0.9)

    with pytest.raises(CheckFailed) as raised:
        assert_head_tracks(model, SENTENCES, DET, "det", 1.0, confidence=0.9)

    bound = raised.value.verdict.observed
    z = stats.norm.ppf(0.9)
    wilson = found.cases / (found.cases + z * z)  # all right: Wilson's one-sided bound
    assert 0.9 < bound <= wilson
    assert bound == pytest.approx(wilson, abs=0.01)
    page = " ".join(str(raised.value).split())
    assert page.startswith("L1H2 does not track det: not surely right as often as 1 model ")
    assert (
        f"at least {bound:.4f} with 90% confidence; required: at least 1, missed. The accuracy itself is enough" in page
    )
    assert "required: above 0, kept" in page
    assert raised.value.verdict.judged == "lower bound of the accuracy on det, to_head"


@pytest.mark.parametrize(("options", "said"), [
    ({"at_least": 1.1}, "at_least"),
    ({"at_least": True}, "at_least"),
    ({"at_least": 0.0, "beats_offset": False}, "could not fail"),
    ({"at_least": 0.5, "confidence": 0.5}, "confidence"),
    ({"at_least": 0.5, "confidence": True}, "confidence"),
    ({"at_least": 0.5, "direction": "up"}, "direction"),
    ({"at_least": 0.5, "relation": "dobj"}, "dobj.*obl, "),
    ({"at_least": 0.5, "select": SENTENCES}, "select"),
])  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(model, options, said):
    with pytest.raises(InvalidArgument, match=said):
        assert_head_tracks(model, SENTENCES, DET, **{"relation": "det", **options})


def test_a_head_that_is_none_is_refused_before_anything_runs(model):
    with pytest.raises(UnknownHead):
        assert_head_tracks(model, "no such file.conllu", (9, 9), "det", 0.5)


def test_too_few_cases_are_no_verdict(model):
    with pytest.raises(UndefinedScore, match="100 cases are needed"):
        assert_head_tracks(model, SENTENCES, DET, "det", 0.5, min_cases=100)


# -- the figure --------------------------------------------------------------------------------------------------


def test_the_figure_shows_heads_and_offsets(model, tmp_path):
    report = head_relations(model, SENTENCES)

    figure = relation_figure(report, "planted")

    (axis,) = figure.axes
    heads, offsets = (each.get_offsets()[:, 0].tolist() for each in axis.collections)
    assert heads == [best.accuracy for best in report.bests]
    assert offsets == [best.offset_accuracy for best in report.bests]
    labels = [tick.get_text() for tick in axis.get_yticklabels()]
    assert f"det ({report.cases('det')})  L1H2" in labels
    assert f"case ({report.cases('case')})  L2H0ᵀ" in labels
    assert save_figure(figure, tmp_path / "relations.png").stat().st_size > 0
    with pytest.raises(InvalidArgument, match="head_relations"):
        relation_figure(Head(0, 0))
