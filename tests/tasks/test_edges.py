"""Labelled spans and pairs of spans, written by hand; tokens between white space against `str.split`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import load_task
from pytest_bertology.errors import EmptyTask, InvalidArgument, MalformedData, MissingColumn, SingleClass
from pytest_bertology.tasks.items import items_of

SRL = {
    "text": "The  cats chase a dog .",
    "targets": [
        {"span1": [2, 3], "span2": [0, 2], "label": "ARG0"},
        {"span1": [2, 3], "span2": [3, 5], "label": "ARG1"},
    ],
    "info": {"source": "by hand"},
}
NER = [
    {"text": "Anna met Max Mustermann", "targets": [
        {"span1": [0, 1], "label": "per"}, {"span1": [2, 4], "label": ["per"]},
    ]},
    {"text": "in\u00a0New York", "targets": [{"span1": [1, 3], "label": "loc"}]},
    {"text": "nothing", "targets": []},
]  # fmt: skip


def lines(folder: Path, *rows: object) -> Path:
    path = folder / "dev.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return path


def one(**changes: object) -> dict[str, object]:
    """A row with one target, changed."""
    return {"text": "a b c", "targets": [{"span1": [0, 1], "label": "x", **changes}]}


def shown(task):
    items = items_of(task)
    texts = [items.texts[text] for text in items.text_of]
    return [
        (*(text[a:b] for a, b in spans), label)
        for text, spans, label in zip(texts, items.spans, items.labels, strict=True)
    ]


# -- targets -----------------------------------------------------------------------------------------------------


def test_pairs_of_spans_are_labelled(tmp_path):
    task = load_task(lines(tmp_path, SRL))

    assert (task.kind, items_of(task).level) == ("span-labelling", "pair")
    assert shown(task) == [("chase", "The  cats", "ARG0"), ("chase", "a dog", "ARG1")]


def test_single_spans_are_labelled_and_texts_without_targets_left_out(tmp_path):
    task = load_task(lines(tmp_path, *NER))

    assert items_of(task).level == "span"
    assert len(task) == 2
    assert shown(task) == [("Anna", "per"), ("Max Mustermann", "per"), ("New York", "loc")]


def test_targets_come_from_columns_too():
    columns = {"text": ["a b", "c d"], "targets": [[{"span1": (0, 1), "label": 3}], [{"span1": [1, 2], "label": 4}]]}

    assert shown(load_task(columns)) == [("a", 3), ("d", 4)]


@given(st.text(alphabet="ab \t\u00a0\u2003\x1f", min_size=1), st.data())
def test_tokens_are_those_between_white_space(text, data):
    tokens = text.split()
    if not tokens:
        return
    start = data.draw(st.integers(0, len(tokens) - 1))
    end = data.draw(st.integers(start + 1, len(tokens)))
    columns = {
        "text": [text, "a"],
        "targets": [[{"span1": [start, end], "label": "x"}], [{"span1": [0, 1], "label": "y"}]],
    }

    (found, _), *_ = shown(load_task(columns))

    assert found.split() == tokens[start:end]
    assert found == found.strip()


@pytest.mark.parametrize(("row", "problem"), [
    (one(span1=[2, 4]), "line 2, target 0, span1 is tokens 2 to 4 .* of 3"),
    (one(span1=[1, 1]), "tokens 1 to 1"),
    (one(span1=[-1, 1]), "tokens -1 to 1"),
    (one(span1=[0, 1.5]), "no pair of whole numbers"),
    (one(span1="01"), "no pair of whole numbers"),
    (one(span1=None), "no 'span1'"),
    (one(span2=[0, 9]), "span2 is tokens 0 to 9"),
    (one(span2=[0, 1]), "line 2: 2 spans to a label, and line 1 has 1"),
    (one(label=["x", "y"]), "line 2, target 0 has 2 labels, and a probe names one class"),
    (one(label=[]), "line 2, target 0 has 0 labels"),
    (one(label=" "), "is not a label"),
    (one(label=None), "is not a label"),
    (one(label=1), "labels are all text, or all numbers"),
    ({"text": "a", "targets": [{"span1": [0, 1]}]}, "no 'span1' or no 'label'"),
    ({"text": "a", "targets": "x"}, "line 2: its targets are 'x'"),
    ({"text": ["a"], "targets": []}, "line 2: the text is"),
])  # fmt: skip
def test_a_malformed_target_is_named(tmp_path, row, problem):
    first = {"text": "a b", "targets": [{"span1": [0, 1], "label": "y"}]}

    with pytest.raises(MalformedData, match=problem):
        load_task(lines(tmp_path, first, row))


def test_lines_are_counted_in_the_file(tmp_path):
    path = lines(tmp_path, one(), one(span1=[7, 8]))
    path.write_text("\n\n" + path.read_text(encoding="utf-8"), encoding="utf-8")

    with pytest.raises(MalformedData, match="line 4, target 0"):
        load_task(path)


def test_targets_with_nothing_to_judge(tmp_path):
    with pytest.raises(SingleClass):
        load_task(lines(tmp_path, one(), one()))
    with pytest.raises(InvalidArgument, match="text="):
        load_task(lines(tmp_path, one(), one(label="y")), text="body")
    with pytest.raises(EmptyTask, match="No text has a target"):
        load_task({"text": ["a"], "targets": [[]]})


def test_a_label_column_beside_targets_is_a_task_of_texts(tmp_path):
    rows = [{**one(), "kind": "good"}, {**one(), "kind": "bad"}]

    assert load_task(lines(tmp_path, *rows), label="kind").labels == ("good", "bad")


# -- columns of characters ---------------------------------------------------------------------------------------


def test_relations_are_two_spans_of_characters(tmp_path):
    path = tmp_path / "dev.tsv"
    path.write_text(
        "text\tstart1\tend1\tstart2\tend2\tlabel\n"
        "Anna lives in Bonn\t0\t4\t14\t18\tlives-in\n"
        "Bonn is big\t0\t4\t8\t11\tis\n"
        "Anna lives in Bonn\t14\t18\t0\t4\thas\n"
    )

    task = load_task(path)

    assert len(task) == 2
    assert shown(task) == [("Anna", "Bonn", "lives-in"), ("Bonn", "Anna", "has"), ("Bonn", "big", "is")]


def test_single_spans_of_characters():
    columns = {"sentence": ["Anna sings", "Bonn is big"], "start1": [0, 0], "end1": [4, 4], "type": ["per", "loc"]}

    assert shown(load_task(columns, label="type")) == [("Anna", "per"), ("Bonn", "loc")]


@pytest.mark.parametrize(("changed", "problem"), [
    ({"end1": [1, 9]}, "example 1: characters 0 to 9 of 3"),
    ({"start1": [0, 2]}, "characters 2 to 1 of 3"),
    ({"start1": [0, "x"]}, "start1 is 'x'"),
    ({"start1": [0, "²"]}, "start1 is '²'"),
    ({"start1": [0, None]}, "start1 is None"),
    ({"start2": [0, 0]}, "a column 'start2'"),
    ({"label": ["x", ["y", "z"]]}, "2 labels"),
    ({"text": ["a b", 7]}, "'text'"),
])  # fmt: skip
def test_malformed_characters_are_named(changed, problem):
    columns = {"text": ["a b", "c d"], "start1": [0, 0], "end1": [1, 1], "label": ["x", "y"], **changed}

    with pytest.raises(MalformedData, match=problem):
        load_task(columns)


def test_the_line_is_that_of_the_file(tmp_path):
    path = tmp_path / "dev.csv"
    path.write_text("text,start1,end1,label\n\na b,0,1,x\nc d,0,7,y\n")

    with pytest.raises(MalformedData, match="line 4: characters 0 to 7"):
        load_task(path)


# -- columns that are not what they seem ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"start1": [0, 0]}, "it has a column 'start1', and a span has both, start1 and end1"),
        ({"end1": [1, 1]}, "it has a column 'end1', and a span has both, start1 and end1"),
        ({"start1": [0, 0], "end1": [1, 1], "end2": [1, 1]}, "'end2', and a span has both, start2 and end2"),
        ({"start2": [0, 0], "end2": [1, 1]}, "no start1 and end1 of a first span"),
    ],
)
def test_half_a_span_is_no_task_of_whole_texts(columns, said):
    with pytest.raises(MalformedData, match=said):
        load_task({"text": ["a b", "c d"], "label": ["x", "y"], **columns})


def test_spans_without_a_label_are_no_language_modelling():
    with pytest.raises(MissingColumn, match="label column for its spans"):
        load_task({"text": ["a b", "c d"], "start1": [0, 0], "end1": [1, 1]})


def test_whole_numbers_with_a_point_are_read_and_the_row_without_one_is_named():
    columns = {"text": ["a b", "c d", "e f"], "label": ["x", "y", "x"], "end1": [1, 1, 1]}

    assert shown(load_task({**columns, "start1": [0.0, np.float64(0.0), 0]})) == [("a", "x"), ("c", "y"), ("e", "x")]
    with pytest.raises(MalformedData, match="example 2: start1 is nan"):
        load_task({**columns, "start1": [0.0, 0.0, float("nan")]})
    with pytest.raises(MalformedData, match=r"example 1: start1 is 0\.5"):
        load_task({**columns, "start1": [0.0, 0.5, 0.0]})
