"""Tasks from CoNLL-U, held against trees written by hand and against a plain count of a file's columns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pytest_bertology import load_task, read_conllu
from pytest_bertology.errors import InvalidArgument, MalformedData, MissingColumn, TaskNotFound
from pytest_bertology.tasks.items import items_of

CATS = """\
# text = The cats don't sleep.
1\tThe\tthe\tDET\tDT\t_\t2\tdet\t_\t_
2\tcats\tcat\tNOUN\tNNS\t_\t5\tnsubj\t_\t_
3-4\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
3\tdo\tdo\tAUX\tVBP\t_\t5\taux\t_\t_
4\tn't\tnot\tPART\tRB\t_\t5\tadvmod\t_\t_
5\tsleep\tsleep\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t.\t_\t5\tpunct\t_\t_

# text = Yes
1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


@pytest.fixture
def cats(tmp_path):
    path = tmp_path / "dev.conllu"
    path.write_text(CATS, encoding="utf-8")
    return path


@pytest.mark.parametrize(("label", "expected"), [
    ("upos", (("DET", "NOUN", "AUX", "PART", "VERB", "PUNCT"), ("INTJ",))),
    ("xpos", (("DT", "NNS", "VBP", "RB", "VB", "."), ("UH",))),
    ("deprel", (("det", "nsubj", "aux", "advmod", "root", "punct"), ("root",))),
])  # fmt: skip
def test_a_column_labels_words_where_they_are_written(cats, label, expected):
    task = load_task(cats, label=label)

    assert (task.name, task.kind, task.labels) == (f"dev.conllu:{label}", "token-classification", expected)
    text, spans = task.written[0]
    assert [text[a:b] for ((a, b),) in spans] == ["The", "cats", "do", "n't", "sleep", "."]


def test_arcs_are_words_and_their_heads(cats):
    task = load_task(cats, label="arc")

    items = items_of(task)
    assert (task.kind, items.level, len(task)) == ("span-labelling", "pair", 1)
    assert [tuple(items.texts[0][a:b] for a, b in spans) for spans in items.spans] == [
        ("The", "cats"), ("cats", "sleep"), ("do", "sleep"), ("n't", "sleep"), (".", "sleep"),
    ]  # fmt: skip
    assert items.labels == ("det", "nsubj", "aux", "advmod", "punct")


def test_read_sentences_make_the_same_task(cats):
    given = load_task(read_conllu(cats), label="upos")

    assert given.digest == load_task(cats, label="upos").digest
    assert given.name.startswith("2 sentences (#")


@pytest.mark.parametrize(("arguments", "error", "said"), [
    ({}, MissingColumn, "'upos', 'xpos', 'deprel', 'arc'"),
    ({"label": "ner"}, MissingColumn, "'ner'"),
    ({"label": "upos", "split": "dev"}, InvalidArgument, "one part"),
    ({"label": "upos", "text": "form"}, InvalidArgument, "its own texts"),
])  # fmt: skip
def test_what_is_not_there_is_said(cats, arguments, error, said):
    with pytest.raises(error, match=said):
        load_task(cats, **arguments)


def test_columns_that_are_not_filled_in(tmp_path):
    path = tmp_path / "dev.conllu"
    path.write_text(CATS.replace("\tUH\t", "\t_\t"), encoding="utf-8")
    with pytest.raises(MalformedData, match="'Yes' in 'Yes' has no xpos"):
        load_task(path, label="xpos")

    for tag in ("DT", "NNS", "VBP", "RB", "VB", "."):
        path.write_text(path.read_text(encoding="utf-8").replace(f"\t{tag}\t_\t", "\t_\t_\t"), encoding="utf-8")
    with pytest.raises(MissingColumn, match="filled in; its columns are 'upos', 'deprel', 'arc'"):
        load_task(path, label="xpos")


def test_without_a_single_arc_there_is_no_task(tmp_path):
    path = tmp_path / "dev.conllu"
    path.write_text(CATS.split("\n\n")[1], encoding="utf-8")

    with pytest.raises(MalformedData, match="no arcs"):
        load_task(path, label="arc")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(TaskNotFound, match="no such file"):
        load_task(tmp_path / "dev.conllu", label="upos")


@pytest.mark.assets
def test_ewt_has_the_words_and_labels_of_its_columns(assets):
    path = assets / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu"
    rows = [fields for fields in _fields(path) if fields[0].isdigit()]

    for label, column in (("upos", 3), ("xpos", 4), ("deprel", 7)):
        task = load_task(path, label=label)
        assert Counter(task.flat_labels) == Counter(fields[column] for fields in rows)
        assert [word for words in task.texts for word in words] == [fields[1] for fields in rows]
        for (text, spans), words in zip(task.written, task.texts, strict=True):
            assert all(len(text[a:b]) > 0 for ((a, b),) in spans)
            assert len(spans) == len(words)
    arcs = load_task(path, label="arc")
    assert Counter(arcs.flat_labels) == Counter(fields[7] for fields in rows if fields[6] != "0")


def _fields(path: Path) -> list[list[str]]:
    text = path.read_text(encoding="utf-8")
    return [line.split("\t") for line in text.split("\n") if line and not line.startswith("#")]
