"""Distances of a student to its teacher. Oracle: TinyBERT's formulas in NumPy, text by text, without padding.

Attention scores are there computed from hidden states and the weights of query and key, in float64.
"""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from pytest_bertology import Batching, Task, load_model
from pytest_bertology.errors import (
    BertologyWarning,
    CannotMeasure,
    EmptyTask,
    InvalidArgument,
    NonFinite,
    UndefinedScore,
    UnknownLayer,
)
from pytest_bertology.measures import paired_scores
from pytest_bertology.measures.distances import (
    LayerDistance,
    attention_distance,
    hidden_state_distance,
    logit_distance,
)
from pytest_bertology.measures.pairing import LayerPair, layer_pairs
from tests.families import few, redraw, task_for, texts, tokenizer, under_test

LETTERS = texts(9)
DEPTH = {"bert": "num_hidden_layers", "distilbert": "n_layers", "gpt2": "n_layer", "llama": "num_hidden_layers"}


def pair(name="bert", kind="sequence-classification", layers=(2, 4), **options):
    """Student and teacher with weights of their own."""
    return tuple(
        under_test(name, kind, seed=seed, dtype=torch.float64, **{DEPTH[name]: count}, **options)
        for seed, count in enumerate(layers)
    )


def ran(model, text, **options):
    known = inspect.signature(model.model.forward).parameters
    inputs = {name: value for name, value in model.tokenizer(text, return_tensors="pt").items() if name in known}
    with torch.no_grad():
        return model.model(**inputs, **options)


def states(model, text):
    """Embeddings and layers, (tokens, width) each."""
    return [layer[0].numpy() for layer in ran(model, text, output_hidden_states=True).hidden_states]


def bert_scores(model, text, layer):
    """(heads, tokens, tokens) before the softmax."""
    own = model.model.bert.encoder.layer[layer].attention.self
    x = states(model, text)[layer]
    query, key = (
        (x @ part.weight.detach().numpy().T + part.bias.detach().numpy()).reshape(len(x), -1, 6).transpose(1, 0, 2)
        for part in (own.query, own.key)
    )
    return query @ key.transpose(0, 2, 1) / np.sqrt(6)


def gpt2_scores(model, text, layer):
    block = model.model.transformer.h[layer]
    x = torch.from_numpy(states(model, text)[layer])
    with torch.no_grad():
        query, key, _ = block.attn.c_attn(block.ln_1(x)).split(24, dim=1)
    query, key = (part.numpy().reshape(len(x), 4, 6).transpose(1, 0, 2) for part in (query, key))
    return np.tril(query @ key.transpose(0, 2, 1) / np.sqrt(6))


def mean_square(arrays):
    """Of all numbers of all arrays."""
    return sum((array**2).sum() for array in arrays) / sum(array.size for array in arrays)


# -- which layers belong together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [(2, 4, [1, 3]), (4, 12, [2, 5, 8, 11]), (3, 3, [0, 1, 2]), (1, 5, [4]), (6, 12, [1, 3, 5, 7, 9, 11])],
)
def test_uniform_is_the_last_of_each_k(student, teacher, expected):
    found = layer_pairs({None: student}, {None: teacher}, "uniform")

    assert found == tuple(LayerPair(None, layer, None, other) for layer, other in enumerate(expected))


def test_layers_of_stacks_are_named_with_them():
    counts = {"encoder": 2, "decoder": 1}

    found = layer_pairs(counts, {"encoder": 4, "decoder": 3}, {(0, "decoder"): 2, (1, "encoder"): (0, "decoder")})

    assert found == (LayerPair("encoder", 1, "decoder", 0), LayerPair("decoder", 0, "decoder", 2))
    assert layer_pairs(counts, {"encoder": 4, "decoder": 1}, "uniform")[-1] == LayerPair("decoder", 0, "decoder", 0)
    assert layer_pairs({None: 2}, counts, {0: (0, "encoder")}) == (LayerPair(None, 0, "encoder", 0),)


