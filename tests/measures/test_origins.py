"""How values were made, against the same calls written out."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from pytest_bertology import attention_statistics, evaluate, head_importance
from pytest_bertology.errors import CannotMeasure
from pytest_bertology.measures.origins import origin_of
from tests.tiny import tiny_model, tiny_task


@pytest.fixture(scope="module")
def models():
    return tiny_model(seed=0), tiny_model(seed=1)


def test_a_value_is_made_of_another_model_as_it_was_made_of_its_own(models):
    one, other = models
    task = tiny_task(8)

    scores = head_importance(one, task, method="taylor")
    origin = origin_of(scores)

    assert (origin.measure, origin.model, origin.data) == ("head_importance", one, task)
    np.testing.assert_array_equal(origin.on(other).values, head_importance(other, task, "taylor").values)


def test_the_mask_in_force_acts_on_the_other_model_too(models):
    one, other = models
    task = tiny_task(8)

    with one.masked([(0, 1)]):
        found = evaluate(one, task)

    remade = origin_of(found).on(other)
    np.testing.assert_array_equal(remade.losses, evaluate(other, task, mask=[(0, 1)]).losses)
    assert (remade.losses != evaluate(other, task).losses).any()


def test_what_was_made_under_more_than_a_mask_is_not_remade(models):
    one, other = models
    with one.skipping([1]):
        found = evaluate(one, tiny_task(8))

    with pytest.raises(CannotMeasure, match="1 layer skipped"):
        origin_of(found).on(other)


def test_parts_of_a_report_and_plain_numbers_have_no_origin(models):
    statistics = attention_statistics(models[0], ["the film was good"])

    assert origin_of(statistics).data == ["the film was good"]
    assert origin_of(statistics.entropy) is None
    assert origin_of(0.5) is None


def test_notes_keep_nothing_alive():
    model = tiny_model()
    found = evaluate(model, tiny_task(8))
    origin, value, gone = origin_of(found), weakref.ref(found), weakref.ref(model)

    del found, model
    gc.collect()

    assert value() is None
    assert gone() is None
    assert origin.model is None
