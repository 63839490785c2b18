"""Roles against plain loops over the weights of eager attention in float64, and a planted model with known roles."""

from __future__ import annotations

import copy
import inspect
import string

import numpy as np
import pytest
import torch
import transformers

from pytest_bertology import (
    Batching,
    Head,
    head_importance,
    head_relations,
    head_roles,
    load_model,
    read_conllu,
)
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.engine.texts import read_texts
from pytest_bertology.errors import EmptyTask, InvalidArgument, UndefinedScore, UnknownHead
from pytest_bertology.measures.role_counts import Rarity, token_frequencies
from tests.families import POSITIONS, redraw, task_for, texts, tokenizer, under_test
from tests.planted_roles import (
    CASE,
    COUNTS,
    DET,
    PREVIOUS,
    RAREST,
    VERB,
    WORDS,
    role_model,
    role_sentences,
    sentence_encoder,
)

OFFSETS = (-2, -1, 0, 1)
LETTERS = {letter: float(at // 2 + 1) for at, letter in enumerate(string.ascii_lowercase)}
FREQUENCIES = LETTERS | {f"##{letter}": count / 4 for letter, count in LETTERS.items()}
RARE = {"frequencies": FREQUENCIES, "frequent": 6}


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.fixture(scope="module")
def planted():
    return role_model()


def by_eager(model, sentences, frequencies, frequent=6, rarest=2):
    """For each (layer, head): shares at OFFSETS, share at rare tokens and by chance; token by token."""
    plain = copy.deepcopy(model)
    plain.set_attn_implementation("eager")
    tokens, known = tokenizer(), inspect.signature(plain.forward).parameters
    limit = sorted(frequencies.values(), reverse=True)[frequent - 1]
    causal = model.config.model_type in ("gpt2", "llama")
    at, rare, chance = {}, {}, []
    for text in sentences:
        inputs = tokens(text, return_tensors="pt")
        names = tokens.convert_ids_to_tokens(inputs.input_ids[0])
        with torch.no_grad():
            layers = plain(**{n: v for n, v in inputs.items() if n in known}, output_attentions=True).attentions
        own = range(1, len(names) - 1)  # all but [CLS] and [SEP]
        counts = sorted(frequencies.get(names[i], 0.0) for i in own)
        few = {i for i in own if len(own) > rarest and frequencies.get(names[i], 0.0) <= counts[rarest - 1]}
        few = few if few and counts[0] < limit and len(few) <= len(own) / 2 else set()
        for query in own:
            seen = [i for i in own if i <= query or not causal]
            able = bool(few & set(seen))
            chance += [len(few & set(seen)) / len(seen)] if able else []
            for layer, weights in enumerate(layers):
                for head, row in enumerate(weights[0, :, query].double().numpy()):
                    to = max(own, key=lambda key, row=row: row[key])
                    for offset in OFFSETS:
                        if query + offset in own:
                            at.setdefault((layer, head, offset), []).append(to - query == offset)
                    if able:
                        rare.setdefault((layer, head), []).append(to in few)
    return {key: np.mean(v) for key, v in at.items()}, {key: np.mean(v) for key, v in rare.items()}, np.mean(chance)


# -- shares ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_shares_are_those_of_eager_attention(name):
    model = under_test(name, "causal-lm" if name != "bert" else "sequence-classification", dtype=torch.float64)
    sentences = texts(60)
    at, rare, chance = by_eager(model.model, sentences, FREQUENCIES)

    found = head_roles(model, sentences, offsets=OFFSETS, **RARE)

    for head in model.heads:
        for offset in OFFSETS:
            assert found.share_at(offset)[head] == pytest.approx(at[head.layer, head.head, offset], abs=1e-12)
        most = max(OFFSETS, key=lambda each, head=head: at[head.layer, head.head, each])
        assert found.offset(head) == most
        assert found.positional[head] == found.share_at(most)[head]
        assert found.rare[head] == pytest.approx(rare[head.layer, head.head], abs=1e-12)
        assert found.rare_by_chance[head] == pytest.approx(chance, abs=1e-12)
    assert 0.1 < chance < 0.9


def test_of_layers_that_run_several_times_shares_are_the_mean():
    config = transformers.AlbertConfig(
        vocab_size=64, embedding_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=POSITIONS,
    )  # fmt: skip
    plain = redraw(transformers.AlbertModel(config), 0).double().eval()
    sentences = texts(60)
    at, rare, chance = by_eager(plain, sentences, FREQUENCIES)

    found = head_roles(load_model(plain, tokenizer=tokenizer()), sentences, offsets=OFFSETS, **RARE)

    for head in range(4):
        assert found.share_at(-1)[0, head] == pytest.approx(np.mean([at[run, head, -1] for run in range(3)]))
        assert found.rare[0, head] == pytest.approx(np.mean([rare[run, head] for run in range(3)]))
        assert found.rare_by_chance[0, head] == pytest.approx(chance)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("budget", [1, 60])
def test_neither_batches_nor_padding_nor_order_matter(side, budget):
    model, sentences = under_test("bert", dtype=torch.float64), texts(50)
    expected = head_roles(model, sentences, **RARE)

    found = head_roles(model, sentences[::-1], batching=Batching(tokens=budget, padding_side=side), **RARE)

    assert np.allclose(found.positional.values, expected.positional.values, atol=1e-12)
    assert np.allclose(found.rare.values, expected.rare.values, atol=1e-12)
    assert np.allclose(found.confidence.values, expected.confidence.values, atol=1e-9)


def test_confidence_is_that_of_head_importance():
    model, task = under_test("roberta"), task_for("sequence-classification", 40)

    found = head_roles(model, task, **RARE)

    assert np.allclose(found.confidence.values, head_importance(model, task, "confidence").values, atol=1e-6)


def test_masks_in_force_act():
    model, sentences = under_test("bert"), texts(40)
    plain = head_roles(model, sentences, **RARE)

    with model.masked([(0, head) for head in range(4)]):
        masked = head_roles(model, sentences, **RARE)

    assert (masked.positional.values[:4] == plain.positional.values[:4]).all()
    assert (masked.positional.values[4:] != plain.positional.values[4:]).any()


# -- rare tokens -------------------------------------------------------------------------------------------------


def rare_of(counts, rarest=2, frequent=0, words=None):
    rarity = Rarity(dict(enumerate(map(float, counts))), rarest, frequent)
    own = np.ones(len(counts), dtype=bool) if words is None else np.array(words, dtype=bool)
    return np.flatnonzero(rarity.among(range(len(counts)), own)).tolist()


def test_the_rarest_tokens_are_those_that_occur_least():
    assert rare_of([5, 1, 9, 2, 7]) == [1, 3]
    assert rare_of([5, 1, 9, 2, 7], rarest=1) == [1]


def test_equally_rare_tokens_count_together():
    assert rare_of([5, 1, 2, 9, 2, 7]) == [1, 2, 4]


def test_a_text_of_mostly_rare_tokens_tells_nothing():
    assert rare_of([1, 1, 1, 9, 7]) == []
    assert rare_of([1, 2]) == []


def test_a_text_whose_rarest_token_is_frequent_tells_nothing():
    assert rare_of([5, 1, 9, 2, 7], frequent=4) == [1, 3]
    assert rare_of([5, 1, 9, 2, 7], frequent=5) == []


def test_tokens_that_the_tokenizer_puts_there_are_never_rare():
    assert rare_of([0, 5, 3, 9, 2, 7], words=[0, 1, 1, 1, 1, 1]) == [2, 4]


def test_tokens_are_counted_in_the_texts_or_in_others():
    model = under_test("bert")
    read = read_texts(model, ["a ab", "b"])
    names = model.tokenizer.convert_ids_to_tokens

    own = token_frequencies(model, read, None)
    other = token_frequencies(model, read, ["c c c"])

    assert {names(token): count for token, count in own.items()} == {"a": 2, "##b": 1, "b": 1}
    assert {names(token): count for token, count in other.items()} == {"c": 3}


def test_counts_are_by_token_or_by_id():
    model, sentences = under_test("bert"), texts(50)
    by_id = {model.tokenizer.convert_tokens_to_ids(token): count for token, count in FREQUENCIES.items()}

    one, other = (head_roles(model, sentences, frequencies=each, frequent=6) for each in (FREQUENCIES, by_id))

    assert (one.rare.values == other.rare.values).all()


# -- roles -------------------------------------------------------------------------------------------------------


def test_planted_heads_have_their_roles_and_no_other(planted):
    sentences = role_sentences(200)

    found = head_roles(planted, sentences, frequencies=COUNTS, frequent=0, rarest=1, relations=["det", "case", "obl"])

    assert found.heads("positional") == (PREVIOUS,)
    assert (found.positional[PREVIOUS], found.offset(PREVIOUS)) == (1.0, -1)
    assert found.heads("rare") == (RAREST,)
    assert found.rare[RAREST] == 1.0
    for head, relation, direction in ((DET, "det", "to_head"), (CASE, "case", "from_head"), (VERB, "obl", "to_head")):
        best = found.tracks(head)[0]
        assert (best.relation, best.direction, best.accuracy) == (relation, direction, 1.0)
        assert found.roles(head) == ("syntactic",)
    assert found.roles(PREVIOUS) == ("positional",)
    assert found.counts["positional"] == found.counts["rare"] == 1


def test_a_syntactic_head_beats_the_offset_on_one_relation_or_more(planted):
    sentences = role_sentences(200)
    relations = head_relations(planted, sentences, subtypes=False)

    found = head_roles(planted, sentences, frequencies=COUNTS, frequent=0, relations=["det", "case"])

    for head in planted.heads:
        best = [relations.tracked(name, head) for name in ("det", "case")]
        enough = [t.accuracy >= 1.1 * t.offset_accuracy and t.difference_interval[0] > 0 for t in best]
        assert ("syntactic" in found.roles(head)) == any(enough)


def test_the_planted_rare_head_is_not_one_by_other_counts(planted):
    turned = {word: 1 / count for word, count in COUNTS.items()}

    found = head_roles(planted, role_sentences(100), frequencies=turned, frequent=0, rarest=1)

    assert found.rare[RAREST] < 0.05
    assert found.heads("rare") == ()


def test_pointing_to_rare_tokens_as_often_as_by_chance_is_no_role(planted):
    """Of four tokens two are the rarest: even attention would point to them half of the time."""
    sentences = ["det0 noun1 case2 runs", "noun2 det1 case0 sings"] * 20

    found = head_roles(planted, sentences, frequencies=COUNTS, frequent=0, rare_share=0.5)

    assert found.rare_by_chance.values == pytest.approx(0.5)
    assert found.heads("rare") == (RAREST,)
    assert found.least_rare[RAREST] == 1.0
    assert (found.rare.values >= 0.5).sum() > 1


def test_a_file_of_trees_is_read(planted, tmp_path):
    path = tmp_path / "planted.conllu"
    sentences = role_sentences(80)
    lines = [
        "\n".join(
            f"{at + 1}\t{word}\t_\tX\t_\t_\t{head + 1}\t{relation}\t_\t_"
            for at, (word, head, relation) in enumerate(zip(s.words, s.heads, s.relations, strict=True))
        )
        for s in sentences
    ]
    path.write_text("\n\n".join(lines) + "\n\n")
    options = {"relations": ["det"], "frequencies": COUNTS, "frequent": 0}

    found = head_roles(planted, path, **options)

    assert found.task == "planted.conllu"
    assert found.table().splitlines()[1:] == head_roles(planted, sentences, **options).table().splitlines()[1:]


def test_texts_without_trees_tell_no_syntactic_roles(planted):
    found = head_roles(planted, [s.text for s in role_sentences(60)], frequencies=COUNTS, frequent=0)

    assert found.judged == ("positional", "rare")
    assert found.roles(DET) == ()
    assert "without dependency trees" in found.not_judged["syntactic"]
    with pytest.raises(UndefinedScore, match="without dependency trees"):
        found.heads("syntactic")
    with pytest.raises(UndefinedScore, match="without dependency trees"):
        found.tracks(DET)


def test_trees_without_the_published_relations_tell_no_syntactic_roles(planted):
    found = head_roles(planted, role_sentences(60), frequencies=COUNTS, frequent=0)

    assert "none of nsubj, obj, amod, advmod has 20 cases" in found.not_judged["syntactic"]


def test_too_few_different_tokens_tell_no_rare_ones(planted):
    found = head_roles(planted, role_sentences(60))

    assert f"{len(WORDS)} different tokens were counted, and 500 of them count as frequent" in found.not_judged["rare"]
    with pytest.raises(UndefinedScore, match="give frequencies="):
        _ = found.rare
    assert "rare: not judged" in found.table()


def test_too_few_texts_with_rare_tokens_tell_nothing(planted):
    found = head_roles(planted, role_sentences(40), frequencies=COUNTS, frequent=11)

    rarest = min(COUNTS, key=COUNTS.get)
    number = sum(rarest in s.words and len(s) > 3 for s in role_sentences(40))
    assert found.not_judged["rare"].startswith(f"{number} of 40 texts have rare tokens to point to")


def test_too_few_tokens_tell_no_positional_heads(planted):
    found = head_roles(planted, ["det0 noun0 runs", "sings noun1"], offsets=(-1,), frequencies=COUNTS)

    assert found.not_judged["positional"] == "3 tokens have another at one of the offsets, and 30 are needed"
    with pytest.raises(UndefinedScore, match="3 tokens have another there"):
        found.share_at(-1)


def test_the_table_says_what_is_known_of_each_head(planted):
    found = head_roles(planted, role_sentences(100), frequencies=COUNTS, frequent=0, rarest=1, relations=["det"])

    lines = found.table().splitlines()

    assert len(lines) == 5 + len(planted.heads)
    row = next(line for line in lines if line.startswith(str(PREVIOUS)))
    assert row.split()[2:4] == ["-1", "1.000"]
    assert row.endswith("positional")
    assert len(found.table(only_roles=True).splitlines()) == 5 + sum(bool(found.roles(h)) for h in planted.heads)
    assert repr(found).startswith("RoleReport(BertModel on ")
    assert "1 positional" in repr(found)


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"offsets": ()}, "offsets="),
        ({"offsets": (0.5,)}, "offsets="),
        ({"positional_share": 0.0}, "positional_share="),
        ({"rare_share": 1.5}, "rare_share="),
        ({"rarest": 0}, "rarest="),
        ({"frequent": -1}, "frequent="),
        ({"frequencies": {"a": -1.0}}, "frequencies"),
        ({"frequencies": {"a": float("nan")}}, "frequencies"),
        ({"frequencies": {"no such token": 1}}, "tokens that the tokenizer has"),
        ({"frequencies": {}}, "tokens that the tokenizer has"),
        ({"relations": ["det"]}, "no dependency trees"),
        ({"select": "train.conllu"}, "no dependency trees"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, said):
    with pytest.raises(InvalidArgument, match=said):
        head_roles(under_test("bert"), texts(5), **options)


def test_reports_refuse_what_they_do_not_know(planted):
    found = head_roles(planted, role_sentences(60), frequencies=COUNTS, frequent=0)

    with pytest.raises(InvalidArgument, match="role='rarest'"):
        found.heads("rarest")
    with pytest.raises(InvalidArgument, match="offset=7"):
        found.share_at(7)
    with pytest.raises(UnknownHead):
        found.roles((9, 9))


def test_no_texts_are_an_error(planted):
    with pytest.raises(EmptyTask):
        head_roles(planted, [])


# -- a real model ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.assets
def test_roles_of_a_real_model(assets):
    sentences = read_conllu(assets / "data" / "ud_ewt" / "en_ewt-ud-dev.conllu")[:200]

    found = head_roles(sentence_encoder(), sentences, frequent=100)

    assert found.heads("positional") == (Head(0, 2), Head(1, 8))
    assert (found.offset((0, 2)), found.offset((1, 8))) == (-1, 1)
    assert {Head(2, 0), Head(2, 8)} <= set(found.heads("syntactic"))
    assert found.rare_texts > 100
