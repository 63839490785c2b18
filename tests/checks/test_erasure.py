"""The checks on erased properties against a planted classifier that knows colour and size, and uses the colour."""

from __future__ import annotations

import pytest

from pytest_bertology import CheckFailed, assert_property_unused, assert_property_used, evaluate
from pytest_bertology.errors import BertologyWarning, InvalidArgument, NothingToJudge, UndefinedScore
from tests.hooked import hooked
from tests.planted_properties import colour_classifier, colours_and_sizes

pytestmark = hooked

OPTIONS = {"pooling": "first", "random_controls": 2}


@pytest.fixture(scope="module")
def planted():
    return colour_classifier(), *colours_and_sizes(60, 1), *colours_and_sizes(160, 2)


def test_a_property_that_the_head_reads_is_used(planted):
    model, colours, _, train, _ = planted

    report = assert_property_used(model, colours, colours, 2, at_least=0.4, train=train, **OPTIONS)

    assert report.at(2).drop == 0.5
    with pytest.raises(CheckFailed) as failed:
        assert_property_unused(model, colours, colours, 2, 0.02, train=train, **OPTIONS)
    page = str(failed.value)
    assert page.startswith("accuracy of the given columns is not retained without the given columns at layer 2")
    assert "0.5000; required: at most 0.02" in page
    assert "1.0000 before, 0.5000 after, majority class 0.5000" in page
    assert "the property's own directions matter" in page
    assert failed.value.verdict.details["rank"] == 1


def test_a_property_that_is_there_and_not_read_is_unused(planted):
    model, colours, sizes, _, train = planted

    report = assert_property_unused(model, sizes, colours, 1, 0.0, train=train, **OPTIONS)

    assert report.at(1).erasure.only.accuracy_before == 1.0
    with pytest.raises(CheckFailed) as failed:
        assert_property_used(model, sizes, colours, 1, train=train, **OPTIONS)
    assert "does not need" in str(failed.value)
    assert "no more than that of any directions" in str(failed.value)


def test_few_examples_do_not_establish_that_nothing_is_lost(planted):
    model, colours, sizes, _, train = planted

    assert_property_unused(model, sizes, colours, 2, 0.1, train=train, confidence=0.95, **OPTIONS)
    with pytest.raises(CheckFailed, match=r"but 60 examples\s+cannot establish that"):
        assert_property_unused(model, sizes, colours, 2, 0.01, train=train, confidence=0.95, **OPTIONS)


def test_nothing_is_said_of_what_is_not_there(planted):
    model, colours, _, train, _ = planted

    for check, number in ((assert_property_unused, 0.1), (assert_property_used, 0.1)):
        with pytest.raises(NothingToJudge, match="there is nothing to erase"):
            check(model, colours, colours, 0, number, train=train, **OPTIONS)


def test_nothing_is_said_of_what_could_not_be_erased(planted, monkeypatch):
    model, colours, _, train, _ = planted
    from pytest_bertology.measures import erasure

    whole = erasure.leace

    def nothing(vectors, labels, classes):
        found = whole(vectors, labels, classes)
        return type(found)(found.mean, found.left[:, :0], found.right[:, :0])

    monkeypatch.setattr(erasure, "leace", nothing)

    with (
        pytest.raises(UndefinedScore, match=r"still gets 1\.0000"),
        pytest.warns(BertologyWarning, match="not all erased"),
    ):
        assert_property_unused(model, colours, colours, 2, 0.1, train=train, **OPTIONS)


def test_arguments_on_which_the_checks_could_not_fail_are_told(planted):
    model, colours, sizes, _, train = planted

    with pytest.raises(InvalidArgument, match="tolerance"):
        assert_property_unused(model, sizes, colours, 2, 1.0, train=train, **OPTIONS)
    with pytest.raises(InvalidArgument, match="at_least"):
        assert_property_used(model, sizes, colours, 2, -0.1, train=train, **OPTIONS)
    with pytest.raises(InvalidArgument, match="layer"):
        assert_property_used(model, sizes, colours, -1, 0.1, train=train, **OPTIONS)
    with pytest.raises(InvalidArgument, match="confidence"):
        assert_property_unused(model, sizes, colours, 2, 0.1, train=train, confidence=0.3, **OPTIONS)


def test_a_tolerance_that_a_model_that_knows_nothing_keeps_is_told(planted):
    """The baseline is 1.0 and half of the labels are one colour."""
    model, colours, sizes, _, train = planted

    assert_property_unused(model, sizes, colours, 1, 0.49, train=train, **OPTIONS)
    with pytest.raises(InvalidArgument, match=r"less than 0\.5000: accuracy of .* is 1\.0000, .* of all gets 0\.5000"):
        assert_property_unused(model, sizes, colours, 1, 0.5, train=train, **OPTIONS)


def test_a_drop_to_below_the_worst_score_is_told(planted):
    model, colours, _, train, _ = planted
    wrong = colours.subset(range(40))
    baseline = evaluate(model, wrong).score

    assert baseline == 1.0
    with pytest.raises(InvalidArgument, match=r"at most 1\.0000: accuracy of .* is 1\.0000 and cannot drop by more"):
        assert_property_used(model, colours, colours, 2, at_least=1.1, train=train, **OPTIONS)


def test_few_texts_that_cannot_tell_whether_the_property_is_there_are_told(planted):
    model, colours, _, train, _ = planted
    few = colours.subset(range(3))

    with pytest.raises(NothingToJudge) as told:
        assert_property_unused(model, few, colours, 2, 0.1, train=train, **OPTIONS)

    assert "gets 1.0000 at layer 2" in str(told.value)
    assert "not surely more (the difference is +" in str(told.value)
    assert "3 texts are too few to tell: take more of them, or train=" in str(told.value)
