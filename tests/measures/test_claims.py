"""Published claims, against planted models of which it is known where what is.

Changes of attention are held against NumPy on eager attention in float64; thirds against numbers written by hand.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import BertConfig, BertModel

from pytest_bertology import claims, examine_claim, head_relations, load_model, load_task, probe
from pytest_bertology.errors import BertologyWarning, InvalidArgument, MalformedData, NothingToJudge, UndefinedScore
from pytest_bertology.heads import Head
from pytest_bertology.measures.claims_catalogue import find_claim
from pytest_bertology.measures.claims_finding import EARLY, FINAL, MIDDLE, Comparison, Examined, decide, third
from pytest_bertology.measures.claims_layers import _by_thirds, attention_changes, positions_task
from tests.planted import planted_model, planted_task
from tests.planted_layers import planted_layer_model, planted_layer_task
from tests.planted_relations import tracked_sentences, tracking_model
from tests.planting import words_as_tokens
from tests.tiny import redraw, sentences, tiny_model, tiny_task

SYNTAX = "middle layers carry most syntax"
POSITIONS = "early layers carry positional information"
FINAL_LAYERS = "final layers are most task-specific"
REDUNDANT = "heads are redundant"
SINGLE = "single heads track single relations"


# -- the catalogue -----------------------------------------------------------------------------------------------


def test_every_claim_says_where_it_is_from_and_when_it_holds():
    assert [claim.name for claim in claims()] == [SYNTAX, POSITIONS, FINAL_LAYERS, REDUNDANT, SINGLE]
    for claim in claims():
        page = claim.describe()
        assert page.startswith(f"{claim.name}\n  claim ")
        assert all(len(line) <= 120 for line in page.split("\n"))
        assert "section" in claim.sources[0]
        assert "Rogers" in claim.sources[0]
        assert len(claim.sources) > 1
        assert "Holds where" in claim.holds
        assert "oes not hold" in claim.holds
        assert "cannot be decided" in " ".join(claim.holds.split())


def test_a_claim_is_found_by_its_name_whatever_its_case():
    assert find_claim("Middle layers carry most syntax.") is claims()[0]
    assert find_claim(claims()[2]) is claims()[2]


@pytest.mark.parametrize(("name", "said"), [
    ("middle layers carry syntax", "expected 'middle layers carry most syntax'\\? The others are 'early layers"),
    ("cats", "expected one of 'middle layers carry most syntax', 'early layers"),
    (7, "claim='int' is not valid"),
])  # fmt: skip
def test_an_unknown_claim_is_told_the_closest(name, said):
    with pytest.raises(InvalidArgument, match=said):
        find_claim(name)


@pytest.mark.parametrize(("claim", "arguments", "said"), [
    (SYNTAX, {}, "conllu=None is not valid: expected data: the claim 'middle layers carry most syntax' needs conllu="),
    (FINAL_LAYERS, {}, "base=None .* needs base=load_model.* and texts="),
    (FINAL_LAYERS, {"texts": ["a"]}, "base=None"),
    (FINAL_LAYERS, {"base": "model"}, "task=None|texts=None"),
    (REDUNDANT, {"conllu": "x.conllu"}, "task=None"),
    (SINGLE, {"conllu": "x.conllu", "texts": ["a"]}, "texts='\\(given\\)' is not valid: expected None"),
    (POSITIONS, {"texts": ["a b"], "train": "x.conllu"}, "train='\\(given\\)'"),
    (SINGLE, {"conllu": "x.conllu", "confidence": 1.0}, "confidence=1.0"),
    (SINGLE, {"conllu": "x.conllu", "seed": -1}, "seed=-1"),
    (REDUNDANT, {"task": "dev.tsv"}, "task='str'"),
    (REDUNDANT, {"task": tiny_task(), "train": "x.conllu"}, "train='str' .* a task, as task= is"),
    (SYNTAX, {"conllu": "x.conllu", "train": tiny_task()}, "train='Task' .* trees, as conllu= is"),
])  # fmt: skip
def test_data_that_a_claim_needs_and_data_that_it_does_not(claim, arguments, said):
    with pytest.raises(InvalidArgument, match=said):
        examine_claim(claim, tiny_model(), **arguments)


# -- what follows from numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("last", "early", "middle", "final"), [
    (3, [0, 1], [2], [3]),
    (4, [0, 1], [2], [3, 4]),
    (6, [0, 1, 2], [3, 4], [5, 6]),
    (12, [0, 1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]),
])  # fmt: skip
def test_thirds_of_layers(last, early, middle, final):
    found = {
        name: [layer for layer in range(last + 1) if third(layer, last) == name] for name in (EARLY, MIDDLE, FINAL)
    }

    assert found == {EARLY: early, MIDDLE: middle, FINAL: final}


@pytest.mark.parametrize(("intervals", "outcome", "decisive"), [
    ([(0.1, 0.3), (0.2, 0.6)], "holds", 0),
    ([(0.1, 0.3), (-0.2, 0.6)], "cannot be decided from this data", 1),
    ([(0.0, 0.4), (0.2, 0.6)], "cannot be decided from this data", 0),
    ([(-0.3, -0.1), (0.2, 0.6)], "does not hold", 0),
    ([(-0.3, -0.1), (-0.2, 0.6)], "does not hold", 0),
    ([(-0.3, 0.0), (0.2, 0.6)], "cannot be decided from this data", 0),
])  # fmt: skip
def test_what_intervals_decide(intervals, outcome, decisive):
    comparisons = [Comparison(f"c{index}", sum(each) / 2, each) for index, each in enumerate(intervals)]

    found, reason, judged = decide(comparisons)

    assert (found, judged) == (outcome, comparisons[decisive])
    assert outcome == "holds" or f"c{decisive}" in reason


# -- layers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layer", "outcome"), [(1, "does not hold"), (2, "holds"), (4, "does not hold")])
def test_labels_that_one_layer_carries_are_where_they_are(layer, outcome):
    model, task = planted_layer_model(layer, fading=True), planted_layer_task(150, 0)

    found = examine_claim(SYNTAX, model, task=task)

    assert (found.outcome, found.holds, found.decided) == (outcome, outcome == "holds", True)
    assert found.evidence.best_layer == layer
    assert f"layer {layer} (" in found.judged or outcome == "holds"
    assert f"{layer}: 1.0000" in found.rows["by layer"]
    assert f"outcome   {outcome}" in found.table().replace("outcome     ", "outcome   ")


def test_labels_that_later_layers_keep_decide_nothing():
    found = examine_claim(SYNTAX, planted_layer_model(2), task=planted_layer_task(150, 0))

    assert found.outcome == "cannot be decided from this data"
    assert "the interval holds 0" in found.reason
    assert found.judged == "accuracy of layer 2 (middle) less that of layer 3 (final)"


def test_labels_that_nobody_can_tell_decide_nothing():
    task = planted_layer_task(60, 0)
    drawn = np.random.default_rng(0)
    noise = load_task({
        "tokens": [list(words) for words in task.texts],
        "labels": [[str(x) for x in drawn.integers(0, 2, len(words))] for words in task.texts],
    })  # fmt: skip

    found = examine_claim(SYNTAX, planted_layer_model(2), task=noise)

    assert not found.decided
    assert "no probe is surely better than the most frequent label" in found.reason


def test_an_early_layer_is_early():
    model, task = planted_layer_model(1, fading=True), planted_layer_task(150, 0)
    report = probe(model, task, control=False, random_model=False)
    given = Examined(find_claim(POSITIONS), model, None, task, None, None, None, 0.95, 0, None)

    assert _by_thirds(given, report, EARLY).holds
    assert not _by_thirds(given, report, MIDDLE).holds


def test_positions_that_all_layers_hold_decide_nothing():
    texts = [" ".join(words) for words in planted_layer_task(80, 1).texts]

    found = examine_claim(POSITIONS, planted_layer_model(2), texts=texts)

    assert found.outcome == "cannot be decided from this data"
    assert found.evidence.scores[0] > 0.99


def test_places_of_words_are_counted_between_white_space():
    task = positions_task(["a  bb c", "one", " ".join("abcdefghijklm")])

    assert [text for text, _ in task.written] == ["a  bb c", " ".join("abcdefghijklm")]
    assert task.labels == ((0, 1, 2), tuple(range(10)))
    assert [task.texts[0][a:b] for ((a, b),) in task.written[0].spans] == ["a", "bb", "c"]
    with pytest.raises(MalformedData, match="no text has two words"):
        positions_task(["one", ""])


def test_two_layers_are_too_few(tmp_path):
    with pytest.raises(InvalidArgument, match="three layers or more"):
        examine_claim(POSITIONS, tiny_model(), texts=sentences(40))


# -- what fine-tuning changes ------------------------------------------------------------------------------------

WORDS = tuple("abcdefgh")
TEXTS = [" ".join(WORDS[at : at + size]) for at in range(4) for size in (3, 4, 5)]


def three_layers(change=None, seed: int = 1):
    vocabulary = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        bert = BertModel(config, add_pooling_layer=False).eval()
    redraw(bert, 0)
    if change is not None:
        query = bert.encoder.layer[change].attention.self.query.weight
        with torch.no_grad():
            query += torch.randn(query.shape, generator=torch.Generator().manual_seed(seed))
    return bert, words_as_tokens(vocabulary)


def as_model(bert, tokenizer):
    return load_model(bert, tokenizer=tokenizer)


def test_changes_of_attention_are_those_of_eager_attention():
    (bert, tokenizer), (base, _) = three_layers(1), three_layers()

    _, found = attention_changes(as_model(bert, tokenizer), as_model(base, tokenizer), TEXTS)

    expected = np.zeros((len(TEXTS), 3))
    both = []
    for each in (bert, base):
        eager = copy.deepcopy(each).double()
        eager.set_attn_implementation("eager")
        with torch.no_grad():
            both.append(
                [eager(**tokenizer(text, return_tensors="pt"), output_attentions=True).attentions for text in TEXTS]
            )
    for text in range(len(TEXTS)):
        for layer in range(3):
            ours, theirs = (side[text][layer][0].numpy().reshape(2, -1) for side in both)
            cosines = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
            expected[text, layer] = np.mean(1.0 - cosines)
    assert np.abs(found - expected).max() < 1e-5
    assert found[:, 0].max() < 1e-6
    assert found[:, 1].mean() > 0.01


def test_a_model_changed_at_its_end_changed_most_there():
    (bert, tokenizer), (base, _) = three_layers(2), three_layers()

    found = examine_claim(FINAL_LAYERS, as_model(bert, tokenizer), base=as_model(base, tokenizer), texts=TEXTS)

    assert (found.holds, found.examples) == (True, len(TEXTS))
    differences = found.evidence[:, 2] - found.evidence[:, 1]
    low, high = stats.t.interval(0.95, len(TEXTS) - 1, differences.mean(), stats.sem(differences))
    assert found.interval == pytest.approx((low, high))


def test_a_model_changed_at_its_beginning_alone_did_not():
    """Nothing of the change is passed on: what the first layer's attention gathers is nothing."""
    (bert, tokenizer), (base, _) = three_layers(0), three_layers()
    for each in (bert, base):
        with torch.no_grad():
            each.encoder.layer[0].attention.output.dense.weight.zero_()

    found = examine_claim(FINAL_LAYERS, as_model(bert, tokenizer), base=as_model(base, tokenizer), texts=TEXTS)

    assert found.outcome == "does not hold"
    assert "the early ones" in found.reason


