"""A search that was interrupted goes on: the same result, and no set of heads evaluated twice.

Oracles: the search that was not interrupted, and a log of every mask that was evaluated.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_bertology import HeadScores, ResultStore, find_prunable_heads, using_store
from pytest_bertology.errors import CannotResume
from pytest_bertology.search import checkpoints, judging
from tests.tiny import tiny_model, tiny_task

SEARCHES = ("threshold", "greedy", "beam", "astar")


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def task(model):
    return tiny_task(24, model)


@pytest.fixture
def log(monkeypatch):
    """Every mask evaluated, few at a time."""
    ran = []
    sweep, single = judging.evaluate_masks, judging.evaluate_exactly

    def watched_sweep(model, task, masks, **options):
        ran.extend(masks)
        return sweep(model, task, masks, **options)

    def watched_single(model, task, mask, batching):
        ran.append(mask)
        return single(model, task, mask, batching)

    monkeypatch.setattr(judging, "_CHUNK", 3)
    monkeypatch.setattr(judging, "evaluate_masks", watched_sweep)
    monkeypatch.setattr(judging, "evaluate_exactly", watched_single)
    return ran


class Killed(BaseException):
    pass


@pytest.mark.parametrize("saves", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("search", SEARCHES)
def test_a_search_interrupted_anywhere_goes_on_where_it_was(model, task, search, saves, log, tmp_path, monkeypatch):
    path = tmp_path / "deep" / "search.json"
    expected = find_prunable_heads(model, task, floor=0.6, search=search)
    whole = list(log)
    log.clear()
    plain, left = checkpoints.Checkpoint.save, iter(range(saves))

    def killed(self, **options):
        plain(self, **options)
        if next(left, None) is None:
            raise Killed

    monkeypatch.setattr(checkpoints.Checkpoint, "save", killed)
    try:
        find_prunable_heads(model, task, floor=0.6, search=search, resume=path)
    except Killed:
        pass
    else:
        assert search == "threshold"
    monkeypatch.setattr(checkpoints.Checkpoint, "save", plain)

    found = find_prunable_heads(model, task, floor=0.6, search=search, resume=path)

    assert found == expected
    assert len(log) == len(set(log))
    assert set(log) == set(whole)


@pytest.mark.parametrize("budget", [7, 20])
def test_a_search_out_of_budget_goes_on_with_a_larger_one(model, task, budget, log, tmp_path):
    path = tmp_path / "search.json"
    expected = find_prunable_heads(model, task, floor=0.6)
    log.clear()

    first = find_prunable_heads(model, task, floor=0.6, budget=budget, resume=path)
    second = find_prunable_heads(model, task, floor=0.6, resume=path)

    assert (first.evaluations, first.stopped) == (budget, f"its budget of {budget} evaluations was used up")
    assert second == expected
    assert len(log) == len(set(log))


def test_a_finished_search_is_read_and_not_repeated(model, task, log, tmp_path):
    path = tmp_path / "search.json"
    first = find_prunable_heads(model, task, floor=0.6, search="astar", resume=path)
    log.clear()

    again = find_prunable_heads(model, task, floor=0.6, search="astar", resume=str(path))

    assert again == first
    assert log == []


@pytest.mark.slow
def test_a_killed_process_leaves_a_file_from_which_another_goes_on(tmp_path):
    path = tmp_path / "search.json"
    program = f"""
import os, signal
from pytest_bertology import find_prunable_heads
from pytest_bertology.search import checkpoints, judging
from tests.tiny import tiny_model, tiny_task

judging._CHUNK = 3
plain, left = os.replace, iter(range(6))
replace = checkpoints.Path.replace

def killed(self, target):
    if next(left, None) is None:
        os.kill(os.getpid(), {int(signal.SIGKILL)})  # the new file is written, and not yet in place
    return replace(self, target)

checkpoints.Path.replace = killed
model = tiny_model()
find_prunable_heads(model, tiny_task(24, model), floor=0.6, resume={str(path)!r})
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    saved = json.loads(path.read_text())
    model = tiny_model()
    task = tiny_task(24, model)

    found = find_prunable_heads(model, task, floor=0.6, resume=path)

    assert 3 < len(saved["evaluated"]) < found.evaluations
    assert saved["evaluated"].items() <= json.loads(path.read_text())["evaluated"].items()
    assert found == find_prunable_heads(model, task, floor=0.6)