@pytest.mark.parametrize(
    ("layer_map", "error", "message"),
    [
        ("last", InvalidArgument, "'uniform', or a mapping"),
        ({}, InvalidArgument, "'uniform', or a mapping"),
        ({0: "1"}, InvalidArgument, "layers as numbers"),
        ({0: True}, InvalidArgument, "layers as numbers"),
        ({3: 0}, UnknownLayer, "no layer 3 .*: the model has 3 layers"),
        ({0: -1}, UnknownLayer, "no layer -1 .*: the model has 4 layers"),
        ({(0, "encoder"): 0}, UnknownLayer, "encoder"),
        ("uniform", InvalidArgument, "the teacher's 4 layers are no multiple of the student's 3"),
    ],
)
def test_layers_that_do_not_fit(layer_map, error, message):
    with pytest.raises(error, match=message):
        layer_pairs({None: 3}, {None: 4}, layer_map)


def test_other_stacks_need_a_mapping():
    with pytest.raises(InvalidArgument, match="the student's stacks are one without a name, the teacher's encoder"):
        layer_pairs({None: 2}, {"encoder": 2}, "uniform")


# -- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [1, 50, None])
@pytest.mark.parametrize("side", ["right", "left"])
def test_attention_distance_is_that_of_scores_computed_by_hand(budget, side):
    student, teacher = pair()
    expected = [
        mean_square([bert_scores(student, t, mine) - bert_scores(teacher, t, other) for t in LETTERS])
        for mine, other in ((0, 1), (1, 3))
    ]

    found = attention_distance(student, teacher, LETTERS, batching=Batching(tokens=budget, padding_side=side))

    assert [(layer.student, layer.teacher, layer.heads) for layer in found.layers] == [(0, 1, 4), (1, 3, 4)]
    assert np.allclose([layer.value for layer in found.layers], expected, rtol=1e-9)
    assert found.overall == pytest.approx(np.mean(expected), rel=1e-9)
    assert found.worst.value == max(layer.value for layer in found.layers)
    assert found.of(1).scale == pytest.approx(mean_square([bert_scores(teacher, t, 3) for t in LETTERS]), rel=1e-9)
    assert found.of(1).relative == found.of(1).value / found.of(1).scale
    assert found.numbers == sum(len(student.tokenizer(text).input_ids) ** 2 for text in LETTERS)


def test_what_a_causal_mask_forbids_counts_as_no_difference():
    student, teacher = pair("gpt2", "causal-lm")
    differences = [gpt2_scores(student, text, 1) - gpt2_scores(teacher, text, 0) for text in LETTERS]

    found = attention_distance(student, teacher, LETTERS, {1: 0})

    assert len(found.layers) == 1
    assert found.of(1).value == pytest.approx(mean_square(differences), rel=1e-9)


def test_averages_over_heads_are_compared_where_asked_for():
    student, _ = pair()
    _, teacher = pair(hidden_size=12, num_attention_heads=2)
    by_hand = [bert_scores(student, t, 0).mean(axis=0) - bert_scores(teacher, t, 1).mean(axis=0) for t in LETTERS]

    found = attention_distance(student, teacher, LETTERS, reduce="mean")

    assert found.of(0).value == pytest.approx(mean_square(by_hand), rel=1e-9)
    assert found.of(0).heads is None
    assert "averages over heads" in found.table()
    with pytest.raises(InvalidArgument, match=r"has 4 heads, layer 1 of .* 2, and they cannot be compared one by one"):
        attention_distance(student, teacher, LETTERS)
    with pytest.raises(InvalidArgument, match="reduce='max'"):
        attention_distance(student, teacher, LETTERS, reduce="max")


@pytest.mark.parametrize("held", [1, 30_000])
@pytest.mark.parametrize("reduce", [None, "mean"])
def test_how_much_is_held_does_not_matter(held, reduce, monkeypatch):
    student, teacher = pair()
    expected = attention_distance(student, teacher, LETTERS, reduce=reduce)
    monkeypatch.setattr(paired_scores, "HELD", held)

    found = attention_distance(student, teacher, LETTERS, reduce=reduce, batching=Batching(tokens=60))

    assert [x.value for x in found.layers] == pytest.approx([x.value for x in expected.layers], rel=1e-9)


