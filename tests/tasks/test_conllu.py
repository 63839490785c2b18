"""Trees written by hand, in the columns of universaldependencies.org/format.html, and read back as what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_bertology import Sentence, read_conllu
from pytest_bertology.errors import EmptyTask, InvalidArgument, MalformedData, TaskNotFound

CATS = """\
# sent_id = cats-1
# text = The cats don't sleep.
1\tThe\tthe\tDET\t_\t_\t2\tdet\t_\t_
2\tcats\tcat\tNOUN\t_\t_\t5\tnsubj:pass\t_\t_
3-4\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
3\tdo\tdo\tAUX\t_\t_\t5\taux\t_\t_
4\tn't\tnot\tPART\t_\t_\t5\tadvmod\t_\t_
5\tsleep\tsleep\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
5.1\tsleep\tsleep\tVERB\t_\t_\t_\t_\t5:conj\t_
6\t.\t.\tPUNCT\t_\t_\t5\tpunct\t_\t_
"""


def line(number: object, form: str, head: object, relation: str = "dep", misc: str = "_") -> str:
    return f"{number}\t{form}\t_\tX\t_\t_\t{head}\t{relation}\t_\t{misc}\n"


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "trees.conllu"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_sentence_is_its_words_and_their_heads(tmp_path):
    (found,) = read_conllu(written(tmp_path, CATS))

    assert found.words == ("The", "cats", "do", "n't", "sleep", ".")
    assert found.heads == (1, 4, 4, 4, -1, 4)
    assert found.relations == ("det", "nsubj:pass", "aux", "advmod", "root", "punct")
    assert found.base_relations == ("det", "nsubj", "aux", "advmod", "root", "punct")
    assert found.upos == ("DET", "NOUN", "AUX", "PART", "VERB", "PUNCT")
    assert (found.text, found.sent_id, len(found)) == ("The cats don't sleep.", "cats-1", 6)


def test_spans_are_the_words_in_the_text(tmp_path):
    (found,) = read_conllu(written(tmp_path, CATS))

    assert [found.text[a:b] for a, b in found.spans] == list(found.words)


@pytest.mark.parametrize("change", [
    lambda text: text.replace("\n", "\r\n"),
    lambda text: text.rstrip("\n"),
    lambda text: "\ufeff" + text + "\n\n\n",
    lambda text: "\n# only a comment\n\n" + text,
    lambda text: text.replace("# text", "# text_en = Les chats.\n#text"),
])  # fmt: skip
def test_line_ends_blank_lines_and_comments_change_nothing(tmp_path, change):
    expected = read_conllu(written(tmp_path, CATS))

    assert read_conllu(written(tmp_path, change(CATS))) == expected


def test_sentences_end_at_blank_lines(tmp_path):
    found = read_conllu(written(tmp_path, f"{CATS}\n{CATS}"))

    assert len(found) == 2
    assert found[0] == found[1]


def test_without_text_the_words_are_joined_as_spaces_are_said(tmp_path):
    plain = "\n".join(row for row in CATS.split("\n") if not row.startswith("# text"))

    (found,) = read_conllu(written(tmp_path, plain))

    assert found.text == "The cats don't sleep."
    assert [found.text[a:b] for a, b in found.spans] == list(found.words)


def test_words_that_are_not_what_is_written_share_its_characters(tmp_path):
    text = "# text = du vin\n" + line("1-2", "du", "_", "_") + line(1, "de", 3) + line(2, "le", 3) + line(3, "vin", 0)

    (found,) = read_conllu(written(tmp_path, text))

    assert found.spans == ((0, 2), (0, 2), (3, 6))


def test_words_written_in_another_case_divide_them(tmp_path):
    text = "# text = Don't\n" + line("1-2", "Don't", "_", "_") + line(1, "do", 0) + line(2, "n't", 1)

    (found,) = read_conllu(written(tmp_path, text))

    assert found.spans == ((0, 2), (2, 5))


def test_words_with_spaces_and_texts_with_many_of_them(tmp_path):
    text = "# text = de  10 000\u00a0francs\n" + line(1, "de", 3) + line(2, "10 000", 3) + line(3, "francs", 0)

    (found,) = read_conllu(written(tmp_path, text))

    assert [found.text[a:b] for a, b in found.spans] == ["de", "10 000", "francs"]


@pytest.mark.parametrize(("text", "said"), [
    (line(1, "a", 0) + "2\tb\t_\n", "line 2 has 3 fields, and CoNLL-U 10"),
    (line(1, "a", 0).replace("\t", " "), "line 1 has 1 fields"),
    (line(1, "a", "x"), "line 1: the head of 'a' is 'x'"),
    (line(1, "a", "_"), "the head of 'a' is '_'"),
    (line(1, "a", 0, "_"), "line 1: 'a' has no relation"),
    (line(1, "", 0), "line 1: the word's form is empty"),
    (line(1, "a", 0) + line(3, "b", 1), "line 2: number 3 follows 1"),
    (line(1, "a", 0) + line(1, "b", 1), "line 2: number 1 follows 1"),
    (line(0, "a", 0), "line 1: number 0 follows 0"),
    (line("one", "a", 0), "line 1: 'one' is no number"),
    (line("2-1", "ab", "_"), "line 1: '2-1' is no number"),
    (line("1-2", "ab", "_") + line(1, "a", 0), "word 2 is missing, though 'ab' ends with it"),
    (line("1-2", "ab", "_") + line(1, "a", 0) + line("2-2", "b", "_") + line(2, "b", 1), "a gap, or twice"),
    (line(1, "a", 0) + line(2, "b", 3), "line 2: the head of 'b' is 3, of 2 words"),
    (line(1, "a", 2) + line(2, "b", 1) + line(3, "c", 0), "line 1: the heads from 'a' on go round in a circle"),
    (line(1, "a", 1), "go round in a circle"),
    (line("1.1", "a", "_") + line(2, "b", 0), "number 2 follows 0"),
    ("# text = a b\n" + line(1, "a", 0) + line(2, "c", 1), "line 3: 'c' is not what the text goes on with: 'b'"),
    (b"\xff\xfe1\t", "it is not UTF-8"),
])  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(tmp_path, text, said):
    path = written(tmp_path, text)

    with pytest.raises(MalformedData) as raised:
        read_conllu(path)

    assert str(path) in str(raised.value)
    assert said in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n\n", "# sent_id = 1\n\n"])
def test_a_file_without_sentences_is_refused(tmp_path, text):
    with pytest.raises(EmptyTask, match=r"trees\.conllu"):
        read_conllu(written(tmp_path, text))


def test_files_that_are_none_are_told(tmp_path):
    with pytest.raises(TaskNotFound, match=r"^cannot load the trees of .*no such file .*path of one \.conllu file$"):
        read_conllu(tmp_path / "gone.conllu")
    with pytest.raises(TaskNotFound, match=r"it is a folder\. Give the path of one \.conllu file"):
        read_conllu(str(tmp_path))


# -- sentences that are parsed already ---------------------------------------------------------------------------


class TokenList(list):
    """As the package `conllu` has it: a list of mappings, and the comments beside it."""

    metadata: ClassVar = {"text": "I don't.", "sent_id": "7"}


PARSED = TokenList([
    {"id": 1, "form": "I", "upos": "PRON", "head": 2, "deprel": "nsubj", "misc": None},
    {"id": (2, "-", 3), "form": "don't", "upos": "_", "head": None, "deprel": "_", "misc": {"SpaceAfter": "No"}},
    {"id": 2, "form": "do", "upos": "AUX", "head": 0, "deprel": "root", "misc": None},
    {"id": 3, "form": "n't", "upos": "PART", "head": 2, "deprel": "advmod", "misc": None},
    {"id": (3, ".", 1), "form": "sleep", "upos": "VERB", "head": None, "deprel": None, "misc": {"CopyOf": "2"}},
    {"id": 4, "form": ".", "upos": "PUNCT", "head": 2, "deprel": "punct", "misc": {"Note": None}},
])  # fmt: skip


def test_sentences_of_the_package_conllu_are_read():
    (found,) = read_conllu([PARSED])

    assert found == Sentence(
        words=("I", "do", "n't", "."),
        heads=(1, -1, 1, 1),
        relations=("nsubj", "root", "advmod", "punct"),
        upos=("PRON", "AUX", "PART", "PUNCT"),
        text="I don't.",
        spans=((0, 1), (2, 4), (4, 7), (7, 8)),
        sent_id="7",
    )


def test_plain_lists_of_tokens_make_their_own_text():
    (found,) = read_conllu([list(PARSED)])

    assert (found.text, found.sent_id) == ("I don't.", None)


def test_sentences_are_passed_on():
    sentences = read_conllu([PARSED, PARSED])

    assert read_conllu(iter(sentences)) == sentences


@pytest.mark.parametrize("source", [7, b"trees.conllu", {"id": 1}, read_conllu([PARSED])[0], [7], [[]], ["a text"]])
def test_what_is_no_source_is_refused(source):
    with pytest.raises(InvalidArgument, match="conllu"):
        read_conllu(source)


def test_faults_of_parsed_sentences_are_told_with_their_place():
    broken = [*PARSED[:3], {**PARSED[3], "head": 9}]

    with pytest.raises(MalformedData, match=r"sentence 1, token 3: the head of \"n't\" is 9, of 3 words"):
        read_conllu([PARSED, broken])


def test_a_sentence_with_too_few_heads_is_refused():
    (whole,) = read_conllu([PARSED])
    broken = Sentence(whole.words, whole.heads[:2], whole.relations, whole.upos, whole.text, whole.spans)

    with pytest.raises(MalformedData, match="sentence 0: its words, heads, relations and spans differ"):
        read_conllu([broken])


# -- any tree ----------------------------------------------------------------------------------------------------

FORMS = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=5)


@settings(deadline=None, database=None, max_examples=60)
@given(data=st.data(), count=st.integers(1, 7))
def test_any_tree_is_read_back(tmp_path_factory, data, count):
    words = data.draw(st.lists(FORMS, min_size=count, max_size=count))
    order = data.draw(st.permutations(range(count)))  # each word's head comes before it in this order
    heads = [0] * count
    for place, word in enumerate(order[1:], start=1):
        heads[word] = order[data.draw(st.integers(0, place - 1))] + 1
    joined = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    rows = [
        line(index + 1, words[index], heads[index], misc="SpaceAfter=No" if joined[index] else "_")
        for index in range(count)
    ]

    (found,) = read_conllu(written(tmp_path_factory.mktemp("trees"), "".join(rows)))

    assert found.words == tuple(words)
    assert [head + 1 for head in found.heads] == heads
    assert [found.text[a:b] for a, b in found.spans] == words


@pytest.mark.assets
def test_the_english_web_treebank_is_read_whole(assets):
    found = read_conllu(assets / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu")

    assert (len(found), sum(map(len, found))) == (2001, 25147)
    assert all(x.text[a:b] == word for x in found for word, (a, b) in zip(x.words, x.spans, strict=True))
    assert all(x.heads.count(-1) == 1 for x in found)
