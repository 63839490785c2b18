"""`assert_head_role` holds where a planted head has the role, and its page says what the head does instead."""

from __future__ import annotations

import pytest

from pytest_bertology import CheckFailed, assert_head_role, head_roles
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore, UnknownHead
from tests.families import texts as letters
from tests.families import under_test
from tests.planted_roles import CASE, COUNTS, DET, PREVIOUS, RAREST, role_model, role_sentences

RARE = {"frequencies": COUNTS, "frequent": 0}


@pytest.fixture(scope="module")
def planted():
    return role_model()


@pytest.fixture(scope="module")
def sentences():
    return role_sentences(120)


@pytest.fixture(scope="module")
def texts(sentences):
    return [sentence.text for sentence in sentences]


def test_a_head_that_has_the_role_passes(planted, sentences, texts):
    verdicts = []

    with hearing(verdicts.append):
        found = assert_head_role(planted, texts, PREVIOUS, "positional", offset=-1, at_least=1.0)
        assert_head_role(planted, texts, PREVIOUS, "positional")
        assert_head_role(planted, texts, RAREST, "rare", **RARE)
        assert_head_role(planted, sentences, DET, "syntactic", relation="det")
        assert_head_role(planted, sentences, CASE, "syntactic", relation="case")

    assert found.heads("positional") == (PREVIOUS,)
    assert [verdict.passed for verdict in verdicts] == [True] * 5
    assert [verdict.observed for verdict in verdicts] == [1.0] * 5
    first, _, rare, det, _ = verdicts
    assert (first.judged, first.required, first.heads) == ("greatest weights at offset -1", ">= 1", ("L0H1",))
    assert first.details["roles"] == ["positional"]
    assert (rare.judged, det.judged) == ("greatest weights at rare tokens", "accuracy on det, to_head")


def test_a_head_without_the_role_fails_and_says_what_it_does(planted, texts):
    with pytest.raises(CheckFailed) as failure:
        assert_head_role(planted, texts, DET, "positional", at_least=0.8, **RARE)

    page = str(failure.value)
    share, offset = failure.value.verdict.observed, int(failure.value.verdict.judged.split()[-1])
    assert page.startswith(
        f"L0H3 is not positional: {share:.4f} of its greatest weights are at offset {offset:+d}, its best, and 0.8 is "
    )
    assert f"it looks at       offset {offset:+d} most, {share:.4f} of its greatest weights; rare tokens 0." in page
    assert "required: at least 0.8" in page
    assert "-3: 0." in page
    assert "L0H1 1.0000 at -1" in page
    assert "positional heads  L0H1" in page
    assert failure.value.verdict.observed < 0.5


def test_another_role_is_named(planted, texts):
    with pytest.raises(CheckFailed, match=r"L1H0 is not positional: 0\.\d+ of .* is needed; it is rare\n"):
        assert_head_role(planted, texts, RAREST, "positional", **RARE)


def test_another_offset_is_another_role(planted, texts):
    assert_head_role(planted, texts, PREVIOUS, "positional")

    with pytest.raises(CheckFailed) as failure:
        assert_head_role(planted, texts, PREVIOUS, "positional", offset=1)

    assert "0.0000 of its greatest weights, at +1" in str(failure.value)
    assert "positional heads  none" in str(failure.value)
    assert "0.0000 of its greatest weights are at offset +1 and 0.9 is needed; it is positional\n" in str(failure.value)
    assert "it looks at       offset -1 most, 1.0000" in str(failure.value)


def test_a_head_that_points_elsewhere_than_to_rare_tokens_fails(planted, texts):
    with pytest.raises(CheckFailed) as failure:
        assert_head_role(planted, texts, PREVIOUS, "rare", **RARE)

    page = str(failure.value)
    assert page.startswith("L0H1 is not one that points to rare tokens: 0.")
    assert page.splitlines()[0].endswith("is needed; it is positional")
    assert "by chance" in page
    assert "L1H0 1.0000" in page


def test_a_head_that_tracks_another_relation_fails(planted, sentences):
    with pytest.raises(CheckFailed) as failure:
        assert_head_role(planted, sentences, DET, "syntactic", relation="case")

    page = str(failure.value)
    assert page.startswith("L0H3 is not syntactic: on case it is right 0.")
    assert "it looks at      offset " in page
    assert "the best offset" in page
    assert "1.1 times the best offset's on one relation" in page
    assert failure.value.verdict.judged.startswith("accuracy on case")


def test_what_the_texts_cannot_tell_is_an_error(planted, texts):
    with pytest.raises(UndefinedScore, match="without dependency trees"):
        assert_head_role(planted, texts, DET, "syntactic")
    with pytest.raises(UndefinedScore, match="12 different tokens were counted"):
        assert_head_role(planted, texts, RAREST, "rare")
    with pytest.raises(UndefinedScore, match="3 tokens have another"):
        assert_head_role(planted, ["det0 noun0 runs", "sings noun1"], PREVIOUS, "positional", offset=-1)


@pytest.mark.parametrize(
    ("role", "options", "said"),
    [
        ("previous", {}, "role='previous'"),
        ("rare", {"offset": -1}, "offset=-1"),
        ("positional", {"relation": "det"}, "relation='det'"),
        ("syntactic", {"relation": ["det"]}, "such as 'obj'"),
        ("syntactic", {"at_least": 0.5}, "assert_head_tracks"),
        ("positional", {"at_least": 0.0}, "at_least=0.0"),
        ("positional", {"at_least": True}, "at_least=True"),
        ("positional", {"offset": 0.5}, "offsets="),
    ],
)
def test_arguments_that_make_no_sense_are_refused(planted, texts, role, options, said):
    with pytest.raises(InvalidArgument, match=said):
        assert_head_role(planted, texts, PREVIOUS, role, **options)


def test_causal_models_never_look_ahead():
    model, data = under_test("gpt2", "causal-lm"), letters(12)

    with pytest.raises(InvalidArgument, match=r"offset=1 .* L0H0 never looks ahead"):
        assert_head_role(model, data, (0, 0), "positional", offset=1)
    with pytest.raises(UndefinedScore, match="never looks ahead"):
        head_roles(model, data, offsets=(1, 2)).heads("positional")
    with pytest.raises(CheckFailed) as failure:
        assert_head_role(model, data, (0, 0), "positional", offset=-1, at_least=1.0)
    assert "+1" not in str(failure.value)


def test_a_masked_head_has_no_role(planted, texts):
    with planted.masked([PREVIOUS]):
        with pytest.raises(NothingToJudge, match="L0H1 is masked"):
            assert_head_role(planted, texts, PREVIOUS, "positional")
        with pytest.raises(CheckFailed):
            assert_head_role(planted, texts, DET, "positional")


def test_texts_may_come_one_by_one(planted, texts):
    with pytest.raises(CheckFailed, match=r"it looks at +offset -1 most, 1\.0000"):
        assert_head_role(planted, iter(texts), PREVIOUS, "positional", offset=1)


def test_a_head_that_is_none_is_refused(planted, texts):
    with pytest.raises(UnknownHead):
        assert_head_role(planted, texts, (7, 0), "positional")
