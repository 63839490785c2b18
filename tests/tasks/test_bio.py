"""Words and their tags: files written by hand, and the counts that WNUT-17 publishes.

Entities are held against the examples of the schemes in the literature (Ramshaw & Marcus 1995; Tjong Kim Sang 2002),
and against tags made from entities drawn at random.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import load_task
from pytest_bertology.errors import (
    EmptyTask,
    InvalidArgument,
    MalformedData,
    MissingColumn,
    SingleClass,
    TaskNotFound,
)
from pytest_bertology.tasks.entities import Tags, entities

PARIS = "Anna\tB-per\nof\tO\nNew\tB-loc\nYork\tI-loc\n\nNo\tO\n.\tO\n\nParis\tB-loc\n"
CONLL = """\
-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- -X- O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


def file(folder: Path, text: str | bytes, name: str = "dev.conll") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def spans(task):
    """For each text, what its items are and how they are labelled."""
    return [
        [(text[a:b], label) for ((a, b),), label in zip(own, labels, strict=True)]
        for (text, own), labels in zip(task.written, task.labels, strict=True)
    ]


# -- words and tags ----------------------------------------------------------------------------------------------


def test_words_are_labelled_with_their_tags(tmp_path):
    task = load_task(file(tmp_path, PARIS))

    assert task.kind == "token-classification"
    assert task.texts == (("Anna", "of", "New", "York"), ("No", "."), ("Paris",))
    assert task.labels == (("B-per", "O", "B-loc", "I-loc"), ("O", "O"), ("B-loc",))


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.rstrip("\n"),
    lambda text: "\ufeff" + text + "\n\n\n",
    lambda text: "# a comment\n" + text.replace("\n\n", "\n\t\n \n# id 7\n"),
    lambda text: "# id\t7\n" + text,
    lambda text: "-DOCSTART-\tO\n\n" + text.replace("\n\n", "\n-DOCSTART-\n"),
    lambda text: text.replace("\t", " "),
    lambda text: "# id 7\n# O x\n# sent 3\n" + text.replace("\t", "   "),
], ids=["Windows", "no end", "BOM", "comments", "tabbed comment", "documents", "spaces", "like words"])  # fmt: skip
def test_however_a_file_is_written_it_says_the_same(tmp_path, change):
    task = load_task(file(tmp_path, change(PARIS)))

    assert (task.texts, task.labels) == (load_task(file(tmp_path, PARIS, "x.bio")).texts, task.labels)
    assert task.labels == (("B-per", "O", "B-loc", "I-loc"), ("O", "O"), ("B-loc",))


@pytest.mark.parametrize(("label", "expected"), [
    (None, (("B-ORG", "O"), ("B-PER", "I-PER"))),
    (1, (("NNP", "VBZ"), ("NNP", "NNP"))),
    ("2", (("B-NP", "B-VP"), ("B-NP", "I-NP"))),
])  # fmt: skip
def test_the_last_column_holds_the_tags_or_the_one_that_is_named(tmp_path, label, expected):
    assert load_task(file(tmp_path, CONLL), label=label).labels == expected


def test_the_words_may_be_in_another_column(tmp_path):
    task = load_task(file(tmp_path, "1 Anna B-per\n2 sings O\n"), text=1)

    assert task.texts == (("Anna", "sings"),)


@pytest.mark.parametrize("word", ["#", "#win", "\u00a0", "\u2028", "New\u00a0York", "New York", "\u200b", "\x85"])
def test_odd_words_are_words(tmp_path, word):
    task = load_task(file(tmp_path, f"{word}\tB-x\nthen\tO\n\n{word}\tO\n"))

    assert task.texts == ((word, "then"), (word,))


def test_a_number_sign_is_a_word_where_its_tag_is_one(tmp_path):
    task = load_task(file(tmp_path, "# SYM\n1 NUM\n\n5 NUM\n# SYM\n"))

    assert task.texts == (("#", "1"), ("5", "#"))


def test_tags_that_mark_no_entities_are_only_labels(tmp_path):
    task = load_task(file(tmp_path, "Go\tVERB\nI-5\tI-5\n", "dev.bio"))

    assert task.labels == (("VERB", "I-5"),)


# -- entities ----------------------------------------------------------------------------------------------------


def test_entities_are_spans_labelled_with_their_type(tmp_path):
    task = load_task(file(tmp_path, PARIS), label="entity")

    assert (task.kind, task.texts) == ("span-labelling", ("Anna of New York", "Paris"))
    assert spans(task) == [[("Anna", "per"), ("New York", "loc")], [("Paris", "loc")]]


def test_entities_of_another_column(tmp_path):
    task = load_task(file(tmp_path, CONLL), label="entity:2")

    assert spans(task) == [[("EU", "NP"), ("rejects", "VP")], [("Peter Blackburn", "NP")]]


