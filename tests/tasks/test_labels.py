"""Label names and ids written down by hand; for a real model, its own logits taken one text at a time."""

from __future__ import annotations

import datasets
import pytest

from pytest_bertology import evaluate, load_task
from pytest_bertology.errors import LabelMismatch
from pytest_bertology.tasks import Task
from tests.tiny import says, sentences, tiny_model

MNLI = ("entailment", "neutral", "contradiction")


def task_of(*labels: object, names: tuple[str, ...] | None = None) -> Task:
    return Task("dev", "sequence-classification", tuple(map(str, range(len(labels)))), labels, label_names=names)


def test_names_are_matched_exactly():
    ids = task_of("b", "B", "a").label_ids({0: "a", 1: "B", 2: "b"}, "m")

    assert ids == (2, 1, 0)


def test_names_that_do_not_match_exactly_are_matched_regardless_of_case():
    assert task_of("positive", "Negative").label_ids({0: "NEGATIVE", 1: "POSITIVE"}, "m") == (1, 0)


def test_names_the_model_tells_apart_by_case_alone_are_not_guessed():
    with pytest.raises(LabelMismatch):
        task_of("A", "B").label_ids({0: "a", 1: "b", 2: "B"}, "m")


def test_the_models_own_order_of_names_counts_and_not_the_datas():
    model = {0: "contradiction", 1: "entailment", 2: "neutral"}

    assert task_of(*MNLI, names=MNLI).label_ids(model, "m") == (1, 2, 0)


def test_a_model_without_names_takes_the_datas_order():
    generic = {i: f"LABEL_{i}" for i in range(3)}

    assert task_of("contradiction", "entailment", names=MNLI).label_ids(generic, "m") == (2, 0)


@pytest.mark.parametrize("names", [None, ("entailment", "neutral")])
def test_a_model_without_names_is_not_matched_to_data_without_an_order_of_as_many(names):
    with pytest.raises(LabelMismatch):
        task_of("neutral", "entailment", names=names).label_ids({i: f"LABEL_{i}" for i in range(3)}, "m")


def test_ids_are_the_models_ids():
    assert task_of(2, 0).label_ids({0: "a", 1: "b", 2: "c"}, "m") == (2, 0)


def test_an_id_the_model_does_not_have_is_refused():
    with pytest.raises(LabelMismatch, match="dev has 0, 2, and m knows 'neg', 'pos'"):
        task_of(0, 2).label_ids({0: "neg", 1: "pos"}, "m")


def test_a_mismatch_shows_both_sides_and_what_to_do():
    with pytest.raises(LabelMismatch) as caught:
        task_of("good", "bad").label_ids({1: "pos", 0: "neg"}, "release")

    assert "dev has 'bad', 'good', and release knows 'neg', 'pos'" in str(caught.value)
    assert "config.id2label" in str(caught.value)
    assert caught.value.task_labels == ("bad", "good")
    assert caught.value.model_labels == ("neg", "pos")


def test_names_that_partly_match_are_a_mismatch():
    with pytest.raises(LabelMismatch):
        task_of("neg", "neutral").label_ids({0: "neg", 1: "pos"}, "m")


def test_word_labels_are_matched_word_by_word():
    task = Task("dev", "token-classification", (("Ann", "ran"), ("no",)), (("B-PER", "O"), ("O",)))

    assert task.label_ids({0: "o", 1: "b-per"}, "m") == ((1, 0), (0,))


@pytest.mark.parametrize("names", [("negative", "positive"), ("positive", "negative")])
def test_a_real_model_is_judged_by_its_names_whatever_the_datas_order(names):
    model, texts = tiny_model(), sentences(12)
    said = says(model.model, model.tokenizer, texts)
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(names))})
    labels = [names.index(("negative", "positive")[i]) for i in said]

    outcomes = evaluate(model, load_task(datasets.Dataset.from_dict({"text": texts, "label": labels}, features)))

    assert outcomes.labels.tolist() == said
    assert outcomes.score == 1.0


def test_the_order_of_names_of_a_second_task_with_the_same_data_counts():
    model, texts = tiny_model(), sentences(12)
    model.model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    labels = tuple(("no", "yes")[i] for i in says(model.model, model.tokenizer, texts))

    right, wrong = (
        evaluate(model, Task("dev", "sequence-classification", tuple(texts), labels, label_names=names)).score
        for names in (("no", "yes"), ("yes", "no"))
    )

    assert (right, wrong) == (1.0, 0.0)


def test_names_given_to_the_model_later_count():
    model, texts = tiny_model(), sentences(12)
    labels = [("negative", "positive")[i] for i in says(model.model, model.tokenizer, texts)]
    task = load_task({"text": texts, "label": labels})

    before = evaluate(model, task).score
    model.model.config.id2label = {0: "positive", 1: "negative"}

    assert (before, evaluate(model, task).score) == (1.0, 0.0)
