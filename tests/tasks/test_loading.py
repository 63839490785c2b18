"""Tasks from columns written by hand, held against what those columns plainly say."""

from __future__ import annotations

import datasets
import numpy as np
import pandas
import pytest
import torch

from pytest_bertology import load_task
from pytest_bertology.errors import (
    EmptyTask,
    InvalidArgument,
    MalformedData,
    MissingColumn,
    SingleClass,
    UnknownMetric,
)
from pytest_bertology.tasks import METRICS

TWO = {"label": [0, 1]}


def with_columns(*names: str) -> dict[str, list[object]]:
    """Two examples; each text column holds its own name."""
    return {name: [f"{name} a", f"{name} b"] for name in names}


# -- which columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sentence", "text", "content", "review"])
def test_the_text_column_is_known_by_its_usual_names(name):
    task = load_task({"id": ["1", "2"], **with_columns(name), **TWO})

    assert task.texts == (f"{name} a", f"{name} b")
    assert task.labels == (0, 1)
    assert (task.kind, task.pairs, task.metric.name) == ("sequence-classification", False, "accuracy")


@pytest.mark.parametrize(
    "pair",
    [("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("question", "sentence")],
)
def test_pairs_are_known_by_their_usual_names(pair):
    task = load_task({**with_columns(*reversed(pair)), **TWO})

    assert task.pairs
    assert task.texts == ((f"{pair[0]} a", f"{pair[1]} a"), (f"{pair[0]} b", f"{pair[1]} b"))


def test_columns_can_be_named():
    columns = {**with_columns("sentence", "body", "title"), "stars": [1, 2], **TWO}

    single = load_task(columns, text="body", label="stars")
    pair = load_task(columns, text=["title", "body"])

    assert (single.texts, single.labels) == (("body a", "body b"), (1, 2))
    assert (pair.texts, pair.labels) == ((("title a", "body a"), ("title b", "body b")), (0, 1))


@pytest.mark.parametrize("name", ["label", "labels", "score"])
def test_the_label_column_is_known_by_its_usual_names(name):
    assert load_task({**with_columns("text"), name: [1, 0]}).labels == (1, 0)


def test_without_a_label_column_the_task_is_language_modelling():
    task = load_task({**with_columns("text"), "id": ["1", "2"]})

    assert (task.kind, task.labels, task.metric.name) == ("language-modelling", None, "perplexity")
    assert task.texts == ("text a", "text b")


def test_a_task_of_the_same_text_over_and_over_is_none_for_its_labels_alone():
    assert len(load_task({"text": ["the same", "the same"]})) == 2


@pytest.mark.parametrize(
    ("columns", "options", "wanted", "option"),
    [
        (with_columns("body"), {}, "no text column that is known by name; its columns are 'body', 'label'", "text="),
        (with_columns("text", "review"), {}, r"no single text column \(text and review could be\)", "text="),
        (with_columns("text"), {"text": "body"}, "no text column 'body'; its columns are 'text', 'label'", "text="),
        (with_columns("text"), {"text": ("text", "body")}, "no text column 'body'", "text="),
        (with_columns("text"), {"label": "gold"}, "no label column 'gold'", "label="),
        (
            {**with_columns("text"), "score": [1, 2]},
            {},
            r"no single label column \(label and score could be\)",
            "label=",
        ),
    ],
)
def test_a_missing_or_ambiguous_column_is_refused_with_those_there_are(columns, options, wanted, option):
    with pytest.raises(MissingColumn, match=wanted) as caught:
        load_task({**columns, **TWO}, **options)

    assert str(caught.value).endswith(f"Name the right one with {option}.")


@pytest.mark.parametrize("text", [[], ["text", "text", "text"]])
def test_texts_are_one_column_or_two(text):
    with pytest.raises(InvalidArgument, match="one column, or two"):
        load_task({**with_columns("text"), **TWO}, text=text)


# -- what they hold ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [None, 5, ["a", "word"], float("nan")])
def test_a_text_that_is_none_is_refused_with_its_example(bad):
    with pytest.raises(MalformedData, match=r"column 'text', example 1: .* is not text"):
        load_task({"text": ["a", bad], **TWO})


@pytest.mark.parametrize("source", [{}, {"text": [], "label": []}, datasets.Dataset.from_dict({"text": []})])
def test_no_examples_are_no_task(source):
    with pytest.raises(EmptyTask, match="holds no examples"):
        load_task(source)


def test_an_empty_file_is_no_task(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("sentence,label\n")

    with pytest.raises(EmptyTask, match=r"dev\.csv holds no examples"):
        load_task(path)


@pytest.mark.parametrize("label", [1, "good", 0.5])
def test_labels_that_are_all_the_same_are_refused(label):
    with pytest.raises(SingleClass, match="all 3 labels of the given columns are"):
        load_task({"text": ["a", "b", "c"], "label": [label] * 3})


def test_word_labels_that_are_all_the_same_are_refused():
    with pytest.raises(SingleClass, match="all 3 labels"):
        load_task({"tokens": [["a", "b"], ["c"]], "labels": [["O", "O"], ["O"]]})


@pytest.mark.parametrize(
    ("labels", "read"),
    [
        (["0", "1"], (0, 1)),
        ([" 1", "0 "], (1, 0)),
        (["good", "bad"], ("good", "bad")),
        (["good ", "1"], ("good", "1")),
        ([True, False], (1, 0)),
        ([np.int64(1), np.int32(0)], (1, 0)),
        (["-1", "1"], ("-1", "1")),
    ],
)
def test_class_labels_are_ids_or_names(labels, read):
    task = load_task({"text": ["a", "b"], "label": labels})

    assert task.labels == read
    assert [type(label) for label in task.labels] == [type(label) for label in read]
    assert task.kind == "sequence-classification"


@pytest.mark.parametrize("bad", [None, "", "  ", float("nan"), float("inf"), {"a": 1}])
def test_a_label_that_is_none_is_refused_with_its_example(bad):
    with pytest.raises(MalformedData, match=r"column 'label', example 1: .* is not a label"):
        load_task({"text": ["a", "b"], "label": [0, bad]})


def test_hidden_labels_of_a_test_split_are_refused():
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])})
    hidden = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [-1, -1]}, features=features)

    for source in (hidden, {"text": ["a", "b"], "label": [-1, 1]}):
        with pytest.raises(MalformedData, match="example 0: label -1 stands for none"):
            load_task(source)


