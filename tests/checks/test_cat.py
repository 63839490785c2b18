"""The check on the CAT-score.

Oracle: the report of the measure, and thresholds on both sides of it.
"""

from __future__ import annotations

import pytest
import torch

from pytest_bertology import Batching, CheckFailed, Head, assert_cat_score, cat_score
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import BertologyWarning, InvalidArgument, MalformedData, NothingToJudge
from pytest_bertology.measures import cat
from pytest_bertology.measures.cat_formula import neighbour_attention
from tests.families import under_test
from tests.snippets import functions


@pytest.fixture(scope="module")
def near_sighted():
    """A model whose tokens all attend to those right before them, as far as positions tell."""
    model = under_test("bert", max_position_embeddings=160)
    with torch.no_grad():
        embeddings = model.model.bert.embeddings
        for table in (embeddings.word_embeddings, embeddings.token_type_embeddings):
            table.weight.zero_()
        angle = torch.arange(160.0) / 6.0
        embeddings.position_embeddings.weight.zero_()
        embeddings.position_embeddings.weight[:, 0], embeddings.position_embeddings.weight[:, 1] = (
            angle.sin(), angle.cos(),
        )  # fmt: skip
        embeddings.LayerNorm.weight.fill_(1.0)
        embeddings.LayerNorm.bias.zero_()
        own = model.model.bert.encoder.layer[0].attention.self
        for part in (own.query, own.key):
            part.weight.zero_()
            part.bias.zero_()
            for head in range(4):
                part.weight[6 * head, 0] = part.weight[6 * head + 1, 1] = 3.0
    return model


CODE = functions(24, longest=140)


def test_a_model_that_attends_near_by_passes(near_sighted):
    heard = []
    with hearing(heard.append):
        report = assert_cat_score(near_sighted, CODE, 0.1, layer=0)

    assert report.score > report.control.score
    (verdict,) = heard
    assert verdict.passed
    assert (verdict.observed, verdict.examples) == (report.score, report.scored)
    assert verdict.required == ">= 0.1, above random attention"


def test_one_that_does_less_than_required_fails(near_sighted):
    with pytest.raises(CheckFailed) as raised:
        assert_cat_score(near_sighted, CODE, 0.9, layer=0)

    message = str(raised.value)
    assert "attends less along the syntax tree than required: CAT-score 0." in message
    assert "required: at least 0.9" in message
    assert "best heads" in message
    assert raised.value.verdict.check == "assert_cat_score"


def test_one_that_looks_anywhere_fails_however_low_the_bar():
    model = under_test("bert", max_position_embeddings=160)
    with torch.no_grad():
        own = model.model.bert.encoder.layer[1].attention.self
        own.query.weight.zero_()
        own.query.bias.zero_()

    with pytest.raises(CheckFailed, match="does not attend along the syntax tree more than random attention does"):
        assert_cat_score(model, CODE, 0.0)


def test_the_score_alone_may_be_asked_for(near_sighted):
    few = CODE[:3]
    score = cat_score(near_sighted, few, layer=0).score

    assert assert_cat_score(near_sighted, few, score, layer=0, above_random=False).score == score
    with pytest.raises(NothingToJudge, match=r"3 snippets with a score cannot be told from chance.*Give 5 or more"):
        assert_cat_score(near_sighted, few, score, layer=0)


def test_more_than_neighbours_may_be_asked_for_and_the_page_draws_the_conclusion(near_sighted):
    with pytest.raises(CheckFailed) as raised:
        assert_cat_score(near_sighted, CODE, 0.1, layer=0, above_neighbours=True)

    page = str(raised.value)
    assert "does not attend along the syntax tree more than attention by distance alone does" in page
    assert "nothing here shows more than the order of tokens." in page.splitlines()[-1]
    assert raised.value.verdict.required == ">= 0.1, above random attention, above attention by distance alone"


@pytest.mark.parametrize(
    ("at_least", "options"),
    [(0.0, {"above_random": False}), (-0.1, {}), (1.1, {}), (True, {}), ("a", {}), (float("nan"), {})],
)
def test_thresholds_that_say_nothing_are_refused(near_sighted, at_least, options):
    with pytest.raises(InvalidArgument, match="at_least="):
        assert_cat_score(near_sighted, CODE, at_least, **options)


def test_other_languages_are_read_by_their_grammars(near_sighted):
    code = [f"int f{name}(int a, int b) {{ return a + b; }}" for name in "uvwxyz"]

    assert assert_cat_score(near_sighted, code, 0.01, language="c", layer=0, above_random=False).language == "c"
    with pytest.raises(MalformedData, match=r"snippets\[0\]: it cannot be read as python"):
        assert_cat_score(near_sighted, code, 0.01)


def test_repeated_snippets_are_no_more_cases(near_sighted):
    with (
        pytest.warns(BertologyWarning, match="6 of 10 snippets are repeated"),
        pytest.raises(NothingToJudge, match="4 different snippets with a score cannot be told from chance"),
    ):
        assert_cat_score(near_sighted, [*CODE[:4], *CODE[:4], *CODE[:2]], 0.1, layer=0)


def test_a_score_above_neighbours_passes(near_sighted, monkeypatch):
    # Neighbours that know less: attention by distance from the far end of the text.
    monkeypatch.setattr(
        cat, "neighbour_attention", lambda tokens, causal: neighbour_attention(tokens, causal)[:, ::-1].copy()
    )

    report = assert_cat_score(near_sighted, CODE, 0.1, layer=0, above_neighbours=True)

    assert report.above_neighbours
    assert "shows more than the order of tokens" in report.conclusion


def test_arguments_of_the_measure_are_passed_on(near_sighted):
    options = {
        "layer": 0, "stack": None, "heads": [(0, 1)], "token_types": ["identifier", "("], "errors": "skip",
        "batching": Batching(tokens=200),
    }  # fmt: skip
    report = assert_cat_score(near_sighted, [*CODE, "x ="], 0.01, above_random=False, **options)

    assert report.scores == cat_score(near_sighted, [*CODE, "x ="], **options).scores
    assert (list(report.head_scores), report.token_types) == ([Head(0, 1)], ("identifier", "("))
    assert report.unreadable == (len(CODE),)
