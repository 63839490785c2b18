"""Calls that are answered from a folder. The oracle: the same call without a memory, and counts of what ran."""

from __future__ import annotations

import json
import os
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pytest_bertology
from pytest_bertology import CheckFailed, HeadScores, load_model
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.deferred.calls import NOT_ANSWERED
from pytest_bertology.deferred.handles import ModelHandle, is_loaded, unwrapped
from pytest_bertology.deferred.memory import Memory, remembering
from pytest_bertology.deferred.models import model_handle
from pytest_bertology.engine.announcing import listening
from pytest_bertology.errors import BertologyWarning, InvalidArgument, UnknownHead
from pytest_bertology.models import ModelUnderTest
from tests.tiny import LABELS, says, sentences, tiny_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answered") / "tiny"
    model = tiny_model()
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def task() -> Any:
    model = tiny_model()
    texts = sentences(24)
    labels = says(model.model, model.tokenizer, texts)
    rows = {"text": texts, "label": [LABELS[label] for label in labels]}
    import datasets

    return pytest_bertology.load_task(datasets.Dataset.from_dict(rows))


class Session:
    """A session on one folder of answers: its model, and what was asked of it."""

    def __init__(self, folder: Path, source: Path, **options: Any) -> None:
        self.loads = 0
        self.memory = Memory(folder)

        def load() -> ModelUnderTest:
            self.loads += 1
            return load_model(source, **options)

        self.model = model_handle(str(source), options, load, self.memory)


@pytest.fixture
def session(tmp_path: Path, checkpoint: Path) -> Iterator[Callable[..., Session]]:
    """Start a new session on the same folder: nothing is left of the one before but its files."""
    open_: list[Any] = []

    def start(source: Path = checkpoint, **options: Any) -> Session:
        while open_:
            open_.pop().__exit__(None, None, None)
        found = Session(tmp_path / "store", source, **options)
        context = remembering(found.memory)
        context.__enter__()
        open_.append(context)
        return found

    yield start
    while open_:
        open_.pop().__exit__(None, None, None)


def test_a_check_that_passed_before_passes_without_the_model(session, task):
    verdicts: list[Verdict] = []
    with hearing(verdicts.append):
        for _ in range(2):
            now = session()
            pytest_bertology.assert_metric_retained(now.model, task, heads=[(0, 1)], tolerance=0.9)

    assert (now.loads, now.memory.answered, now.memory.computed) == (0, 1, 0)
    assert not is_loaded(now.model)
    assert len(verdicts) == 2
    assert json.dumps(verdicts[0].to_jsonable()) == json.dumps(verdicts[1].to_jsonable())


def test_a_check_that_failed_before_fails_with_the_same_words(session, task):
    told = []
    for _ in range(2):
        now = session()
        with pytest.raises(CheckFailed) as failure:
            pytest_bertology.assert_metric_retained(now.model, task, prune=1.0, tolerance=0.0)
        told.append(failure.value)

    assert now.loads == 0
    assert str(told[0]) == str(told[1])
    assert told[0].verdict.observed == told[1].verdict.observed
    # Hypothesis takes failures that are raised in two places for two.
    raised = [list(traceback.walk_tb(error.__traceback__))[-1] for error in told]
    assert raised[0][0].f_code is raised[1][0].f_code
    assert raised[0][1] == raised[1][1]


def test_results_tell_what_was_asked_before_and_are_computed_for_the_rest(session, task):
    first = session()
    plain = pytest_bertology.evaluate(first.model, task)
    score, table = plain.score, pytest_bertology.ablate_heads(first.model, task).table()

    now = session()
    outcomes = pytest_bertology.evaluate(now.model, task)
    assert (outcomes.score, pytest_bertology.ablate_heads(now.model, task).table()) == (score, table)
    assert now.loads == 0
    assert outcomes.losses.shape == (24,)
    assert now.loads == 1


