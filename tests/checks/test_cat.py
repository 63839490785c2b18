"""The check on the CAT-score.

Oracle: the report of the measure, and thresholds on both sides of it.
"""

from __future__ import annotations

import pytest
import torch

from pytest_bertology import CheckFailed, assert_cat_score, cat_score
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument, MalformedData, NothingToJudge
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
