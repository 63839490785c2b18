"""The check on published claims, against planted models; failure pages read line by line."""

from __future__ import annotations

import json

import pytest

from pytest_bertology import CheckFailed, assert_claim, claims, examine_claim
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument
from tests.planted_layers import planted_layer_model, planted_layer_task

SYNTAX = "middle layers carry most syntax"
TASK = planted_layer_task(150, 0)


def test_a_claim_that_holds_passes_and_is_told():
    heard = []

    with hearing(heard.append):
        found = assert_claim(SYNTAX, planted_layer_model(2, fading=True), task=TASK)

    (verdict,) = heard
    assert found.holds
    assert (verdict.check, verdict.passed, verdict.observed) == ("assert_claim", True, found.value)
    assert verdict.details["claim"] == SYNTAX
    assert verdict.details["outcome"] == "holds"
    assert json.loads(json.dumps(verdict.to_jsonable()))["details"]["interval"] == list(found.interval)


def test_a_claim_that_does_not_hold_fails():
    model = planted_layer_model(1, fading=True)

    with pytest.raises(CheckFailed) as raised:
        assert_claim(claims()[0], model, task=TASK)

    page = str(raised.value)
    found = examine_claim(SYNTAX, model, task=TASK)
    assert page.startswith(f"the claim {SYNTAX!r} does not hold: surely not above 0: accuracy of layer ")
    assert "less that of layer 1 (early)" in page
    assert f"{found.value:.4f} [{found.interval[0]:.4f}, {found.interval[1]:.4f}] at 95%" in page
    assert "required    surely above 0" in page
    assert "by layer    0: " in page
    assert "Rogers, Kovaleva, Rumshisky 2020" in page
    assert all(len(line) <= 120 for line in page.split("\n")[1:])
    assert raised.value.verdict.details["outcome"] == "does not hold"


def test_a_claim_that_cannot_be_decided_fails_and_says_so():
    with pytest.raises(CheckFailed, match=f"^the claim {SYNTAX!r} cannot be decided from this data: the interval"):
        assert_claim(SYNTAX, planted_layer_model(2), task=TASK)


def test_missing_data_and_unknown_claims_are_errors_and_no_verdicts():
    heard = []

    with hearing(heard.append):
        with pytest.raises(InvalidArgument, match=r'conllu="dev\.conllu"'):
            assert_claim(SYNTAX, planted_layer_model(2))
        with pytest.raises(InvalidArgument, match="early layers carry positional information"):
            assert_claim("early layers carry positions", planted_layer_model(2), texts=["a b"])

    assert heard == []