def test_hidden_word_labels_are_refused():
    with pytest.raises(MalformedData, match="example 1: label -1 stands for none"):
        load_task({"tokens": [["a", "b"], ["c"]], "labels": [[0, 1], [-1]]})


def test_class_labels_of_a_dataset_become_their_names():
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["n", "p"])})

    task = load_task(datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features))

    assert task.labels == ("p", "n")
    assert task.label_names == ("n", "p")


# -- kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "metric", "read"),
    [
        ([0.5, 2.0], None, (0.5, 2.0)),
        (["0.5", "2"], None, (0.5, 2.0)),
        ([1, 2.5], None, (1.0, 2.5)),
        ([-1, 0.5], None, (-1.0, 0.5)),
        ([1, 2], "pearson", (1.0, 2.0)),
        ([-3, 2], "spearman", (-3.0, 2.0)),
        (["-3", "2"], "pearson", (-3.0, 2.0)),
        ([1, 2], METRICS["pearson"], (1.0, 2.0)),
    ],
)
def test_numbers_with_decimals_or_a_correlation_make_a_regression(labels, metric, read):
    task = load_task({"text": ["a", "b"], "label": labels}, metric=metric)

    assert task.kind == "regression"
    assert task.labels == read
    assert task.metric.name in ("pearson", "spearman")


def test_a_regression_on_names_is_refused():
    with pytest.raises(MalformedData, match="'good' is not a number"):
        load_task({"text": ["a", "b"], "label": ["good", "bad"]}, metric="pearson")


def test_lists_of_words_make_a_token_classification():
    task = load_task({"tokens": [["Ann", "ran"], ["no"]], "ner_tags": [["B", "O"], ["O"]]})

    assert (task.kind, task.metric.name) == ("token-classification", "accuracy")
    assert task.texts == (("Ann", "ran"), ("no",))
    assert task.labels == (("B", "O"), ("O",))
    assert task.flat_labels == ("B", "O", "O")


@pytest.mark.parametrize(
    ("tokens", "labels", "problem"),
    [
        ([["a", "b"], ["c"]], [["B"], ["O"]], "example 0 has 2 words and 1 labels"),
        ([["a", "b"], ["c"]], ["B", "O"], "example 0 has 2 words and 1 labels"),
        ([["a"], []], [["B"], []], "example 1 has no words"),
        ([["a"], "c"], [["B"], ["O"]], "example 1: 'c' is not a list of words"),
        ([["a"], [5]], [["B"], ["O"]], "is not a list of words"),
    ],
)
def test_words_must_each_have_a_label(tokens, labels, problem):
    with pytest.raises(MalformedData, match=problem):
        load_task({"tokens": tokens, "labels": labels})


