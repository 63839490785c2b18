"""Accuracies against plain loops over the weights of eager attention in float64, and a planted model.

Intervals against simulated samples of sentences, a bootstrap over sentences, and scipy's own for independent cases.
"""

from __future__ import annotations

import copy
import inspect
import random
from collections import Counter

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pytest_bertology import Batching, Head, head_relations, load_model, read_conllu
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.errors import BertologyWarning, InvalidArgument, MalformedData, UndefinedScore, UnknownHead
from pytest_bertology.measures.relation_intervals import effective, paired_difference, share_interval
from tests.families import POSITIONS, WORDS, redraw, tokenizer, under_test
from tests.planted_relations import CASE, DET, tracked_sentences, tracking_model

RELATIONS = ("det", "obj", "nsubj", "nsubj:pass")


def trees(count: int, seed: int = 0, longest: int = 8):
    """Sentences of words of one to three letters, some joined to the next, with trees and relations at random."""
    draw = random.Random(seed)
    sentences = []
    for _ in range(count):
        words = ["".join(draw.choices(WORDS, k=draw.randint(1, 3))) for _ in range(draw.randint(2, longest))]
        heads, order = [0] * len(words), draw.sample(range(len(words)), len(words))
        for place, word in enumerate(order[1:], start=1):
            heads[word] = draw.choice(order[:place]) + 1
        sentences.append([
            {"id": at + 1, "form": word, "head": heads[at], "upos": "X",
             "deprel": draw.choice(RELATIONS) if heads[at] else "root",
             "misc": {"SpaceAfter": "No"} if draw.random() < 0.2 else {}}
            for at, word in enumerate(words)
        ])  # fmt: skip
    return read_conllu(sentences)


def word_maps(attention, offsets, spans):
    """Attention between words, token by token and character by character."""
    own = [[len(set(range(*token)) & set(range(*word))) for word in spans] for token in offsets]
    shares = np.array([[n / sum(row) if sum(row) else 0.0 for n in row] for row in own])
    found = np.zeros((len(spans), len(spans)))
    for i in range(len(spans)):
        for j in range(len(spans)):
            into = [sum(attention[a, b] * shares[b, j] for b in range(len(offsets))) for a in range(len(offsets))]
            total = shares[:, i].sum()
            found[i, j] = sum(shares[a, i] * into[a] for a in range(len(offsets))) / total if total else 0.0
    return found


