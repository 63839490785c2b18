"""Tasks for probes, named on the command line: what arrives is what `load_task` gives, written down by hand here."""

from __future__ import annotations

import pytest

CONLLU = "\n".join([
    "1\tCats\t_\tNOUN\t_\t_\t2\tnsubj\t_\t_",
    "2\tsleep\t_\tVERB\t_\t_\t0\troot\t_\t_",
    "3\there\t_\tADV\t_\t_\t2\tadvmod\t_\t_\n",
])  # fmt: skip
CONLL = "Anna NNP B-per\nsings VBZ O\n\nBonn NNP B-loc\n"
EDGES = (
    '{"text": "Anna sings", "targets": [{"span1": [0, 1], "label": "per"}]}\n'
    '{"text": "in Bonn", "targets": [{"span1": [1, 2], "label": "loc"}]}\n'
)


@pytest.mark.parametrize(("name", "content", "label", "kind", "labels"), [
    ("dev.conllu", CONLLU, "upos", "token-classification", ("NOUN", "VERB", "ADV")),
    ("dev.conllu", CONLLU, "arc", "span-labelling", ("nsubj", "advmod")),
    ("dev.conll", CONLL, None, "token-classification", ("B-per", "O", "B-loc")),
    ("dev.conll", CONLL, "1", "token-classification", ("NNP", "VBZ", "NNP")),
    ("dev.bio", CONLL, "entity", "span-labelling", ("per", "loc")),
    ("dev.jsonl", EDGES, None, "span-labelling", ("per", "loc")),
])  # fmt: skip
def test_a_task_for_probes_is_named_by_options(suite, name, content, label, kind, labels):
    (suite.path / name).write_text(content, encoding="utf-8")
    options = [f"--bertology-model={suite.model}", f"--bertology-task={suite.path / name}"]

    result = suite.bare(
        f"def test_it(bertology_task):\n    assert (bertology_task.kind, bertology_task.flat_labels) == {kind, labels}",
        *options,
        *([] if label is None else [f"--bertology-label={label}"]),
    )

    result.assert_outcomes(passed=1)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("dev.conllu", CONLLU, "has no single label column; its columns are 'upos', 'xpos', 'deprel', 'arc'"),
    ("dev.conll", "Anna B-per\nsings O\n\nBonn B-loc\nRhein I-per\n", "line 5: I-per follows B-loc"),
    ("dev.jsonl", EDGES.replace("[1, 2]", "[1, 3]"), "line 2, target 0, span1 is tokens 1 to 3"),
])  # fmt: skip
def test_what_is_wrong_with_it_is_said(suite, name, content, said):
    (suite.path / name).write_text(content, encoding="utf-8")

    result = suite.bare(
        "def test_it(bertology_task):\n    pass",
        f"--bertology-model={suite.model}",
        f"--bertology-task={suite.path / name}",
    )

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{said.replace('[', '[[]')}*"])


def test_a_file_that_is_not_there_is_refused_at_once(suite):
    result = suite.bare("def test_it():\n    pass", "--bertology-task=none.bio")

    assert result.ret != 0
    assert "none.bio" in "\n".join(result.outlines + result.errlines)