def test_words_without_labels_are_refused():
    with pytest.raises(MissingColumn, match="no label column for its words"):
        load_task({"tokens": [["a", "b"]]})


# -- metrics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "labels", "metric"),
    [
        ("cola", [0, 1], "matthews"),
        ("stsb", [0.5, 1.0], "pearson"),
        ("sst2", [0, 1], "accuracy"),
        ("mrpc", [0, 1], "accuracy"),
        ("cola", [0.5, 1.5], "pearson"),
    ],
)
def test_glues_own_metric_is_the_default(monkeypatch, config, labels, metric):
    data = datasets.DatasetDict(validation=datasets.Dataset.from_dict({"sentence": ["a", "b"], "label": labels}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: data)

    for name in (f"glue/{config}", f"nyu-mll/glue/{config}"):
        assert load_task(name).metric.name == metric
    assert load_task(f"glue/{config}", metric="loss").metric.name == "loss"


@pytest.mark.parametrize("metric", ["bleu", "perplexity", METRICS["perplexity"]])
def test_a_metric_of_another_kind_is_refused_with_those_that_fit(metric):
    with pytest.raises(UnknownMetric, match="accuracy, f1, f1_macro, f1_micro, matthews, loss"):
        load_task({**with_columns("text"), **TWO}, metric=metric)


# -- the task ----------------------------------------------------------------------------------------------------


def test_the_digest_is_of_the_data_and_not_of_name_or_metric(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("text,label\na,0\nb,1\n")
    task = load_task({"text": ["a", "b"], **TWO})

    assert load_task(path, metric="f1").digest == task.digest
    assert load_task({"text": ["a", "c"], **TWO}).digest != task.digest
    assert load_task({"text": ["a", "b"], "label": [1, 0]}).digest != task.digest
    assert load_task({"text": ["a", "b"], "label": ["0 x", "1 x"]}).digest != task.digest


def test_another_metric_changes_nothing_else():
    task = load_task({**with_columns("text"), **TWO})

    assert task.with_metric("f1").metric.name == "f1"
    assert task.with_metric("f1").digest == task.digest
    assert task.with_metric(None) is task


# -- data frames, tensors and labels of two types ----------------------------------------------------------------------


def test_a_data_frame_is_its_columns():
    columns = {"text": ["a", "b", "c"], "label": [1, 0, 1]}

    task = load_task(pandas.DataFrame(columns, index=[7, 7, 9]))

    assert (task.texts, task.labels) == (("a", "b", "c"), (1, 0, 1))
    assert task.digest == load_task(columns).digest


def test_spans_of_a_data_frame_are_read_and_its_empty_cell_is_named():
    frame = pandas.DataFrame({"text": ["a b", "c d"], "start1": [0, 2], "end1": [1, 3], "label": ["x", "y"]})

    assert load_task(frame).kind == "span-labelling"
    frame.loc[1, "start1"] = None
    with pytest.raises(MalformedData, match="example 1: start1 is nan"):
        load_task(frame)


def test_a_data_frame_of_two_columns_of_one_name_is_refused():
    with pytest.raises(MalformedData, match="two columns have one name: text, text"):
        load_task(pandas.DataFrame([["a", "b"]], columns=["text", "text"]))


@pytest.mark.parametrize("labels", [torch.tensor([0, 1]), [torch.tensor(0), torch.tensor(1)]])
def test_tensors_are_no_labels(labels):
    with pytest.raises(MalformedData, match=r"column 'label' holds tensors: give plain values, such as tensor\.tolist"):
        load_task({"text": ["a", "b"], "label": labels})


@pytest.mark.parametrize("source", [None, 3, [{"text": "a", "label": 0}]])
def test_what_is_no_source_is_refused_by_name(source):
    with pytest.raises(InvalidArgument, match=r"^source='\w+' is not valid: expected a file, a folder"):
        load_task(source)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a", "b", "c"], "label": [0, "1", 1]}, "example 1: the label '1', and example 0 has 0: labels are"),
        ({"tokens": [["a", "b"], ["c"]], "tags": [["X", "Y"], [1]]}, "example 1: the label 1, and example 0 has 'X'"),
    ],
)
def test_labels_are_all_text_or_all_numbers(columns, said):
    with pytest.raises(MalformedData, match=said):
        load_task(columns)