def by_eager(model, sentences):
    """For each dependency: its sentence, relation, offset, and which (layer, head, direction) is right about it."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    cases = []
    for position, each in enumerate(sentences):
        inputs = tokenizer()(each.text, return_tensors="pt", return_offsets_mapping=True)
        offsets = [tuple(map(int, pair)) for pair in inputs.pop("offset_mapping")[0]]
        known = {name: value for name, value in inputs.items() if name in inspect.signature(plain.forward).parameters}
        with torch.no_grad():
            layers = plain(**known, output_attentions=True).attentions
        maps = {
            (layer, head): word_maps(weights[0, head].double().numpy(), offsets, each.spans)
            for layer, weights in enumerate(layers)
            for head in range(weights.shape[1])
        }
        for word, governor in enumerate(each.heads):
            if governor < 0:
                continue
            right = {}
            for (layer, head), table in maps.items():
                for direction, turned in (("to_head", table), ("from_head", table.T)):
                    row = [-1.0 if other == word else turned[word, other] for other in range(len(each))]
                    right[layer, head, direction] = max(row) > 0.0 and row.index(max(row)) == governor
            cases.append((position, each.relations[word], governor - word, right))
    return cases


# -- accuracies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_accuracies_are_those_of_eager_attention(name):
    model = under_test(name, "causal-lm" if name != "bert" else "sequence-classification", dtype=torch.float64)
    report_on, select_on = trees(16), trees(10, seed=1)
    expected = by_eager(model.model, report_on)

    found = head_relations(model, report_on, select=select_on, min_cases=1)

    counts = Counter(relation for _, relation, _, _ in expected)
    assert {relation: found.cases(relation) for relation in found.relations} == dict(counts)
    for relation in (*found.relations, "all"):
        of = [right for _, name, _, right in expected if relation in (name, "all")]
        for head in model.heads:
            for direction in ("to_head", "from_head"):
                share = sum(right[head.layer, head.head, direction] for right in of) / len(of)
                assert found.accuracy(relation, head, direction) == pytest.approx(share, abs=1e-12)
                assert found.accuracies(relation, direction)[head] == pytest.approx(share, abs=1e-12)


def test_heads_directions_and_offsets_are_chosen_on_other_sentences():
    model = under_test("bert", dtype=torch.float64)
    sentences = trees(40)
    selecting, reporting = by_eager(model.model, sentences[::2]), by_eager(model.model, sentences[1::2])

    found = head_relations(model, sentences, min_cases=1)

    assert (found.selecting, found.sentences) == (20, 20)
    for relation in found.relations:
        chose = [(offset, right) for _, name, offset, right in selecting if name == relation]
        judged = [(offset, right) for _, name, offset, right in reporting if name == relation]
        keys = sorted(chose[0][1], key=lambda key: (key[0], key[1], key[2] == "from_head"))
        winner = max(keys, key=lambda key: sum(right[key] for _, right in chose))
        offset = max((-3, -2, -1, 1, 2, 3), key=lambda offset: sum(o == offset for o, _ in chose))
        best = found.best(relation)
        assert (best.head.layer, best.head.head, best.direction, best.offset) == (*winner, offset)
        assert best.selection_accuracy == pytest.approx(sum(right[winner] for _, right in chose) / len(chose))
        assert best.accuracy == pytest.approx(sum(right[winner] for _, right in judged) / len(judged))
        assert best.offset_accuracy == pytest.approx(sum(o == offset for o, _ in judged) / len(judged))
        assert best.difference == pytest.approx(best.accuracy - best.offset_accuracy)
        assert found.offset_baseline(relation).accuracy == best.offset_accuracy
        assert found.tracked(relation, best.head, best.direction).accuracy == best.accuracy


def test_choosing_and_reporting_on_the_same_data_would_have_looked_better():
    model, sentences = under_test("bert"), trees(60)

    found = head_relations(model, sentences, min_cases=1)

    assert sum(best.selection_accuracy - best.accuracy for best in found.bests) > 0.0


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [1, 40])
def test_neither_batches_nor_padding_nor_order_matter(side, budget):
    model, reported, select = under_test("bert", dtype=torch.float64), trees(12), trees(12, seed=1)
    expected = head_relations(model, reported, select=select, min_cases=1)

    batching = Batching(tokens=budget, padding_side=side)
    found = head_relations(model, reported[::-1], select=select[::-1], min_cases=1, batching=batching)

    assert [str(best) for best in found.bests] == [str(best) for best in expected.bests]


def test_subtypes_can_be_left_out():
    model, sentences = under_test("bert"), trees(40)
    fine = head_relations(model, sentences, min_cases=1)

    coarse = head_relations(model, sentences, min_cases=1, subtypes=False)

    assert set(fine.relations) == set(RELATIONS)
    assert set(coarse.relations) == {"det", "obj", "nsubj"}
    assert coarse.cases("nsubj") == fine.cases("nsubj") + fine.cases("nsubj:pass")
    assert coarse.cases("all") == fine.cases("all")


def test_of_layers_that_run_several_times_accuracy_is_the_mean():
    config = transformers.AlbertConfig(
        vocab_size=64, embedding_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    plain = redraw(transformers.AlbertModel(config), 0).double().eval()
    sentences = trees(10)
    expected = by_eager(plain, sentences)

    found = head_relations(load_model(plain, tokenizer=tokenizer()), sentences, select=trees(4, 1), min_cases=1)

    for head in range(4):
        share = np.mean([right[run, head, "from_head"] for *_, right in expected for run in range(3)])
        assert found.accuracy("all", (0, head), "from_head") == pytest.approx(share, abs=1e-12)


def test_words_cut_off_are_not_judged():
    model = under_test("bert")
    long = trees(1, seed=5, longest=60)[0]
    while len(long) < 45:
        long = trees(1, seed=len(long.text), longest=60)[0]

    with pytest.warns(BertologyWarning, match="were cut"):
        found = head_relations(model, [long, *trees(4)], select=trees(4, 1), min_cases=1)

    assert found.missing > 0
    present = sum(map(len, trees(4))) + len(long) - found.missing
    assert found.cases("all") + found.skipped == sum(map(len, trees(4))) + len(long) - 5
    assert found.cases("all") <= present
    assert f"{found.missing} words have no token: {found.skipped} dependencies are not judged" in found.table()


def test_a_masked_layer_changes_what_later_ones_track():
    model, sentences = under_test("bert"), trees(20)
    plain = head_relations(model, sentences, min_cases=1)

    with model.masked([(0, 0), (0, 1), (0, 2)]):
        masked = head_relations(model, sentences, min_cases=1)

    plain, masked = (report.accuracies("all").to_numpy() for report in (plain, masked))
    assert np.array_equal(plain[0], masked[0])
    assert not np.array_equal(plain[1], masked[1])


def test_a_cut_model_tracks_what_the_masked_one_does():
    model, sentences = under_test("llama", "causal-lm", dtype=torch.float64), trees(12)
    gone = [(0, 0), (0, 1), (1, 2), (1, 3)]  # heads that share keys are cut together
    with model.masked(gone):
        masked = head_relations(model, sentences, min_cases=1)

    cut = head_relations(model.pruned(gone), sentences, min_cases=1)

    kept = [masked.accuracy("all", head) for head in model.heads if (head.layer, head.head) not in gone]
    assert cut.accuracies("all").values.tolist() == pytest.approx(kept, abs=1e-12)


def test_an_encoder_decoder_tracks_in_every_stack():
    config = transformers.BartConfig(
        vocab_size=64, d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=POSITIONS,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=2,
    )  # fmt: skip
    plain = redraw(transformers.BartModel(config), 0).double().eval()
    model, sentences = load_model(plain, tokenizer=tokenizer()), trees(8)

    found = head_relations(model, sentences, select=trees(8, 1), min_cases=1)

    assert {head.stack for head in found.heads} == {"encoder", "decoder", "cross"}
    assert all(found.accuracy("all", head) > 0.0 for head in found.heads)


def test_in_causal_models_each_direction_finds_syntactic_heads_on_one_side():
    chains = {
        "right": [[{"id": at, "form": form, "head": (at + 1) % 5, "deprel": "dep"}
                   for at, form in enumerate(words, 1)] for words in ("abcd", "efgh", "ijkl", "mnop")],
        "left": [[{"id": at, "form": form, "head": at - 1, "deprel": "dep"}
                  for at, form in enumerate(words, 1)] for words in ("abcd", "efgh", "ijkl", "mnop")],
    }  # fmt: skip
    model = under_test("gpt2", "causal-lm")

    right, left = (head_relations(model, chains[side], min_cases=1) for side in ("right", "left"))

    assert right.accuracies("dep", "to_head").values.max() == 0.0
    assert left.accuracies("dep", "from_head").values.max() == 0.0
    assert right.best("dep").accuracy > 0.0
    assert left.best("dep").accuracy > 0.0


def test_results_are_stored_by_sentences_and_trees():
    model, store = under_test("bert"), ResultStore()
    sentences = trees(8)

    with using_store(store):
        first = head_relations(model, sentences, min_cases=1)
        again = head_relations(model, sentences, min_cases=1, confidence=0.8)
        head_relations(model, trees(8, seed=2), min_cases=1)

    assert (store.computed, store.reused) == (4, 2)
    assert [best.accuracy for best in first.bests] == [best.accuracy for best in again.bests]


# -- a planted model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    return head_relations(tracking_model(), tracked_sentences(60))


@pytest.mark.parametrize(("relation", "head", "direction"), [("det", DET, "to_head"), ("case", CASE, "from_head")])
def test_the_planted_head_tracks_its_relation(planted, relation, head, direction):
    best = planted.best(relation)

    assert (best.head, best.direction, best.accuracy) == (head, direction, 1.0)
    assert best.beats_offset
    assert relation in planted.significant()
    other = "from_head" if direction == "to_head" else "to_head"
    assert planted.accuracy(relation, head, other) < 0.9
    assert all(planted.accuracy(relation, h, direction) < 0.9 for h in planted.heads if h != head)
    assert planted.tracked(relation, head).direction == direction


def test_heads_that_are_no_better_than_offsets_are_listed_and_do_not_beat_them():
    found = head_relations(under_test("bert"), trees(80), min_cases=1)

    assert len(found.relations) == len(RELATIONS)
    assert found.significant() == ()
    assert [line.split()[-1] for line in found.table().splitlines()[-5:-1]] == ["no"] * 4


def test_p_values_are_corrected_for_the_number_of_relations(planted):
    alone = {best.relation: planted.tracked(best.relation, best.head, best.direction) for best in planted.bests}
    smallest = min(planted.bests, key=lambda best: best.p_value)

    assert smallest.adjusted_p_value == pytest.approx(3 * smallest.p_value)
    assert all(best.adjusted_p_value >= best.p_value for best in planted.bests)
    assert all(each.adjusted_p_value is None for each in alone.values())


def test_the_table_holds_what_was_found(planted):
    lines = planted.table().splitlines()

    row = next(line for line in lines if line.startswith("det")).split()
    best = planted.best("det")
    assert row[1:5] == [str(best.cases), "L1H2", "to_head", "1.000"]
    assert row[-1] == "yes"
    assert lines[-1].startswith("all ")
    assert f"{len(planted.significant())} of 3 relations beat the best of the offsets" in planted.table()
    assert sum(line.startswith(("det", "case", "obl")) for line in planted.table(1).splitlines()) == 1
    assert repr(planted).startswith("RelationReport(")
    assert "det: L1H2 (to_head) 1.000 of" in str(best)


def test_mistakes_are_words_that_point_elsewhere(planted):
    model, tracked = tracking_model(), planted.tracked("det", (0, 1), "to_head")

    found = planted.mistakes(model, tracked, limit=3)

    assert len(found) == 3
    for each in found:
        assert each.dependent.startswith("det")
        assert each.governor == each.dependent.replace("det", "noun")
        assert each.found != each.governor
        assert each.dependent in each.text
    assert planted.mistakes(model, planted.best("det")) == []


# -- intervals ---------------------------------------------------------------------------------------------------


def test_independent_cases_have_wilsons_interval():
    right = (np.random.default_rng(0).random(4000) < 0.7).astype(float)
    plain = stats.binomtest(int(right.sum()), 4000).proportion_ci(0.95, "wilson")

    found = share_interval(right, np.arange(4000), 0.95)

    assert found == pytest.approx((plain.low, plain.high), abs=2e-5)


def test_cases_told_twice_tell_no_more():
    draw = np.random.default_rng(0)
    ours, theirs = (draw.random((2, 300)) < [[0.7], [0.5]]).astype(float)
    once = share_interval(ours, np.arange(300), 0.95), paired_difference(ours, theirs, np.arange(300), 0.95)

    twice = np.repeat(np.arange(300), 5)
    shares, difference = (
        share_interval(ours[twice], twice, 0.95),
        paired_difference(ours[twice], theirs[twice], twice, 0.95),
    )

    assert shares == pytest.approx(once[0], abs=1e-9)
    assert difference.interval == pytest.approx(once[1].interval, abs=1e-7)
    assert difference.p_value == pytest.approx(once[1].p_value, rel=1e-6)


def test_cases_never_count_for_more_than_they_are():
    right = np.tile([0.0, 1.0], 50)  # every cluster exactly half: a smaller variance than chance's

    assert effective(right - 0.5, np.repeat(np.arange(50), 2), 0.25, 0.95) <= 100.0


def test_intervals_hold_as_often_as_they_say():
    """Sentences of one to six words that are right, or not, together; and two judgements that depend on each other."""
    draw, held, ours_held, rounds = np.random.default_rng(0), 0, 0, 400
    for _ in range(rounds):
        clusters = np.repeat(np.arange(60), draw.integers(1, 7, size=60))
        mood = draw.normal(size=60)[clusters]
        ours = (draw.normal(size=len(clusters)) + mood < 0.5).astype(float)
        theirs = (draw.normal(size=len(clusters)) + mood < 0.0).astype(float)
        low, high = share_interval(ours, clusters, 0.95)
        ours_held += low <= stats.norm.cdf(0.5 / np.sqrt(2.0)) <= high
        low, high = paired_difference(ours, theirs, clusters, 0.95).interval
        held += low <= stats.norm.cdf(0.5 / np.sqrt(2.0)) - 0.5 <= high

    assert 0.93 <= ours_held / rounds <= 0.985
    assert 0.93 <= held / rounds <= 0.985


def test_intervals_are_about_those_of_a_bootstrap_over_sentences():
    draw = np.random.default_rng(1)
    clusters = np.repeat(np.arange(400), draw.integers(1, 5, size=400))
    mood = draw.normal(size=400)[clusters]
    ours = (draw.normal(size=len(clusters)) + mood < 0.5).astype(float)
    theirs = (draw.normal(size=len(clusters)) < 0.0).astype(float)
    sums = np.array([np.bincount(clusters, weights) for weights in (ours, ours - theirs, np.ones(len(clusters)))])
    counts = draw.multinomial(400, np.full(400, 1 / 400), size=4000)
    drawn = (counts @ sums[:2].T) / (counts @ sums[2])[:, None]

    expected = np.quantile(drawn, [0.025, 0.975], axis=0)

    assert share_interval(ours, clusters, 0.95) == pytest.approx(expected[:, 0], abs=0.006)
    assert paired_difference(ours, theirs, clusters, 0.95).interval == pytest.approx(expected[:, 1], abs=0.006)


@settings(deadline=None, database=None, max_examples=80)
@given(data=st.data(), n=st.integers(2, 40))
def test_intervals_hold_what_was_seen_and_agree_with_their_p_value(data, n):
    bits = st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n)
    ours, theirs = np.array(data.draw(bits)), np.array(data.draw(bits))
    clusters = np.sort(data.draw(st.lists(st.integers(0, n // 2), min_size=n, max_size=n)))

    low, high = share_interval(ours, clusters, 0.95)
    found = paired_difference(ours, theirs, clusters, 0.95)

    assert 0.0 <= low <= ours.mean() + 1e-12
    assert ours.mean() - 1e-12 <= high <= 1.0
    assert high - low > 0.0  # also where all, or none, are right
    assert -1.0 <= found.interval[0] <= found.difference + 1e-9
    assert found.difference - 1e-9 <= found.interval[1] <= 1.0
    outside = found.interval[0] > 1e-6 or found.interval[1] < -1e-6
    assert outside == (found.p_value < 0.05 - 1e-6) or abs(found.p_value - 0.05) < 1e-3
    turned = paired_difference(theirs, ours, clusters, 0.95)
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=1e-7)


def test_one_sentence_says_nothing_of_others():
    assert share_interval(np.ones(9), np.zeros(9), 0.95) == (0.0, 1.0)
    assert paired_difference(np.ones(9), np.zeros(9), np.zeros(9), 0.95).interval == (-1.0, 1.0)


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "said"), [
    ({"relations": ["dobj"]}, "dobj.*det, "),
    ({"relations": []}, "relations"),
    ({"relations": "det"}, "relations"),
    ({"relations": [3]}, "relations"),
    ({"offsets": [0, 1]}, "other than 0"),
    ({"offsets": []}, "offsets"),
    ({"offsets": "1"}, "offsets"),
    ({"min_cases": 0}, "min_cases"),
    ({"confidence": 1.0}, "confidence"),
    ({"confidence": True}, "confidence"),
])  # fmt: skip
def test_arguments_that_make_no_sense_are_refused(options, said):
    with pytest.raises(InvalidArgument, match=f"(?s){said}"):
        head_relations(under_test("bert"), trees(20), **options)


def test_a_model_that_is_none_is_refused():
    with pytest.raises(InvalidArgument, match="model"):
        head_relations("bert", trees(4))


def test_too_few_cases_are_an_error_and_no_number():
    model, sentences = under_test("bert"), trees(20)

    with pytest.raises(UndefinedScore, match=r"1000 cases are needed.*det has"):
        head_relations(model, sentences, relations=["det"], min_cases=1000)
    with pytest.raises(UndefinedScore, match="1000 cases are needed"):
        head_relations(model, sentences, min_cases=1000)
    counts = Counter(r for each in sentences[1::2] for r in each.relations if r != "root")
    rarest = min(counts, key=counts.__getitem__)
    found = head_relations(model, sentences, min_cases=counts[rarest] + 1)
    assert rarest in found.rare
    with pytest.raises(UndefinedScore, match=f"{rarest} has {counts[rarest]}, and"):
        found.best(rarest)
    assert f"{rarest} {counts[rarest]}" in found.table()


def test_a_relation_that_no_sentence_could_choose_a_head_for_is_not_reported():
    model = under_test("bert")
    without = [each for each in trees(60) if "det" not in each.relations]

    with pytest.raises(UndefinedScore, match=r"det has .* and 0 to choose by"):
        head_relations(model, trees(20, seed=3), select=without, relations=["det"], min_cases=1)


def test_sentences_reported_on_choose_nothing():
    model, sentences = under_test("bert"), trees(10)

    with pytest.raises(InvalidArgument, match=r"select=.*not all among those reported on"):
        head_relations(model, sentences, select=sentences, min_cases=1)
    found = head_relations(model, sentences, select=[*sentences[:4], *trees(6, 1)], min_cases=1)

    assert (found.left_out, found.selecting) == (4, 6)
    assert "4 left out" in found.table()


def test_one_sentence_is_not_split():
    with pytest.raises(InvalidArgument, match="two sentences or more"):
        head_relations(under_test("bert"), trees(1))


def test_sentences_in_which_no_word_depends_on_another_have_no_accuracy():
    alone = read_conllu([[{"id": 1, "form": letter, "head": 0, "deprel": "root"}] for letter in "abcd"])

    with pytest.raises(UndefinedScore, match="no word depends on another"):
        head_relations(under_test("bert"), alone)


def test_reports_refuse_what_they_do_not_know(planted):
    with pytest.raises(InvalidArgument, match="nsubj"):
        planted.best("nsubj")
    with pytest.raises(InvalidArgument, match="direction"):
        planted.accuracy("det", (0, 0), "down")
    with pytest.raises(UnknownHead):
        planted.accuracy("det", (9, 0))
    with pytest.raises(InvalidArgument, match="k=0"):
        planted.table(0)


def test_faults_of_a_file_are_told(tmp_path):
    (tmp_path / "dev.conllu").write_text("1\ta\n")

    with pytest.raises(MalformedData, match=r"dev\.conllu: line 1"):
        head_relations(under_test("bert"), tmp_path / "dev.conllu")


def test_of_equal_attention_the_first_word_counts_and_none_is_no_hit():
    from pytest_bertology.measures.relation_cases import pointed_at

    maps = torch.tensor([[[9.0, 0.2, 0.2], [0.0, 1.0, 0.0], [0.3, 0.1, 0.0]]])

    to, back = pointed_at(maps, [0, 1, 2])

    assert to.tolist() == [[1, -1, 0]]
    assert back.tolist() == [[2, 0, 0]]


@pytest.mark.slow
@pytest.mark.assets
def test_relations_of_a_real_model(assets):
    """Heads chosen on train sentences, judged on others; figures of the assets' README beside."""
    from pytest_bertology import load_embedded_model

    folder = assets / "data" / "ud_ewt"
    dev, train = (
        read_conllu(folder / "en_ewt-ud-dev.conllu")[:200],
        read_conllu(folder / "en_ewt-ud-train-subset.conllu"),
    )

    found = head_relations(load_embedded_model(), dev, select=train[:200], subtypes=False)

    assert {"det", "nsubj", "obj", "case", "amod"} <= set(found.relations)
    assert {"det", "obj", "case"} <= set(found.significant())
    assert "compound" not in found.significant()
    assert found.best("det").head == Head(2, 8)
    assert found.best("det").accuracy == pytest.approx(0.80, abs=0.04)
    assert found.best("obj").head == Head(2, 0)
    assert found.best("obj").accuracy == pytest.approx(0.71, abs=0.05)