def test_what_cannot_be_compared_is_said():
    (bert, tokenizer), (base, _) = three_layers(2), three_layers()
    model, base = as_model(bert, tokenizer), as_model(base, tokenizer)

    with pytest.raises(NothingToJudge, match="attend alike in all layers"):
        examine_claim(FINAL_LAYERS, base, base=base, texts=TEXTS)
    with pytest.raises(UndefinedScore, match="there is 1 text"):
        examine_claim(FINAL_LAYERS, model, base=base, texts=TEXTS[:1])
    with pytest.raises(InvalidArgument, match=r"base=.* a model with the heads of"):
        examine_claim(FINAL_LAYERS, model, base=tiny_model(), texts=TEXTS)
    shifted = words_as_tokens(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *reversed(WORDS)))
    with pytest.raises(InvalidArgument, match=r"the same tokens .* text 0"):
        examine_claim(FINAL_LAYERS, model, base=as_model(three_layers()[0], shifted), texts=TEXTS)


# -- heads -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:all .* masked heads")
def test_a_model_in_which_one_head_works_needs_no_other():
    found = examine_claim(REDUNDANT, planted_model(Head(1, 2)), task=planted_task(400, 0))

    assert (found.outcome, found.value) == ("holds", 0.0)
    assert found.interval[1] < 0.05
    assert found.evidence.scores == (1.0,) * 5
    assert "5 of 12 heads" in found.judged