def test_two_student_layers_may_follow_the_same_and_a_model_itself():
    student, teacher = pair()

    found = attention_distance(student, teacher, LETTERS, {0: 2, 1: 2})
    itself = attention_distance(teacher, teacher, LETTERS)

    assert [x.value for x in found.layers] == pytest.approx(
        [mean_square([bert_scores(student, t, i) - bert_scores(teacher, t, 2) for t in LETTERS]) for i in (0, 1)]
    )
    assert itself.overall == 0.0
    assert len(itself.layers) == 4


def test_a_cut_models_heads_are_compared_with_those_they_were():
    _, whole = pair()
    cut = whole.pruned([(0, 0), (0, 2), *((2, head) for head in range(4)), (3, 1)])

    found = attention_distance(cut, whole, LETTERS)

    assert found.of(0).value == pytest.approx(0.0, abs=1e-18)
    assert found.of(1).value > 1e-3
    assert [layer.heads for layer in found.layers] == [2, 4, 3]
    assert found.left_out == ("layer 2 to layer 2",)
    assert "layer 2 to layer 2  not compared: no head in common" in found.table()


def test_layers_that_share_weights_are_runs():
    sizes = {"vocab_size": 64, "embedding_size": 8, "hidden_size": 24, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 32, "max_position_embeddings": 40}
    student, teacher = (
        load_model(
            redraw(transformers.AlbertModel(transformers.AlbertConfig(**sizes, num_hidden_layers=count)), 0).double(),
            tokenizer=tokenizer(),
        )
        for count in (2, 4)
    )

    found = attention_distance(student, teacher, LETTERS, {0: 0, 1: 1})
    apart = attention_distance(student, teacher, LETTERS)

    assert found.overall == pytest.approx(0.0, abs=1e-18)  # the same weights, run twice and four times
    assert [layer.teacher for layer in apart.layers] == [1, 3]
    assert apart.overall > 1e-3


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_are_compared_stack_by_stack(name):
    models = [encoder_decoder(name, seed) for seed in (0, 1)]
    named = ["encoder", "decoder", "cross"]

    found = attention_distance(*models, LETTERS)
    hidden = hidden_state_distance(*models, LETTERS)

    assert [(x.stack, x.student) for x in found.layers] == [(stack, layer) for stack in named for layer in (0, 1)]
    assert str(found.layers[-1]) == "cross layer 1 to cross layer 1"
    for stack in named[:2]:
        ours, theirs = (
            [np.stack([ids_of(m, text, f"{stack}_hidden_states")[i] for i in range(3)]) for text in LETTERS]
            for m in models
        )
        value = mean_square([a[2] - b[2] for a, b in zip(ours, theirs, strict=True)])
        assert hidden.of(1, stack).value == pytest.approx(value, rel=1e-5)  # older T5: a softmax in float32
    both = {(0, "encoder"): (0, "encoder"), (1, "cross"): (0, "cross")}
    assert len(attention_distance(*models, LETTERS, both).layers) == 2
    assert [str(x) for x in hidden_state_distance(*models, LETTERS, both).layers] == [
        "encoder embeddings to encoder embeddings",
        "encoder layer 0 to encoder layer 0",
    ]


def ids_of(model, text, name):
    ids = model.tokenizer(text, return_tensors="pt").input_ids
    with torch.no_grad():
        result = model.model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
    return [layer[0].numpy() for layer in result[name]]


