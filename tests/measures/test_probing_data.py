"""What probes learn from and are judged on: parts made by hand, of which it is known what they share."""

from __future__ import annotations

import warnings

import pytest

from pytest_bertology import load_task
from pytest_bertology.engine.items import LeftOut
from pytest_bertology.errors import BertologyWarning, InvalidArgument, LabelsNotLearned
from pytest_bertology.measures.probing_data import HELD_OUT, PARTS, TRAIN, chosen_layers, probing_data
from pytest_bertology.tasks.items import alike
from tests.tiny import WORDS, tiny_model

LABELS = ("x", "y")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def texts(count, start=0):
    """So many different pairs of words."""
    return [[WORDS[(start + n) // 5 % len(WORDS)], WORDS[(start + n) % 5]] for n in range(count)]


def task_of(tokens, labels=LABELS):
    return load_task({"tokens": tokens, "labels": [[labels[n % len(labels)] for n, _ in enumerate(t)] for t in tokens]})


def test_labels_that_are_all_others_are_refused_with_both_sides(model):
    with pytest.raises(LabelsNotLearned, match=r"has 'x', 'y', and .* has 'NN', 'VB'") as caught:
        probing_data(model, task_of(texts(6)), train=task_of(texts(20, 10), ("NN", "VB")))
    with pytest.raises(LabelsNotLearned, match=r"has 0, 1, and .* has 'a', 'b'"):
        probing_data(model, task_of(texts(6), (0, 1)), train=task_of(texts(20, 10), ("a", "b")))

    assert caught.value.task_labels == LABELS


def test_a_number_and_its_text_are_two_labels(model):
    learned = load_task({"tokens": texts(20, 10), "labels": [["0", "1"]] * 20})

    with pytest.raises(LabelsNotLearned, match=r"has 0, 1, and .* has '0', '1'\. .* of the same type"):
        probing_data(model, task_of(texts(6), (0, 1)), train=learned)


def test_labels_of_the_held_out_part_must_be_learned_too(model):
    with pytest.raises(LabelsNotLearned, match="'NN', 'VB'"):
        probing_data(
            model, task_of(texts(6)), train=task_of(texts(20, 10)), held_out=task_of(texts(5, 40), ("NN", "VB"))
        )


def test_labels_of_which_most_are_others_are_warned_of(model):
    judged = load_task({"tokens": texts(6), "labels": [["x", "q"], *[["q", "q"]] * 5]})
    learned = task_of(texts(20, 10))

    with pytest.warns(BertologyWarning, match=r"11 of the 12 items of .* not learned from, and count as wrong: 'q'"):
        assert probing_data(model, judged, train=learned).unseen == 11


def test_texts_that_differ_in_case_space_and_punctuation_alone_are_not_learned_from(model):
    one, two = texts(2)
    near = [[one[0].upper(), one[1] + "."], [two[0], ",", two[1].title()]]
    others = texts(20, 10)

    found = probing_data(model, task_of([one, two]), train=task_of([*near, *others]))

    assert found.shared == 2
    learned = {text for part in (TRAIN, HELD_OUT) for text in found.parts[part].items.texts}
    assert learned == {" ".join(words) for words in others}


def test_texts_that_are_alike_stay_on_one_side_in_any_order(model):
    pairs = [each for words in texts(20) for each in (words, [words[0].upper(), words[1] + "!"])]
    sides = []
    for order in (pairs, pairs[::-1]):
        found = probing_data(model, task_of(order), seed=3)
        sides.append({part: {alike(text) for text in found.parts[part].items.texts} for part in PARTS})
        assert sum(len(side) for side in sides[-1].values()) == 20

    assert sides[0] == sides[1]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A film.", "a  FILM", True),
        ("don't", "Don ’ t", True),
        ("re-run", "rerun", True),
        ("cafe\u0301", "caf\u00e9", True),
        ("cafe", "café", False),
        ("good 👍", "good 👎", False),
        ("1 + 2", "1 = 2", False),
        ("...", "?!", False),
        ("...", " .. .", True),
        (("a", "bc"), ("ab", "c"), False),
        (("A", "b."), ("a", "B"), True),
    ],
)
def test_alike_are_texts_up_to_case_space_and_punctuation(one, other, same):
    assert (alike(one) == alike(other)) is same


def test_as_many_texts_are_needed_as_there_are_parts(model):
    with pytest.raises(InvalidArgument, match=r"\(2 different texts\).* at least 3 texts .*to be judged on"):
        probing_data(model, task_of(texts(2)))
    with pytest.raises(InvalidArgument, match=r"^train=.*\(1 different text not judged on\).* at least 2 texts"):
        probing_data(model, task_of(texts(5)), train=task_of([*texts(5), *texts(1, 20)]))
    with pytest.raises(InvalidArgument, match=r"^task=.* at least 2 texts"):
        probing_data(model, task_of(texts(1)), held_out=task_of(texts(5, 20)))


def test_what_is_learned_from_few_texts_is_warned_of(model):
    with pytest.warns(BertologyWarning, match=r"learn from only 2 items of 1 text of"):
        probing_data(model, task_of(texts(3)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probing_data(model, task_of(texts(30)))


def test_a_held_out_part_that_is_what_is_learned_from_is_named(model):
    learned = task_of(texts(20, 10))

    with pytest.raises(InvalidArgument, match=r"^held_out=.* other texts than those that are learned from"):
        probing_data(model, task_of(texts(6)), train=learned, held_out=learned)


def test_texts_without_labels_are_told_so(model):
    with pytest.raises(InvalidArgument, match=r"it has texts and no labels: load_task\(\.\.\., label=\)"):
        probing_data(model, load_task({"text": ["a film", "dull film"]}))


def test_a_whole_number_is_one_layer():
    assert chosen_layers(3, 6) == (3,)
    assert chosen_layers([5, 3], 6) == (3, 5)
    for layers in (7, -1, True, 3.0):
        with pytest.raises(InvalidArgument, match="layers="):
            chosen_layers(layers, 6)


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (LeftOut(1, 2), "nothing; 1 text longer than the model can read was split into 2 pieces"),
        (
            LeftOut(2, 5, 1),
            "1 item that no piece of a split text holds; "
            "2 texts longer than the model can read were split into 5 pieces",
        ),
        (LeftOut(2, 0, 7), "2 texts longer than the model can read were dropped; 7 items went with them"),
        (LeftOut(), "nothing"),
    ],
)
def test_texts_that_were_split_are_not_left_out(left_out, said):
    assert str(left_out) == said