def test_a_model_that_leans_on_every_head_does_not():
    model = tiny_model()
    redraw(model.model, 3)
    task = tiny_task(300, model)

    found = examine_claim(REDUNDANT, model, task=task)

    assert found.outcome == "does not hold"
    assert found.interval[0] > 0.05
    assert found.value == pytest.approx(1.0 - found.evidence.at(0.4).score)
    assert found.examples == 150


@pytest.mark.filterwarnings("ignore:all .* masked heads")
def test_a_few_examples_and_a_model_that_guesses_decide_nothing():
    few = examine_claim(REDUNDANT, planted_model(Head(1, 2)), task=planted_task(20, 0))
    task = planted_task(400, 0)
    drawn = np.random.default_rng(0).integers(0, 2, 400)
    noise = load_task({"text": list(task.texts), "label": drawn.tolist()})

    guessing = examine_claim(REDUNDANT, planted_model(Head(1, 2)), task=noise)

    assert (few.decided, guessing.decided) == (False, False)
    assert "more examples may decide" in few.reason
    assert "not surely better than always the most frequent label" in guessing.reason


def test_relations_that_have_their_heads():
    trees, chosen = tracked_sentences(200, 0), tracked_sentences(100, 1)

    found = examine_claim(SINGLE, tracking_model(), conllu=trees, train=chosen)

    report = head_relations(tracking_model(), trees, select=chosen, min_cases=50)
    surely = [each for each in report.bests if each.beats_offset]
    assert {"det", "case"} <= {each.relation for each in surely}
    assert found.value == len(surely) / len(report.relations)
    assert found.holds == (found.value >= 0.5)
    assert found.interval[0] == found.value


def test_a_base_that_warns_still_counts():
    with pytest.warns(BertologyWarning, match="idle"):
        examine_claim(REDUNDANT, planted_model(Head(1, 2)), task=planted_task(100, 0))