def test_a_result_passes_for_what_it_is(session, task):
    session()
    pytest_bertology.evaluate(session().model, task)
    now = session()
    outcomes = pytest_bertology.evaluate(now.model, task)

    assert "24 examples" in repr(outcomes)
    assert now.loads == 0
    assert isinstance(outcomes, pytest_bertology.Outcomes)
    assert len(outcomes) == 24
    assert isinstance(now.model, ModelUnderTest)


def test_scores_go_from_one_call_to_the_next(session, task):
    found = []
    for _ in range(2):
        now = session()
        scores = pytest_bertology.head_importance(now.model, task)
        assert isinstance(scores, HeadScores)
        pytest_bertology.assert_heads_in_top(scores, [scores.top(1)[0]], k=2)
        found.append((scores.top(3), scores.rank((1, 2)), scores.method))

    assert now.loads == 0
    assert found[0] == found[1]


def test_masks_in_force_are_part_of_what_is_asked(session, task, checkpoint):
    now = session()
    with now.model.masked([(0, 1), (1, 2)]):
        masked = pytest_bertology.evaluate(now.model, task).losses.tolist()
    plain = pytest_bertology.evaluate(now.model, task).losses.tolist()
    assert masked != plain

    again = session()
    with again.model.masked([(1, 2)]), again.model.masked([(0, 1)]):
        pytest_bertology.evaluate(again.model, task)
        assert (again.loads, again.memory.answered) == (0, 1)
        assert unwrapped(pytest_bertology.evaluate(again.model, task)).losses.tolist() == masked
        assert again.loads == 1
    live = load_model(checkpoint)
    assert pytest_bertology.evaluate(live, task).losses.tolist() == plain
    assert pytest_bertology.evaluate(again.model, task).losses.tolist() == plain


def test_a_mask_that_is_not_of_the_model_is_refused_without_it(session, task):
    session()
    now = session()

    with pytest.raises(UnknownHead), now.model.masked([(9, 9)]):
        pass
    assert now.loads == 0


def test_other_weights_another_tokenizer_and_other_data_are_asked_anew(session, task, checkpoint, tmp_path):
    import shutil

    pytest_bertology.evaluate(session().model, task)
    now = session()
    pytest_bertology.evaluate(now.model, task.subset(range(12)))
    assert now.memory.computed == 1

    other = tmp_path / "tiny"
    shutil.copytree(checkpoint, other)
    assert session(other).loads == 0  # the same files elsewhere
    content = (other / "config.json").read_text().replace('"layer_norm_eps": 1e-12', '"layer_norm_eps": 1e-3')
    (other / "config.json").write_text(content)
    changed = session(other)
    pytest_bertology.evaluate(changed.model, task)
    assert (changed.loads, changed.memory.computed) == (1, 1)


def test_a_file_that_changes_before_it_is_loaded_is_not_taken_for_what_it_was(session, task, checkpoint, tmp_path):
    import shutil

    other = tmp_path / "tiny"
    shutil.copytree(checkpoint, other)
    pytest_bertology.evaluate(session(other).model, task)
    now = session(other)
    os.utime(other / "model.safetensors", ns=(1, 1))

    pytest_bertology.evaluate(now.model, task)

    assert (now.loads, now.memory.answered, now.memory.computed) == (1, 0, 0)


def test_weights_changed_in_memory_are_computed_and_not_kept(session, task):
    import torch

    now = session()
    before = pytest_bertology.evaluate(now.model, task).losses.tolist()
    with torch.no_grad():
        now.model.model.classifier.weight.mul_(-1.0)
    after = pytest_bertology.evaluate(now.model, task).losses.tolist()

    assert after != before
    assert pytest_bertology.evaluate(session().model, task).losses.tolist() == before


def test_functions_of_the_users_own_are_called(session, task):
    calls = []

    def method(model: Any, task: Any) -> Any:
        calls.append(type(model))
        return range(len(model.heads))

    for _ in range(2):
        pytest_bertology.head_importance(session().model, task, method)

    assert calls == [ModelUnderTest] * 2