@pytest.mark.parametrize(("tags", "expected"), [
    ("B-x I-x B-x O B-y", [(0, 2, "x"), (2, 3, "x"), (4, 5, "y")]),
    ("I-x I-x B-x O I-y", [(0, 2, "x"), (2, 3, "x"), (4, 5, "y")]),
    ("I-x I-y I-y B-y I-y", [(0, 1, "x"), (1, 3, "y"), (3, 5, "y")]),
    ("B-x E-x S-x O S-y", [(0, 2, "x"), (2, 3, "x"), (4, 5, "y")]),
    ("B-x I-x L-x O U-y", [(0, 3, "x"), (4, 5, "y")]),
    ("B-a-b I-a-b O", [(0, 2, "a-b")]),
])  # fmt: skip
def test_the_schemes_mark_the_same_entities(tags, expected):
    (found,) = entities(Tags("a file", [tags.split()], [list(range(9))], strict=False))

    assert [tuple(entity) for entity in found] == expected


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["O", "x", "y-z"])), min_size=1, max_size=8))
def test_entities_drawn_at_random_are_found_again_in_every_scheme(runs):
    expected, at = [], 0
    tags = {"IOB2": [], "IOB1": [], "BIOES": []}
    for length, kind in runs:
        if kind == "O":
            for row in tags.values():
                row += ["O"] * length
        else:
            expected.append((at, at + length, kind))
            touching = bool(tags["IOB1"]) and tags["IOB1"][-1][2:] == kind
            inside = [f"I-{kind}"] * (length - 1)
            tags["IOB2"] += [f"B-{kind}", *inside]
            tags["IOB1"] += [f"{'B' if touching else 'I'}-{kind}", *inside]
            tags["BIOES"] += [f"S-{kind}"] if length == 1 else [f"B-{kind}", *inside[1:], f"E-{kind}"]
        at += length

    for scheme, row in tags.items():
        (found,) = entities(Tags("a file", [row], [list(range(at))], strict=scheme == "IOB2"))
        assert [tuple(entity) for entity in found] == expected


# -- what is wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [None, "entity"])
@pytest.mark.parametrize(("text", "name", "problem"), [
    ("a\tB-x\nb\tO\nc\tI-x\n", "dev.conll", "line 3: I-x follows O, and no B-x or I-x"),
    ("a\tB-x\nb\tI-y\n", "dev.conll", "line 2: I-y follows B-x"),
    ("a\tO\n\nb\tI-x\n", "dev.bio", "line 3: I-x is its sentence's first"),
    ("a\tO\nb\tI-x\n", "dev.iob2", "line 2: I-x follows O"),
    ("a\tS-x\nb\tI-x\n", "dev.conll", "line 2: I-x follows S-x"),
    ("a\tS-x\nb\tB-x\nc\tO\n", "dev.conll", "line 3: O follows B-x, whose entity has not ended"),
    ("a\tS-x\nb\tB-x\n", "dev.conll", "line 2: B-x is its sentence's last"),
])  # fmt: skip
def test_tags_that_break_their_scheme_are_reported(tmp_path, text, name, problem, label):
    with pytest.raises(MalformedData, match=problem) as caught:
        load_task(file(tmp_path, text, name), label=label)
    assert "nothing is repaired" in str(caught.value)


@pytest.mark.parametrize(("text", "problem"), [
    ("a\tO\nb\n", "line 2 has 1 columns separated by tabs, and the first word has 2"),
    ("a\tO\n# within\nb\tB-x\n", "line 2 has 1 columns"),
    ("a O\nb c O\n", "line 2 has 3 columns separated by spaces"),
    ("a\nb\n", "line 1 has one column"),
    ("a\tB-x\n\tO\n", "line 2: column 0 is empty"),
    ("a\tB-x\nb\t\n", "line 2: column 1 is empty"),
    (b"a\tB-\xff\n", "not UTF-8"),
])  # fmt: skip
def test_a_malformed_line_is_named(tmp_path, text, problem):
    with pytest.raises(MalformedData, match=problem):
        load_task(file(tmp_path, text))


def test_tags_that_are_none_make_no_entities(tmp_path):
    with pytest.raises(MalformedData, match="line 1: NNP is no tag of entities"):
        load_task(file(tmp_path, CONLL.replace("-DOCSTART- -X- -X- O\n\n", "")), label="entity:1")


@pytest.mark.parametrize(("arguments", "error", "said"), [
    ({"label": "3"}, MissingColumn, "'0', '1', 'entity'"),
    ({"label": "ner"}, MissingColumn, "'ner'"),
    ({"label": "entity:x"}, MissingColumn, "'x'"),
    ({"label": -1}, MissingColumn, "-1"),
    ({"label": True}, MissingColumn, "True"),
    ({"label": 0}, InvalidArgument, "than that of the words, 0"),
    ({"text": "words"}, MissingColumn, "'words'"),
    ({"split": "dev"}, InvalidArgument, "one part"),
    ({"metric": "pearson"}, Exception, "pearson"),
])  # fmt: skip
def test_columns_that_are_not_there(tmp_path, arguments, error, said):
    with pytest.raises(error, match=said):
        load_task(file(tmp_path, PARIS), **arguments)


def test_files_with_nothing_to_judge(tmp_path):
    with pytest.raises(EmptyTask):
        load_task(file(tmp_path, "\n# nothing\n\n-DOCSTART-\tO\n"))
    with pytest.raises(EmptyTask):
        load_task(file(tmp_path, "a\tO\n"), label="entity")
    with pytest.raises(SingleClass):
        load_task(file(tmp_path, "a\tO\n"))
    with pytest.raises(SingleClass):
        load_task(file(tmp_path, "a\tB-x\n"), label="entity")
    with pytest.raises(TaskNotFound, match="no such file"):
        load_task(tmp_path / "none.bio")
    (tmp_path / "folder.conll").mkdir()
    with pytest.raises(TaskNotFound, match="it is a folder"):
        load_task(tmp_path / "folder.conll")


@pytest.mark.assets
@pytest.mark.parametrize(("name", "sentences", "tokens", "begun", "types"), [
    ("wnut17train.conll", 3394, 62730, 1975, 6),
    ("emerging.dev.conll", 1009, 15733, 836, 6),
])  # fmt: skip
def test_wnut_has_the_counts_that_it_publishes(assets, name, sentences, tokens, begun, types):
    path = assets / "data" / "wnut17" / name

    words, found = load_task(path), load_task(path, label="entity")

    assert (len(words), len(words.flat_labels)) == (sentences, tokens)
    assert len(found.flat_labels) == begun == path.read_text(encoding="utf-8").count("\tB-")
    assert len(set(found.flat_labels)) == types
