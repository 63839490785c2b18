"""What single heads are for: the token before, a verb's object, a whole tree (Voita et al. 2019, Clark et al. 2019).

The heads are the embedded model's, the sentences are those of sentences.conllu beside this file; with --bertology-model
put your own model's heads here, and in the file sentences of the kind that it reads. Roles that a release depends on
are worth a test: pruning, distillation and fine-tuning move them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_bertology import (
    assert_head_attends,
    assert_head_role,
    assert_head_tracks,
    attention_probe,
    head_relations,
    head_roles,
    read_conllu,
)

SENTENCES = Path(__file__).with_name("sentences.conllu")


@pytest.fixture(scope="module")
def texts():
    return [sentence.text for sentence in read_conllu(SENTENCES)]


def test_two_heads_point_to_the_neighbours(bertology_model, texts):
    assert_head_role(bertology_model, texts, (0, 2), "positional", offset=-1, at_least=0.99)
    assert_head_role(bertology_model, texts, (1, 8), "positional", offset=+1)


def test_one_of_them_gives_them_all_of_its_attention(bertology_model, texts):
    """Where the greatest weight goes is one thing, how much goes there another."""
    assert_head_attends(bertology_model, texts, (0, 2), to="previous", at_least=0.99)
    with pytest.raises(AssertionError, match="L1H8"):
        assert_head_attends(bertology_model, texts, (1, 8), to="next", at_least=0.9)


@pytest.mark.parametrize(("head", "relation"), [((2, 0), "obj"), ((2, 3), "nsubj")])
def test_a_head_finds_a_words_verb_better_than_its_place_in_the_sentence_does(bertology_model, head, relation):
    assert_head_role(bertology_model, SENTENCES, head, "syntactic", relation=relation)


def test_a_head_leads_from_determiners_to_their_nouns(bertology_model):
    assert_head_tracks(bertology_model, SENTENCES, (3, 1), "det", at_least=0.8, direction="to_head")


def test_which_head_is_for_what(bertology_model):
    """A table of all heads, and of the best head for each relation: `pytest -s` shows them."""
    report = head_roles(bertology_model, SENTENCES)
    print(report.table(only_roles=True))
    print(head_relations(bertology_model, SENTENCES).table())

    assert report.counts["positional"] >= 2
    assert report.counts["syntactic"] >= 5
    assert report.roles((0, 2)) == ("positional",)


def test_all_heads_together_know_most_of_a_tree(bertology_model):
    probe = attention_probe(bertology_model, SENTENCES)
    print(probe.table())

    assert probe.uas >= 0.7
    for way in ("head", "offset", "random"):
        assert probe.lead(over=way).interval[0] > 0.1