def test_a_named_method_of_the_users_own_is_called(session, task):
    calls = []

    def method(model: Any, task: Any) -> Any:
        calls.append(1)
        return range(len(model.heads))

    with pytest_bertology.using_importance_method("mine", method):
        for _ in range(2):
            pytest_bertology.head_importance(session().model, task, "mine")

    assert len(calls) == 2


def test_warnings_are_given_again(session, task):
    other = {"negative": "positive", "positive": "negative"}
    wrong = replace(task, labels=tuple(other[label] for label in task.labels))
    told = []
    for _ in range(2):
        now = session()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pytest_bertology.assert_metric_retained(now.model, wrong, heads=[(0, 1)], tolerance=0.9)
        told.append([str(each.message) for each in caught if issubclass(each.category, BertologyWarning)])

    assert now.loads == 0
    assert "no better than" in told[0][0]
    assert {each.filename for each in caught} == {__file__}
    assert told[0] == told[1]


def test_errors_are_not_answers(session, task):
    for _ in range(2):
        now = session()
        with pytest.raises(InvalidArgument):
            pytest_bertology.assert_metric_retained(now.model, task, heads=[(0, 1)], tolerance=-1.0)
    assert now.memory.answered == 0


def test_who_draws_results_gets_them(session, task):
    pytest_bertology.head_importance(session().model, task)
    now = session()
    heard: list[Any] = []

    with listening(heard.append):
        pytest_bertology.head_importance(now.model, task)

    assert [each.kind for each in heard] == ["importance"]
    assert isinstance(heard[0].value, HeadScores)


def test_a_damaged_answer_is_computed_again(session, task, tmp_path):
    before = pytest_bertology.evaluate(session().model, task).score
    for path in (tmp_path / "store").rglob("*.json"):
        path.write_bytes(path.read_bytes()[:-9])

    def again() -> Session:
        now = session()
        assert pytest_bertology.evaluate(now.model, task).score == before
        return now

    with pytest.warns(BertologyWarning, match="damaged"):
        now = again()

    assert now.memory.computed == 1


def test_an_answer_in_anothers_place_is_none(tmp_path):
    memory = Memory(tmp_path)
    one, other = memory.key("one"), memory.key("other")
    for key in (one, other):
        memory.keep(key, {"value": key})
    paths = {key: next(tmp_path.rglob(f"{key}.json")) for key in (one, other)}

    paths[one].write_bytes(paths[other].read_bytes())

    assert memory.find(other) == {"value": other}
    with pytest.warns(BertologyWarning, match="damaged"):
        assert memory.find(one) is None


def test_a_folder_that_cannot_be_written_to_costs_a_warning(task, checkpoint, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")

    def score() -> float:
        now = Session(blocked, checkpoint)
        with remembering(now.memory):
            return float(pytest_bertology.evaluate(now.model, task).score)

    with pytest.warns(BertologyWarning, match="cannot be stored"):
        assert score() == 1.0


def test_a_model_that_brings_code_along_is_loaded_as_ever(checkpoint, tmp_path):
    memory = Memory(tmp_path)

    assert model_handle(str(checkpoint), {"trust_remote_code": True}, lambda: "loaded", memory) == "loaded"
    assert model_handle("someone/model", {}, lambda: "loaded", memory) == "loaded"


def test_each_public_function_is_known_to_be_answered_or_not():
    functions = {name for name in pytest_bertology.__all__ if name[0].islower()}

    assert functions >= NOT_ANSWERED
    for name in functions - NOT_ANSWERED:
        assert getattr(pytest_bertology, name).__doc__


def test_a_handle_is_asked_for_nothing_by_its_own_tools(session):
    first = session()
    now = session()

    assert repr(now.model) == repr(unwrapped([first.model])[0])
    assert now.model.name == "tiny"
    assert now.model.heads.describe() == "2 layers of 4 heads"
    assert (type(now.model), now.loads) == (ModelHandle, 0)
