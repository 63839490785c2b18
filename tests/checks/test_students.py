"""Whether a student follows its teacher. Oracle: a teacher's own copy, left as it is or with noise added to it."""

from __future__ import annotations

import copy

import pytest
import torch

from pytest_bertology import CheckFailed, ResultStore, load_model, load_task, using_store
from pytest_bertology.checks.students import assert_student_follows
from pytest_bertology.checks.verdicts import hearing
from pytest_bertology.errors import InvalidArgument, NothingToJudge, UndefinedScore
from pytest_bertology.measures.distances import attention_distance, hidden_state_distance, logit_distance
from pytest_bertology.measures.evaluation import evaluate
from tests.families import task_for, texts, tokenizer, under_test

LETTERS = texts(6)


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture
def teacher():
    return under_test("bert")


@pytest.fixture
def noisy(teacher):
    """A copy of the teacher with noise in layer 1."""
    model = copy.deepcopy(teacher.model)
    with torch.no_grad():
        weight = model.bert.encoder.layer[1].attention.self.query.weight
        weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    return load_model(model, tokenizer=tokenizer())


def test_a_copy_follows_in_everything(teacher):
    twin = load_model(copy.deepcopy(teacher.model), tokenizer=tokenizer())

    found = assert_student_follows(
        twin, teacher, task_for("sequence-classification"), attention=0.0, hidden=0.0, logits=1e-9, score=1.0
    )

    assert found.attention.overall == found.hidden.overall == 0.0
    assert found.relative_score == 1.0
    assert found.logits.agreement == 1.0


def test_what_was_not_asked_for_is_not_measured(teacher, noisy):
    found = assert_student_follows(noisy, teacher, LETTERS, logits=10.0)

    assert found.attention is found.hidden is found.scores is None
    assert found.relative_score is None
    assert found.logits == logit_distance(noisy, teacher, LETTERS)


def test_texts_may_come_one_by_one(teacher, noisy):
    found = assert_student_follows(noisy, teacher, iter(LETTERS), attention=10.0, logits=10.0)

    assert found.attention.texts == found.logits.items == len(LETTERS)


def test_the_failure_lists_each_layers_distance(teacher, noisy):
    attention, hidden = (measure(noisy, teacher, LETTERS) for measure in (attention_distance, hidden_state_distance))

    with pytest.raises(CheckFailed) as failure:
        assert_student_follows(noisy, teacher, LETTERS, attention=1e-4, hidden=10.0)

    lines = str(failure.value).splitlines()
    assert lines[0].endswith("its attention distance is above what is required")
    assert f"  attention distance     {attention.overall:.4g}; required: at most 0.0001" in lines
    assert f"  hidden-state distance  {hidden.overall:.4g}; required: at most 10" in lines
    assert sum("layer 0 to layer 0 " in line for line in lines) == 2
    assert any(
        line.split() == ["layer", "1", "to", "layer", "1", f"{attention.of(1).value:.4g}", *line.split()[-1:]]
        for line in lines
    )
    assert failure.value.verdict.observed == attention.overall
    assert failure.value.verdict.details["hidden-state distance"] == hidden.overall


def test_bounds_may_be_shares_of_the_teachers_mean_square(teacher, noisy):
    share = hidden_state_distance(noisy, teacher, LETTERS).relative

    assert_student_follows(noisy, teacher, LETTERS, hidden=share + 1e-9, relative=True)
    with pytest.raises(CheckFailed, match="its relative hidden-state distance is above"):
        assert_student_follows(noisy, teacher, LETTERS, hidden=share * 0.99, relative=True)


def test_a_share_of_the_teachers_score(teacher, noisy):
    task = task_for("sequence-classification", 40)
    labels = evaluate(teacher, task).predictions.tolist()
    task = type(task)(task.name, task.kind, task.texts, tuple(labels))  # the teacher is right on all of them
    share = evaluate(noisy, task).score
    assert 0.0 < share < 1.0

    found = assert_student_follows(noisy, teacher, task, score=share)

    assert found.relative_score == pytest.approx(share)
    with pytest.raises(
        CheckFailed, match=r"its share of the teacher's score is below(.|\n)*accuracy .* on 40 examples"
    ):
        assert_student_follows(noisy, teacher, task, score=share + 0.01)


