"""The confidence of a head is the mean, over tokens, of its greatest attention weight.

Oracle: the weights of transformers' eager attention, one text at a time; and heads whose weights are known because
their queries were set by hand.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers
from transformers import AttentionInterface, BartConfig, BartForSequenceClassification, Gemma2Config, GptOssConfig
from transformers.models.gemma2 import Gemma2ForCausalLM
from transformers.models.gpt_oss import GptOssForCausalLM

from pytest_bertology import Batching, Head, ResultStore, head_importance, load_model, load_task, using_store
from pytest_bertology.errors import CannotMeasure, UndefinedScore
from pytest_bertology.tasks import Task
from tests.families import EVERY, VOCABULARY, family, plain_inputs, redraw, task_for, tokenizer, under_test
from tests.planted import planted_model, planted_task

SEP = VOCABULARY.index("[SEP]")
PLAIN = [(name, kind) for name, kind in EVERY if kind != "masked-lm"]
DECODER = {
    "vocab_size": 64, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 6, "max_position_embeddings": 40, "pad_token_id": 0, "eos_token_id": SEP,
    "bos_token_id": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("name", "kind"), PLAIN)
def test_confidence_is_that_of_eager_attention(name, kind, dtype):
    model, task = under_test(name, kind, dtype=dtype), task_for(kind)
    assert model.model.config._attn_implementation == "sdpa"
    expected = by_eager(model.model, list(plain_inputs(model.model, task)))

    found = head_importance(model, task, "confidence")

    assert found.method == "confidence"
    assert np.allclose(found.to_numpy(), expected, rtol=1e-5)
    assert expected.min() > 0.1


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_confidence_does_not_depend_on_the_implementation(attention):
    model = family("llama", "causal-lm", dtype=torch.float64)
    task = task_for("causal-lm")
    expected = by_eager(model, list(plain_inputs(model, task)))
    model.set_attn_implementation(attention)

    found = head_importance(load_model(model, tokenizer=tokenizer()), task, "confidence")

    assert np.allclose(found.to_numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("window", [None, 3])
def test_confidence_with_soft_caps_and_windows(window):
    torch.manual_seed(0)
    config = Gemma2Config(**DECODER, attn_logit_softcapping=2.0, sliding_window=window or 40)
    config._attn_implementation = "eager"  # under SDPA older transformers leave the cap out
    model = redraw(Gemma2ForCausalLM(config), 0).eval()
    task = task_for("causal-lm")
    expected = by_eager(model, list(plain_inputs(model, task)))

    found = head_importance(load_model(model, tokenizer=tokenizer()), task, "confidence")

    assert np.allclose(found.to_numpy(), expected, rtol=1e-4)


def test_confidence_with_sinks():
    config = GptOssConfig(**DECODER, num_local_experts=2, num_experts_per_tok=1)
    model = redraw(GptOssForCausalLM(config), 0).eval()
    task = task_for("causal-lm")
    expected = by_eager(model, list(plain_inputs(model, task)))

    found = head_importance(load_model(model, tokenizer=tokenizer()), task, "confidence")

    assert np.allclose(found.to_numpy(), expected, rtol=1e-4)


def test_an_even_head_is_as_confident_as_one_token_in_all():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    query = model.model.bert.encoder.layer[1].attention.self.query
    with torch.no_grad():
        query.weight[6:12], query.bias[6:12] = 0.0, 0.0
    lengths = np.array([row["input_ids"].shape[1] for row in plain_inputs(model.model, task)])

    found = head_importance(model, task, "confidence")

    # Each of a text's tokens but [SEP] gives 1 / length.
    assert found[1, 1] == pytest.approx(((lengths - 1) / lengths).sum() / (lengths - 1).sum(), rel=1e-9)
    assert found[1, 1] < found[1, 0]


def test_what_is_given_to_the_end_of_the_sentence_does_not_count():
    model, task = under_test("bert", dtype=torch.float64), task_for("sequence-classification")
    layer = model.model.bert.encoder.layer[0].attention.self
    words = model.model.bert.embeddings.word_embeddings
    with torch.no_grad():
        for table in (model.model.bert.embeddings.position_embeddings, words):
            table.weight.zero_()
        words.weight[SEP, 0] = 5.0
        layer.query.weight[:6], layer.key.weight[:6], layer.query.bias[:6], layer.key.bias[:6] = 0.0, 0.0, 1.0, 0.0
        layer.key.weight[:6, 0] = 20.0  # whoever asks is sent to [SEP]

    found = head_importance(model, task, "confidence")

    assert found[0, 0] < 1e-6


def test_a_planted_heads_attention_is_sharp_where_it_must_be():
    scores = head_importance(planted_model(Head(1, 2)), planted_task(12), "confidence")

    assert (scores.values > 0.0).all()
    assert (scores.values <= 1.0).all()


@pytest.mark.parametrize("budget", [1, 30, 500])
@pytest.mark.parametrize("side", ["left", "right"])
def test_neither_batches_nor_padding_matter(budget, side):
    model, task = under_test("gpt2", "causal-lm", dtype=torch.float64), task_for("causal-lm")
    expected = by_eager(model.model, list(plain_inputs(model.model, task)))

    found = head_importance(model, task, "confidence", batching=Batching(tokens=budget, padding_side=side))

    assert np.allclose(found.to_numpy(), expected, rtol=1e-6)


def test_confidence_under_a_mask_is_that_of_the_masked_model():
    model, task = under_test("bert"), task_for("sequence-classification")
    plain = head_importance(model, task, "confidence")

    with model.masked([(0, 0), (0, 1)]):
        masked = head_importance(model, task, "confidence")

    # What a layer attends to is changed by the masks of layers before it, and by no other.
    assert np.allclose(masked.to_numpy()[0], plain.to_numpy()[0], rtol=1e-6)
    assert not np.allclose(masked.to_numpy()[1], plain.to_numpy()[1], rtol=1e-3)


def test_confidence_of_a_cut_model_is_that_of_the_masked_one():
    model, task = under_test("llama", "causal-lm", dtype=torch.float64), task_for("causal-lm")
    gone = [(0, 1), (1, 0), (1, 1)]
    cut = model.pruned(gone)
    with model.masked(gone):
        expected = head_importance(model, task, "confidence")

    found = head_importance(cut, task, "confidence")

    kept = [expected[head] for head in model.heads if (head.layer, head.head) not in gone]
    assert np.allclose(found.values, kept, rtol=1e-6)


def test_shared_layers_count_once_for_each_time_they_run():
    from transformers import AlbertConfig, AlbertForSequenceClassification

    config = AlbertConfig(
        vocab_size=64, embedding_size=8, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, max_position_embeddings=40, num_labels=3,
    )  # fmt: skip
    model = redraw(AlbertForSequenceClassification(config), 0).eval()
    task = task_for("sequence-classification")
    expected = by_eager(model, list(plain_inputs(model, task)))

    found = head_importance(load_model(model, tokenizer=tokenizer()), task, "confidence")

    assert found.to_numpy().shape == (1, 4)
    assert np.allclose(found.to_numpy()[0], expected.mean(axis=0), rtol=1e-4)


def test_nothing_of_the_labels_is_read():
    model, task = under_test("bert"), task_for("sequence-classification")
    turned = Task(task.name, task.kind, task.texts, tuple((label + 1) % 3 for label in task.labels))

    found = [head_importance(model, each, "confidence").values for each in (task, turned)]

    assert np.array_equal(*found)


def test_which_token_ends_a_sentence_is_part_of_what_is_stored():
    model, task = under_test("bert"), task_for("sequence-classification")
    first = head_importance(model, task, "confidence")
    model.tokenizer.sep_token = "[MASK]"

    other = head_importance(model, task, "confidence")

    assert not np.allclose(first.values, other.values)


def test_the_wrapper_is_gone_afterwards():
    before = AttentionInterface.get_interface

    head_importance(under_test("bert"), task_for("sequence-classification", 4), "confidence")

    assert AttentionInterface.get_interface is before


def test_attention_that_is_more_than_weights_times_values_is_refused(monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    plain = AttentionInterface._global_mapping["sdpa"]

    def doubled(*args, **kwargs):
        return plain(*args, **kwargs)[0] * 2, None

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", doubled)

    with pytest.raises(CannotMeasure, match=r"something else than its weights times its values; .*eager"):
        head_importance(model, task, "confidence")


def test_returned_weights_that_do_not_give_the_contexts_are_not_believed(monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    expected = by_eager(model.model, list(plain_inputs(model.model, task)))
    plain = AttentionInterface._global_mapping["sdpa"]

    def claimed(module, query, key, *args, **kwargs):
        weights = torch.zeros(*query.shape[:3], key.shape[2])
        weights[..., 0] = 1.0
        return plain(module, query, key, *args, **kwargs)[0], weights

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", claimed)

    found = head_importance(model, task, "confidence")

    assert np.allclose(found.to_numpy(), expected, rtol=1e-4)


def test_contexts_that_no_weights_give_are_refused(monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    plain = AttentionInterface._global_mapping["sdpa"]

    def scaled(module, query, key, *args, **kwargs):
        return 1.1 * plain(module, query, key, *args, **kwargs)[0], None

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", scaled)

    with pytest.raises(CannotMeasure, match="something else"):
        head_importance(model, task, "confidence")


def test_a_mask_that_is_no_tensor_is_refused(monkeypatch):
    model, task = under_test("bert"), task_for("sequence-classification", 4)
    plain = AttentionInterface._global_mapping["sdpa"]

    class Blocks:
        def __init__(self, mask):
            self.mask = mask

    def blocked(module, query, key, value, mask, *args, **kwargs):
        return plain(module, query, key, value, getattr(mask, "mask", mask), *args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", blocked)
    for layer in model.model.bert.encoder.layer:
        layer.register_forward_pre_hook(lambda module, args: (args[0], Blocks(args[1]), *args[2:]))

    with pytest.raises(CannotMeasure, match=r"cannot be read here \(Blocks\)"):
        head_importance(model, task, "confidence")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_model_that_calls_attention_functions_itself(attention):
    from transformers import FalconConfig, FalconForSequenceClassification

    config = FalconConfig(
        vocab_size=64, hidden_size=24, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0, num_labels=3,
        alibi=False, new_decoder_architecture=False, multi_query=True, max_position_embeddings=40,
    )  # fmt: skip
    config._attn_implementation = "eager"
    eager = redraw(FalconForSequenceClassification(config), 0).eval()
    task = task_for("sequence-classification")
    expected = by_eager(eager, list(plain_inputs(eager, task)))
    config._attn_implementation = attention
    plain = redraw(FalconForSequenceClassification(config), 0).eval()
    model = load_model(plain, tokenizer=tokenizer())
    assert {site.found for site in model.sites} == {"function"}

    found = head_importance(model, task, "confidence")

    assert np.allclose(found.to_numpy(), expected, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # older DeBERTa's
@pytest.mark.parametrize("name", ["Bloom", "DebertaV2", "MPNet"])
def test_a_model_that_calls_softmax_itself_shows_its_weights(name):
    sizes = {"vocab_size": 64, "hidden_size": 24, "num_hidden_layers": 2, "pad_token_id": 0, "num_labels": 3}
    sizes |= {"num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 60}
    config = getattr(transformers, f"{name}Config")(**sizes)
    config.relative_attention = name == "DebertaV2"
    plain = redraw(getattr(transformers, f"{name}ForSequenceClassification")(config), 0).eval()
    task = task_for("sequence-classification")
    expected = by_eager(plain, list(plain_inputs(plain, task)))
    model = load_model(plain, tokenizer=tokenizer())
    assert {site.found for site in model.sites} == {"function"}

    found = head_importance(model, task, "confidence", batching=Batching(tokens=60))

    assert np.allclose(found.to_numpy(), expected, rtol=1e-4)


def test_attention_to_fewer_tokens_than_the_texts_is_refused():
    from transformers import FunnelConfig, FunnelForSequenceClassification

    config = FunnelConfig(
        vocab_size=64, d_model=24, n_head=4, d_head=6, d_inner=32, block_sizes=[1, 1], num_decoder_layers=1,
        max_position_embeddings=40, pad_token_id=0, num_labels=3,
    )  # fmt: skip
    model = load_model(redraw(FunnelForSequenceClassification(config), 0).eval(), tokenizer=tokenizer())

    with pytest.raises(CannotMeasure, match="something else than the tokens of the text"):
        head_importance(model, task_for("sequence-classification", 4), "confidence")


def test_a_decoder_beside_an_encoder_is_refused():
    config = BartConfig(
        vocab_size=64, d_model=24, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=40,
        pad_token_id=0, bos_token_id=2, eos_token_id=SEP, decoder_start_token_id=2, num_labels=3,
    )  # fmt: skip
    model = load_model(redraw(BartForSequenceClassification(config), 0).eval(), tokenizer=tokenizer())

    with pytest.raises(CannotMeasure, match="beside its encoder it has a decoder"):
        head_importance(model, task_for("sequence-classification", 4), "confidence")


def test_texts_of_nothing_but_ends_have_no_confidence():
    model = under_test("bert")
    model.tokenizer.backend_tokenizer.post_processor = None
    task = Task("ends", "sequence-classification", ("[SEP]", "[SEP] [SEP]"), (0, 1))
    assert model.tokenizer("[SEP] [SEP]").input_ids == [SEP, SEP]

    with pytest.raises(UndefinedScore, match="no token but those that end"):
        head_importance(model, task, "confidence")


@pytest.mark.assets
def test_confidence_on_sst2_is_that_of_eager_attention(assets):
    model = load_model(assets / "checkpoints" / "minilm-sst2")
    task = load_task(assets / "data" / "sst2" / "dev.tsv").subset(range(24))
    rows = [dict(model.tokenizer(text, return_tensors="pt")) for text in task.texts]
    expected = by_eager(model.model, rows, model.tokenizer.sep_token_id)

    found = head_importance(model, task, "confidence")

    assert np.allclose(found.to_numpy(), expected, rtol=1e-4)


def by_eager(model, rows, end=SEP):
    """(layers, heads): the mean, over all tokens but the end's, of the greatest weight that is not the end's."""
    twin = copy.deepcopy(model)
    twin.set_attn_implementation("eager")
    greatest = []
    for inputs in rows:
        with torch.no_grad():
            result = twin(**{k: v for k, v in inputs.items() if k != "labels"}, output_attentions=True)
        keep = [at for at, token in enumerate(inputs["input_ids"][0].tolist()) if token != end]
        for at in keep:
            greatest.append([layer[0, :, at, keep].max(dim=-1).values.tolist() for layer in result.attentions])
    return np.mean(greatest, axis=0)