def test_a_save_that_fails_leaves_the_file_as_it_was(model, task, tmp_path, monkeypatch):
    path = tmp_path / "search.json"
    find_prunable_heads(model, task, floor=0.6, budget=8, resume=path)
    before = path.read_bytes()

    def full(content, file):
        file.write('{"schema": ')
        raise OSError("no space left")

    monkeypatch.setattr(checkpoints.json, "dump", full)
    with pytest.raises(CannotResume, match="cannot be written"):
        find_prunable_heads(model, task, floor=0.6, resume=path)

    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["search.json"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"floor": 0.7}, "floors"),
        ({"search": "beam"}, "beam, search"),
        ({"relative": True}, "relative"),
        ({"least_per_layer": 1}, "least_per_layer"),
    ],
)
def test_a_file_of_another_search_is_refused_and_says_what_differs(model, task, changes, named, tmp_path):
    path = tmp_path / "search.json"
    find_prunable_heads(model, task, floor=0.6, resume=path)

    with pytest.raises(CannotResume, match=f"its {named} differ"):
        find_prunable_heads(model, task, **{"floor": 0.6, **changes}, resume=path)


def test_a_file_of_another_model_task_metric_or_mask_is_refused(model, task, tmp_path):
    path = tmp_path / "search.json"
    find_prunable_heads(model, task, floor=0.6, resume=path)

    with pytest.raises(CannotResume, match="its model differ"):
        find_prunable_heads(tiny_model(seed=1), task, floor=0.6, resume=path)
    with pytest.raises(CannotResume, match="its tasks differ"):
        find_prunable_heads(model, task.subset(range(20)), floor=0.6, resume=path)
    with pytest.raises(CannotResume, match="its tasks differ"):
        find_prunable_heads(model, task.with_metric("f1"), floor=0.6, resume=path)
    with model.masked([(0, 0)]), pytest.raises(CannotResume, match="its masks in force differ"):
        find_prunable_heads(model, task, floor=0.6, resume=path)


def test_scores_to_go_by_and_the_step_are_part_of_a_threshold_search(model, task, tmp_path):
    path = tmp_path / "search.json"
    scores = HeadScores(range(8), model.heads, "mine")
    find_prunable_heads(model, task, floor=0.6, search="threshold", by=scores, resume=path)

    other = replace(scores, values=scores.values[::-1])
    with pytest.raises(CannotResume, match="its by, step differ"):
        find_prunable_heads(model, task, floor=0.6, search="threshold", by=other, step=0.5, resume=path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "not a search's checkpoint"),
        ("[]", "not a search's checkpoint"),
        ('{"schema": "other"}', "its schema is 'other'"),
        ('{"schema": "pytest-bertology search 1"}', "not a search's checkpoint"),
    ],
)
def test_a_damaged_file_is_refused(model, task, content, reason, tmp_path):
    path = tmp_path / "search.json"
    path.write_text(content)

    with pytest.raises(CannotResume, match=reason):
        find_prunable_heads(model, task, floor=0.6, resume=path)
    with pytest.raises(CannotResume, match="cannot be read"):
        find_prunable_heads(model, task, floor=0.6, resume=tmp_path)


def test_a_file_that_takes_long_to_write_is_written_less_often_and_at_the_end(model, task, tmp_path, monkeypatch):
    path = tmp_path / "search.json"
    wrote, clock = [], [0.0]
    dump = json.dump

    def slow(content, file):
        clock[0] += 1.0
        wrote.append(len(content["evaluated"]))
        dump(content, file)

    def tick():
        clock[0] += 2.0
        return clock[0]

    monkeypatch.setattr(checkpoints.json, "dump", slow)
    monkeypatch.setattr(checkpoints.time, "monotonic", tick)
    monkeypatch.setattr(judging, "_CHUNK", 1)

    found = find_prunable_heads(model, task, floor=0.6, resume=path)

    assert len(wrote) < 0.2 * found.evaluations
    assert wrote[-1] == found.evaluations + 1