def encoder_decoder(name, seed):
    base = {"vocab_size": 64, "d_model": 24, "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
    own = {"t5": {"d_kv": 6, "d_ff": 32, "num_layers": 2, "num_heads": 4, "tie_word_embeddings": False}}
    parts = {"layers": 2, "attention_heads": 4, "ffn_dim": 32}
    own["bart"] = {f"{end}_{part}": n for end in ("encoder", "decoder") for part, n in parts.items()}
    own["bart"] |= {"max_position_embeddings": 40}
    prefix = {"t5": "T5", "bart": "Bart"}[name]
    config = getattr(transformers, f"{prefix}Config")(**base, **own[name])
    return load_model(
        redraw(getattr(transformers, f"{prefix}Model")(config), seed).double().eval(), tokenizer=tokenizer()
    )


# -- layers that were cut out of the teacher -----------------------------------------------------------------------


def pairs_of(found):
    return [(layer.stack, layer.student, layer.teacher) for layer in found.layers if layer.student is not None]


@pytest.mark.parametrize("gone", [[1, 3], [3], [0, 1], [0]])
def test_layers_of_a_cut_model_follow_those_that_they_were(gone):
    teacher = under_test("bert", dtype=torch.float64, num_hidden_layers=4)
    left = [layer for layer in range(4) if layer not in gone]
    student = teacher.without_layers(gone)

    for measure in (attention_distance, hidden_state_distance):
        found = measure(student, teacher, LETTERS)

        assert pairs_of(found) == [(None, at, layer) for at, layer in enumerate(left)]
        assert found == measure(student, teacher, LETTERS, dict(enumerate(left)))
    if gone == [3]:
        assert attention_distance(student, teacher, LETTERS).overall == 0.0


def test_cuts_after_cuts_and_of_heads_are_remembered(tmp_path):
    teacher = under_test("bert", num_hidden_layers=4)
    first = teacher.without_layers([0])
    second = first.without_layers([1])
    fewer = second.pruned([(0, 0)])
    expected = [(None, 0, 1), (None, 1, 3)]

    for student in (second, fewer, copy.deepcopy(second)):
        assert pairs_of(attention_distance(student, teacher, LETTERS)) == expected
    assert pairs_of(hidden_state_distance(second, first, LETTERS)) == [(None, 0, 0), (None, 1, 2)]
    assert pairs_of(attention_distance(second, second, LETTERS)) == [(None, 0, 0), (None, 1, 1)]
    other = under_test("bert", seed=1, num_hidden_layers=2)
    assert pairs_of(attention_distance(second, other, LETTERS)) == [(None, 0, 0), (None, 1, 1)]
    with pytest.raises(InvalidArgument, match=r"such as layer_map=\{0: 0, 1: 1, 2: 2\}: the teacher's 4 layers"):
        attention_distance(load_model(first.save(tmp_path / "first")), teacher, LETTERS)


def test_a_layer_that_lost_all_its_heads_is_counted():
    teacher = under_test("bert", num_hidden_layers=4)
    student = teacher.pruned([(1, head) for head in range(4)]).without_layers([0])

    found = attention_distance(student, teacher, LETTERS)

    assert pairs_of(found) == [(None, 1, 2), (None, 2, 3)]
    assert found.left_out == ("layer 0 to layer 1",)


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_layers_cut_out_of_one_stack(name):
    teacher = encoder_decoder(name, 0)
    student = teacher.without_layers([(0, "decoder")])

    found = attention_distance(student, teacher, LETTERS)

    encoder = [("encoder", 0, 0), ("encoder", 1, 1)]
    assert pairs_of(found) == [*encoder, ("decoder", 0, 1), ("cross", 0, 1)]
    assert pairs_of(hidden_state_distance(student, teacher, LETTERS)) == [*encoder, ("decoder", 0, 1)]


def test_layers_without_attention_count_for_states_alone():
    layers = {"num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4}
    sizes = {"vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "mamba_dt_rank": 4, "pad_token_id": 0}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "expert_layer_period": 2, "num_experts": 2}
    config = transformers.JambaConfig(**layers, **sizes, **heads, use_mamba_kernels=False)
    teacher = load_model(redraw(transformers.JambaForCausalLM(config), 0).eval(), tokenizer=tokenizer())
    student = teacher.without_layers([0, 1])

    assert pairs_of(attention_distance(student, teacher, LETTERS[:3])) == [(None, 0, 1)]
    assert pairs_of(hidden_state_distance(student, teacher, LETTERS[:3])) == [(None, 0, 2), (None, 1, 3)]


def test_embeddings_are_no_part_of_the_mean():
    teacher = under_test("bert", dtype=torch.float64, num_hidden_layers=4)

    found = hidden_state_distance(teacher.without_layers([1]), teacher, LETTERS)

    embeddings, *layers = found.layers
    assert (embeddings.student, embeddings.value) == (None, 0.0)
    assert found.overall == pytest.approx(np.mean([layer.value for layer in layers]))
    assert found.relative == pytest.approx(np.mean([layer.relative for layer in layers]))
    assert found.table().endswith("of the layers, without embeddings")


# -- hidden states ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(("name", "kind"), [("bert", "masked-lm"), ("gpt2", "causal-lm"), ("llama", "causal-lm")])
def test_hidden_state_distance_is_numpys(name, kind, side):
    student, teacher = pair(name, kind)
    ours, theirs = ([states(model, text) for text in LETTERS] for model in (student, teacher))
    expected = [
        mean_square([a[mine] - b[other] for a, b in zip(ours, theirs, strict=True)])
        for mine, other in ((0, 0), (1, 2), (2, 4))
    ]

    found = hidden_state_distance(student, teacher, LETTERS, batching=Batching(tokens=50, padding_side=side))

    assert [(layer.student, layer.teacher) for layer in found.layers] == [(None, None), (0, 1), (1, 3)]
    assert np.allclose([layer.value for layer in found.layers], expected, rtol=1e-9)
    assert found.of(None).scale == pytest.approx(mean_square([b[0] for b in theirs]), rel=1e-9)
    assert found.numbers == sum(map(len, (a[0] for a in ours)))


def test_a_projection_takes_states_to_the_teachers_width():
    student, teacher = pair(hidden_size=24)[0], pair(hidden_size=12, num_attention_heads=2)[1]
    matrix = np.random.default_rng(0).normal(size=(24, 12))
    differences = [states(student, text)[2] @ matrix - states(teacher, text)[4] for text in LETTERS]

    found = hidden_state_distance(student, teacher, LETTERS, projection=matrix)

    assert found.of(1).value == pytest.approx(mean_square(differences), rel=1e-9)
    assert hidden_state_distance(student, teacher, LETTERS, projection=torch.from_numpy(matrix)) == found
    with pytest.raises(InvalidArgument, match=r"a matrix \(24, 12\), or 'least_squares': .* 24 numbers, .* 12"):
        hidden_state_distance(student, teacher, LETTERS)
    with pytest.raises(InvalidArgument, match=r"of shape \(24, 12\), the widths"):
        hidden_state_distance(student, teacher, LETTERS, projection=matrix.T)


@pytest.mark.parametrize("wrong", ["best", [1.0, 2.0], [[1.0, float("nan")]], [["a"]], object(), [[1], [1, 2]]])
def test_what_is_no_projection(wrong):
    with pytest.raises(InvalidArgument, match="projection="):
        hidden_state_distance(*pair(), LETTERS, projection=wrong)


def test_a_fitted_projection_is_judged_on_other_texts():
    student, teacher = pair()[0], pair(hidden_size=12, num_attention_heads=2)[1]
    data = texts(20, seed=5)
    ours, theirs = ([states(model, text)[-1] for text in data] for model in (student, teacher))
    matrix = np.linalg.lstsq(np.concatenate(ours[::2]), np.concatenate(theirs[::2]), rcond=None)[0]
    judged = [a @ matrix - b for a, b in zip(ours[1::2], theirs[1::2], strict=True)]

    found = hidden_state_distance(student, teacher, data, projection="least_squares", batching=Batching(tokens=60))

    assert found.of(1).value == pytest.approx(mean_square(judged), rel=1e-6)
    assert found.texts == 10
    assert "projected by least squares, fitted on the other 10 texts" in found.table()
    with pytest.raises(UndefinedScore, match="tokens to fit 24 rows"):
        hidden_state_distance(student, teacher, ["a b", "c d"], projection="least_squares")
    with pytest.raises(UndefinedScore, match="0 other texts"):
        hidden_state_distance(
            student, teacher, ["a b c d e f g h i j k l m n o p q r s t u v w x y z"], projection="least_squares"
        )


def test_distances_under_a_mask_are_those_of_the_masked_student():
    student, teacher = pair()
    cut = student.pruned([(0, 1), (1, 0)])

    with student.masked([(0, 1), (1, 0)]):
        found = hidden_state_distance(student, teacher, LETTERS)

    assert found.of(1).value != pytest.approx(hidden_state_distance(student, teacher, LETTERS).of(1).value)
    assert found.of(1).value == pytest.approx(hidden_state_distance(cut, teacher, LETTERS).of(1).value, rel=1e-6)


# -- logits ----------------------------------------------------------------------------------------------------------


def soft(logits, temperature):
    x = logits / temperature
    return x - np.log(np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)) - x.max(-1, keepdims=True)


def by_hand(ours, theirs, temperature):
    mine, other = soft(np.concatenate(ours), temperature), soft(np.concatenate(theirs), temperature)
    cross = -(np.exp(other) * mine).sum(-1).mean()
    own = -(np.exp(other) * other).sum(-1).mean()
    return cross, cross - own, (mine.argmax(-1) == other.argmax(-1)).mean(), len(mine)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize(
    ("name", "kind"),
    [("bert", "sequence-classification"), ("distilbert", "token-classification"), ("gpt2", "causal-lm")],
)
def test_logit_distance_is_numpys(name, kind, temperature):
    student, teacher = pair(name, kind)
    logits = [[np.atleast_2d(ran(model, text).logits[0].numpy()) for text in LETTERS] for model in (student, teacher)]
    cross, kl, agreement, items = by_hand(*logits, temperature)

    found = logit_distance(student, teacher, LETTERS, temperature, batching=Batching(tokens=60))

    assert (found.cross_entropy, found.kl) == pytest.approx((cross, kl), rel=1e-9)
    assert found.agreement == agreement
    assert (found.items, found.unit) == (items, "examples" if kind == "sequence-classification" else "tokens")


def test_of_a_task_what_is_judged_in_it_counts():
    student, teacher = pair("gpt2", "causal-lm")
    task = task_for("causal-lm")
    logits = [[ran(model, text).logits[0, :-1].numpy() for text in task.texts] for model in (student, teacher)]

    found = logit_distance(student, teacher, task)

    assert found.kl == pytest.approx(by_hand(*logits, 1.0)[1], rel=1e-9)
    assert found.items == by_hand(*logits, 1.0)[3]
    words = task_for("token-classification")
    tagged = logit_distance(*pair("bert", "token-classification"), words)
    assert tagged.items == sum(map(len, words.texts))
    masked = logit_distance(*pair("bert", "masked-lm"), Task("m", "language-modelling", tuple(LETTERS), None))
    assert 9 <= masked.items < found.items


def test_classes_of_the_same_names_in_another_order_are_matched():
    student, teacher = pair()
    plain = logit_distance(student, teacher, LETTERS)
    for model, names in ((student, "abc"), (teacher, "bca")):
        model.model.config.id2label = dict(enumerate(names))
    with torch.no_grad():
        for part in (teacher.model.classifier.weight, teacher.model.classifier.bias):
            part.copy_(part[[1, 2, 0]])

    assert logit_distance(student, teacher, LETTERS).kl == pytest.approx(plain.kl, rel=1e-9)
    teacher.model.config.id2label = dict(enumerate("abd"))
    with pytest.raises(InvalidArgument, match=r"the student's labels \['a', 'b', 'c'\]: it has \['a', 'b', 'd'\]"):
        logit_distance(student, teacher, LETTERS)


def test_predictions_that_cannot_be_compared():
    student, teacher = pair()

    with pytest.raises(InvalidArgument, match="temperature"):
        logit_distance(student, teacher, LETTERS, 0.0)
    with pytest.raises(InvalidArgument, match="a model of kind 'sequence-classification'"):
        logit_distance(student, pair("bert", "masked-lm")[1], LETTERS)
    with pytest.raises(InvalidArgument, match="the student's 3 outputs: it has 4"):
        logit_distance(student, pair(num_labels=4)[1], LETTERS)
    with pytest.raises(CannotMeasure, match="single output"):
        logit_distance(student, pair(num_labels=1)[1], LETTERS)
    with pytest.raises(CannotMeasure, match="no classes"):
        logit_distance(encoder_decoder("bart", 0), encoder_decoder("bart", 1), LETTERS)
    with torch.no_grad():
        student.model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(NonFinite, match=r"a logit of .* at example \d of 9 texts"):
        logit_distance(student, teacher, LETTERS)


# -- all of them -----------------------------------------------------------------------------------------------------

MEASURES = [attention_distance, hidden_state_distance, logit_distance]


@pytest.mark.parametrize("measure", MEASURES)
def test_models_must_read_the_same_tokens(measure):
    student, teacher = pair()
    teacher.tokenizer.backend_tokenizer.post_processor = None

    with pytest.raises(
        InvalidArgument, match=r"text 0 of 9 texts .* is \d+ and \d+ tokens, first different at token 0"
    ):
        measure(student, teacher, LETTERS)


def test_a_text_that_one_of_them_cuts_is_named():
    student, teacher = pair()[0], pair(max_position_embeddings=12)[1]

    with (
        pytest.warns(BertologyWarning, match="were cut"),
        pytest.raises(InvalidArgument, match=r"text 1 .*, cut to what"),
    ):
        hidden_state_distance(student, teacher, ["a b", "abc " * 6])


@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_no_model_or_text(measure):
    student, teacher = pair()

    with pytest.raises(InvalidArgument, match="teacher="):
        measure(student, teacher.model, LETTERS)
    with pytest.raises(InvalidArgument, match="student="):
        measure("bert", teacher, LETTERS)
    with pytest.raises(EmptyTask):
        measure(student, teacher, [])
    for wrong in (None, "a text"):
        with pytest.raises(InvalidArgument, match="texts="):
            measure(student, teacher, wrong)


@few
@given(st.permutations(range(5)), st.integers(1, 80), st.sampled_from(["left", "right"]))
def test_order_and_batches_do_not_matter(order, budget, side):
    student, teacher = pair()
    shuffled = [LETTERS[index] for index in order]
    batching = Batching(tokens=budget, padding_side=side)

    for measure in MEASURES[:2]:
        found, expected = (
            [layer.value for layer in measure(student, teacher, *given).layers]
            for given in ((shuffled,), (LETTERS[:5],))
        )
        assert found == pytest.approx(expected, rel=1e-9)
        other = measure(student, teacher, iter(shuffled), batching=batching)
        assert [layer.value for layer in other.layers] == pytest.approx(expected, rel=1e-9)


def test_tables_and_names():
    found = hidden_state_distance(*pair(), ["a b"])
    lines = found.table().splitlines()

    assert lines[0].startswith("hidden states of BertForSequenceClassification and of its teacher Bert")
    assert lines[0].endswith("1 texts, 4 tokens")
    assert lines[1] == "layer                      MSE  relative"
    assert lines[2].startswith("embeddings  ")
    assert lines[3].startswith("layer 0 to layer 1  ")
    assert lines[-1] == f"{'mean':<18}  {found.overall:>10.4g}  of the layers, without embeddings"
    assert str(LayerDistance(0, 3, 1.0, 2.0, "encoder", "encoder")) == "encoder layer 0 to encoder layer 3"
    assert repr(found).startswith("LayerDistances(hidden states of Bert")
    assert "KL divergence" in logit_distance(*pair(), LETTERS).table()
    assert "agree" in repr(logit_distance(*pair(), LETTERS))
    with pytest.raises(InvalidArgument, match="one of those compared: embeddings, layer 0 to layer 1"):
        found.of(7)
    with pytest.raises(UndefinedScore, match="all of the teacher's numbers are 0"):
        LayerDistance(0, 0, 1.0, 0.0).relative  # noqa: B018