def test_where_less_is_better_the_share_is_of_the_students(monkeypatch):
    student, teacher = (under_test("gpt2", "causal-lm", seed=seed) for seed in (0, 1))
    task = task_for("causal-lm")
    share = evaluate(teacher, task).score / evaluate(student, task).score

    assert assert_student_follows(student, teacher, task, score=share).relative_score == pytest.approx(share)


def test_layers_heads_widths_and_temperature_are_handed_on(teacher):
    student = under_test("bert", seed=3, hidden_size=12, num_attention_heads=2, num_hidden_layers=1)
    data = texts(12)

    found = assert_student_follows(
        student, teacher, data, attention=1e9, hidden=1e9, logits=1e9, layer_map={0: 0}, reduce="mean",
        projection="least_squares", temperature=2.0,
    )  # fmt: skip

    assert str(found.attention.layers[0]) == "layer 0 to layer 0"
    assert found.hidden.texts == 6
    assert found.logits.temperature == 2.0


@pytest.mark.assets
def test_a_student_of_the_lower_layers_follows_in_attention_and_not_in_what_it_predicts(assets):
    teacher = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(60))
    student = teacher.without_layers([3, 4, 5])

    found = assert_student_follows(student, teacher, task, attention=1e-9, hidden=1e-9)

    assert len(found.hidden.layers) == 4
    with pytest.raises(CheckFailed, match="its KL divergence is above"):
        assert_student_follows(student, teacher, task, logits=0.1)
    with pytest.raises(CheckFailed, match="layer 2 to layer 5"):
        assert_student_follows(student, teacher, task, hidden=0.1, layer_map={0: 1, 1: 3, 2: 5})


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"attention": -1.0}, "attention"),
        ({"hidden": float("inf")}, "hidden"),
        ({"logits": "1"}, "logits"),
        ({"logits": True}, "logits"),
        ({"score": 0.0}, "score"),
        ({"score": 90}, r"score=90 .*up to 1, such as 0.97; did you mean 0.9\?"),
        ({"score": 900}, "such as 0.97$"),
        ({"score": 0.9}, "texts"),
    ],
)
def test_arguments_on_which_it_could_not_fail(teacher, noisy, wrong, name):
    with pytest.raises(InvalidArgument, match=name):
        assert_student_follows(noisy, teacher, LETTERS, **wrong)


def test_one_bound_at_least_is_needed(teacher, noisy):
    with pytest.raises(NothingToJudge, match=r"at least one of attention=, hidden=, logits= .* and score="):
        assert_student_follows(noisy, teacher, LETTERS)


@pytest.mark.parametrize(("more", "said"), [(1, "one more bound fails"), (2, "2 more bounds fail")])
def test_the_title_names_the_first_bound_that_fails(teacher, noisy, more, said):
    bounds = {"attention": 0.0, "hidden": 0.0, "logits": 0.0 if more == 2 else 1e9}

    with pytest.raises(CheckFailed) as failure:
        assert_student_follows(noisy, teacher, LETTERS, **bounds)

    title = str(failure.value).splitlines()[0]
    assert title.endswith(f"its attention distance is above what is required, and {said}")
    assert "; required: at most 0" in str(failure.value).split("hidden-state distance", 1)[1].splitlines()[0]
    assert failure.value.verdict.judged == f"attention distance (and {more} more)"


def test_a_model_is_no_student_of_its_own(teacher):
    with pytest.raises(NothingToJudge, match="its own teacher"):
        assert_student_follows(teacher, teacher, LETTERS, logits=1.0)


def test_a_teacher_of_score_zero_has_no_shares(teacher, noisy):
    task = task_for("sequence-classification", 20)
    wrong = [(label + 1) % 3 for label in evaluate(teacher, task).predictions.tolist()]
    task = type(task)(task.name, task.kind, task.texts, tuple(wrong))

    with pytest.raises(UndefinedScore, match="accuracy of 0 is none to take a share of"):
        assert_student_follows(noisy, teacher, task, score=0.9)


def test_the_verdict_is_heard(teacher, noisy):
    heard = []
    with hearing(heard.append):
        assert_student_follows(noisy, teacher, LETTERS, logits=5.0)

    assert (heard[0].check, heard[0].passed, heard[0].judged) == ("assert_student_follows", True, "KL divergence")
    assert heard[0].to_jsonable()["details"] == {"KL divergence": heard[0].observed, "teacher": teacher.name}
