"""Dropped layers against models built by hand: plain transformers of fewer layers, given the kept layers' weights.

The oracle knows each family's list of layers and the setting that counts them; the package is told neither.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from pytest_bertology import ResultStore, evaluate, load_model, using_store
from pytest_bertology.errors import (
    CannotDropLayers,
    CopiedUnderMask,
    InvalidArgument,
    MaskNotApplied,
    SkippedByAnotherThread,
    UnknownLayer,
)
from pytest_bertology.models.blocks import Blocks, blocks
from pytest_bertology.models.layers import dropped, without_layers
from pytest_bertology.models.skipping import skipping
from tests.families import family, redraw, task_for, under_test

COUNT = 4
TEXT = {"vocab_size": 60, "pad_token_id": 0}
SMALL = {"hidden_size": 24, "num_attention_heads": 4, "intermediate_size": 32}


def bert() -> PreTrainedModel:
    return family("bert", num_hidden_layers=COUNT)


def gpt2() -> PreTrainedModel:
    return family("gpt2", "causal-lm", n_layer=COUNT)


def llama() -> PreTrainedModel:
    return family("llama", "causal-lm", num_hidden_layers=COUNT)


def gemma() -> PreTrainedModel:
    """Layers of two kinds by turns: a window of three tokens, or all."""
    kinds = ["sliding_attention", "full_attention"] * (COUNT // 2)
    config = transformers.Gemma3TextConfig(
        **TEXT, **SMALL, num_hidden_layers=COUNT, num_key_value_heads=2, head_dim=6, sliding_window=3, layer_types=kinds
    )
    return redraw(transformers.Gemma3ForCausalLM(config), 0).eval()


def t5() -> PreTrainedModel:
    config = transformers.T5Config(
        **TEXT,
        d_model=24,
        d_kv=6,
        d_ff=32,
        num_heads=4,
        num_layers=COUNT,
        num_decoder_layers=3,
        decoder_start_token_id=0,
    )
    return redraw(transformers.T5ForConditionalGeneration(config), 0).eval()


def bart() -> PreTrainedModel:
    config = transformers.BartConfig(
        **TEXT,
        d_model=24,
        encoder_layers=COUNT,
        decoder_layers=COUNT,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=40,
        decoder_start_token_id=2,
    )
    return redraw(transformers.BartForConditionalGeneration(config), 0).eval()


def vit() -> PreTrainedModel:
    config = transformers.ViTConfig(**SMALL, num_hidden_layers=COUNT, image_size=16, patch_size=4, num_labels=3)
    return redraw(transformers.ViTForImageClassification(config), 0).eval()


VIT = "vit.layers" if hasattr(vit().vit, "layers") else "vit.encoder.layer"  # as older transformers have it
MODELS = {
    "bert": (bert, None, "bert.encoder.layer", "num_hidden_layers"),
    "gpt2": (gpt2, None, "transformer.h", "n_layer"),
    "llama": (llama, None, "model.layers", "num_hidden_layers"),
    "gemma": (gemma, None, "model.layers", "num_hidden_layers"),
    "vit": (vit, None, VIT, "num_hidden_layers"),
    "t5 encoder": (t5, "encoder", "encoder.block", "num_layers"),
    "t5 decoder": (t5, "decoder", "decoder.block", "num_decoder_layers"),
    "bart encoder": (bart, "encoder", "model.encoder.layers", "encoder_layers"),
    "bart decoder": (bart, "decoder", "model.decoder.layers", "decoder_layers"),
}
"""How to build it, the stack, where its layers are, and which setting counts them."""
DROPS = ([1], [0], [2], [0, 2])


def by_hand(model: PreTrainedModel, path: str, setting: str, drop: Sequence[int]) -> PreTrainedModel:
    """The model class built from a configuration of fewer layers, with the kept layers' weights."""
    config = copy.deepcopy(model.config)
    kept = [layer for layer in range(getattr(config, setting)) if layer not in drop]
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept]
    setattr(config, setting, len(kept))
    smaller = type(model)(config).eval()
    weights = {}
    for name in smaller.state_dict():
        source = name
        if name.startswith(f"{path}."):
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            # T5's position bias is always the first layer's.
            layer = 0 if "relative_attention_bias" in rest else kept[int(number)]
            source = f"{path}.{layer}.{rest}"
        weights[name] = model.state_dict()[source].clone()
    smaller.load_state_dict(weights)
    return smaller


def named(drop: Sequence[int], stack: str | None) -> list[Any]:
    return [(layer, stack) if stack else layer for layer in drop]


def logits(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


# -- the dropped model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop", DROPS, ids=str)
@pytest.mark.parametrize("case", MODELS)
def test_the_dropped_model_is_the_one_built_by_hand_bit_for_bit(case, drop):
    build, stack, path, setting = MODELS[case]
    model = load_model(build())

    smaller = without_layers(model, named(drop, stack))

    expected = by_hand(model.model, path, setting, drop)
    inputs = dict(model.sample())
    assert type(smaller) is type(model.model)
    assert smaller.state_dict().keys() == expected.state_dict().keys()
    assert all(torch.equal(smaller.state_dict()[name], value) for name, value in expected.state_dict().items())
    assert torch.equal(logits(smaller, inputs), logits(expected, inputs))
    assert getattr(smaller.config, setting) == getattr(model.model.config, setting) - len(drop)


@pytest.mark.parametrize("case", MODELS)
def test_the_skipped_model_computes_what_the_dropped_one_does(case):
    build, stack, _, _ = MODELS[case]
    model = load_model(build())
    inputs = dict(model.sample())
    plain = logits(model.model, inputs)
    smaller = without_layers(model, named([0, 2], stack))

    with skipping(model, named([0, 2], stack)):
        skipped = logits(model.model, inputs)

    torch.testing.assert_close(skipped, logits(smaller, inputs), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(skipped, plain, atol=1e-2)
    assert torch.equal(logits(model.model, inputs), plain)


@pytest.mark.parametrize(
    ("case", "auto"),
    [
        ("bert", AutoModelForSequenceClassification),
        ("gpt2", AutoModelForCausalLM),
        ("gemma", AutoModelForCausalLM),
        ("t5 encoder", AutoModelForSeq2SeqLM),
        ("bart decoder", AutoModelForSeq2SeqLM),
    ],
)
def test_plain_transformers_loads_what_was_saved(case, auto, tmp_path):
    build, stack, _, setting = MODELS[case]
    model = load_model(build())
    smaller = without_layers(model, named([0], stack))

    smaller.save_pretrained(tmp_path)
    loaded, info = auto.from_pretrained(tmp_path, output_loading_info=True)

    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert getattr(loaded.config, setting) == COUNT - 1
    assert torch.equal(logits(loaded.eval(), dict(model.sample())), logits(smaller, dict(model.sample())))


@pytest.mark.parametrize("build", [gpt2, llama, gemma, t5, bart])
def test_generation_with_a_cache_is_the_same_skipped_and_dropped(build):
    model = load_model(build())
    stack = "decoder" if model.model.config.is_encoder_decoder else None
    layers = named([0, 2], stack)
    smaller = without_layers(model, layers)
    ids = torch.tensor([[7, 9, 11, 13, 8, 6]])
    options = {"max_new_tokens": 10, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}

    with skipping(model, layers):
        skipped = model.model.generate(ids, eos_token_id=None, **options)

    expected = smaller.generate(ids, eos_token_id=None, **options)
    uncached = smaller.generate(ids, eos_token_id=None, use_cache=False, **options)
    assert skipped.sequences.tolist() == expected.sequences.tolist() == uncached.sequences.tolist()
    for one, other in zip(skipped.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_layers_of_both_stacks_go_at_once():
    model = load_model(t5())

    smaller, kept = dropped(model, [(0, "decoder"), (3, "encoder"), (1, "encoder")])

    once = by_hand(model.model, "encoder.block", "num_layers", [1, 3])
    expected = by_hand(once, "decoder.block", "num_decoder_layers", [0])
    assert kept == {"encoder.block": (0, 2), "decoder.block": (1, 2)}
    assert torch.equal(logits(smaller, dict(model.sample())), logits(expected, dict(model.sample())))


def test_the_original_is_untouched_and_shares_nothing():
    model = load_model(bert())
    before = copy.deepcopy(model.model.state_dict())
    config = model.model.config.to_dict()

    smaller = without_layers(model, [1])
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.zero_()

    assert all(torch.equal(before[name], value) for name, value in model.model.state_dict().items())
    assert model.model.config.to_dict() == config
    assert len(model.model.bert.encoder.layer) == COUNT


def test_ties_modes_and_frozen_weights_are_kept():
    live = gpt2()
    live.transformer.h[2].mlp.c_fc.weight.requires_grad_(False)
    model = load_model(live)
    live.train()

    smaller = without_layers(model, [0])

    assert smaller.lm_head.weight is smaller.transformer.wte.weight
    frozen = [name for name, parameter in smaller.named_parameters() if not parameter.requires_grad]
    assert frozen == ["transformer.h.1.mlp.c_fc.weight"]
    assert smaller.training
    assert live.training


def test_what_a_user_set_on_the_model_stays():
    live = bert()
    live.bert.encoder.layer[3].attention.self.note = "mine"
    live.bert.encoder.layer[3].attention.output.dropout.p = 0.4
    model = load_model(live)

    smaller = without_layers(model, [0])

    assert smaller.bert.encoder.layer[2].attention.self.note == "mine"
    assert smaller.bert.encoder.layer[2].attention.output.dropout.p == 0.4


def test_a_dropped_model_can_be_loaded_and_cut_again():
    model = load_model(llama())

    once = load_model(without_layers(model, [1]))
    twice = without_layers(once, [1])

    expected = by_hand(model.model, "model.layers", "num_hidden_layers", [1, 2])
    assert torch.equal(logits(twice, dict(model.sample())), logits(expected, dict(model.sample())))
    assert once.heads.describe() == "3 layers of 4 heads"


def test_numbers_of_layers_follow_their_places():
    smaller = without_layers(load_model(llama()), [0, 2])

    assert [layer.self_attn.layer_idx for layer in smaller.model.layers] == [0, 1]


# -- which layers ---------------------------------------------------------------------------------------------------


def test_blocks_are_told_by_stack_path_and_count():
    assert blocks(load_model(bert())) == (Blocks(None, "bert.encoder.layer", COUNT),)
    assert blocks(load_model(t5())) == (
        Blocks("encoder", "encoder.block", COUNT),
        Blocks("decoder", "decoder.block", 3),
    )


@pytest.mark.parametrize("layers", [[], [0, 1, 2, 3], "top", 3, ["a"], [(1, 2)], [1.5], [True]])
def test_no_layer_all_layers_and_what_is_no_layer_are_refused(layers):
    model = load_model(bert())

    with pytest.raises(InvalidArgument):
        without_layers(model, layers)
    with pytest.raises(InvalidArgument), skipping(model, layers):
        pass


@pytest.mark.parametrize("layers", [[4], [-1], [(0, "decoder")]])
def test_a_layer_that_there_is_not_is_named(layers):
    with pytest.raises(UnknownLayer, match="4 layers"):
        without_layers(load_model(bert()), layers)


def test_a_model_of_several_stacks_asks_which():
    with pytest.raises(UnknownLayer, match=r'name the stack too, for example \(0, "encoder"\)'):
        without_layers(load_model(t5()), [0])


# -- refused --------------------------------------------------------------------------------------------------------


def test_layers_that_are_one_module_are_refused():
    config = transformers.AlbertConfig(**TEXT, **SMALL, embedding_size=8, num_hidden_layers=3)
    model = load_model(redraw(transformers.AlbertForMaskedLM(config), 0).eval())

    with pytest.raises(CannotDropLayers, match="runs 3 times in one forward pass: the layers share their weights"):
        without_layers(model, [0])


def test_a_model_that_its_configuration_does_not_build_is_refused():
    live = bert()
    live.bert.encoder.layer[1].extra = torch.nn.Linear(2, 2)

    with pytest.raises(CannotDropLayers, match=r"encoder\.layer\.1\.extra"):
        without_layers(load_model(live), [0])


@pytest.mark.skipif(not hasattr(transformers, "MiniCPM3Config"), reason="this transformers has no MiniCPM3")
def test_a_count_that_shows_in_the_numbers_is_refused():
    """MiniCPM scales what a layer adds by the root of the number of layers: fewer layers are another model."""
    sizes = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 6}
    config = transformers.MiniCPM3Config(
        **TEXT, **SMALL, **sizes, num_hidden_layers=3, num_key_value_heads=4, max_position_embeddings=40
    )
    model = load_model(redraw(transformers.MiniCPM3ForCausalLM(config), 0).eval())

    with pytest.raises(CannotDropLayers, match="computes other numbers"):
        without_layers(model, [1])


def test_weights_sized_by_the_number_of_layers_are_refused():
    """ESM's contact head reads every head of every layer."""
    config = transformers.EsmConfig(**TEXT, **SMALL, num_hidden_layers=3, max_position_embeddings=40, mask_token_id=4)
    model = load_model(redraw(transformers.EsmForMaskedLM(config), 0).eval())

    with pytest.raises(CannotDropLayers, match=r"contact_head\.regression\.weight would be \(1, 8\) and not \(1, 12\)"):
        without_layers(model, [1])


def test_a_cut_that_is_not_the_skip_is_refused(monkeypatch):
    from pytest_bertology.models import layers

    model = load_model(bert())
    cut = layers._cut

    def wrong(live, cuts, target):
        made = cut(live, cuts, target)
        with torch.no_grad():
            made.bert.encoder.layer[0].output.dense.weight[0] += 0.01
        return made

    monkeypatch.setattr(layers, "_cut", wrong)

    with pytest.raises(CannotDropLayers, match="computes other numbers"):
        without_layers(model, [2])


# -- skipping -------------------------------------------------------------------------------------------------------


def test_skips_nest_and_all_go_after_an_error():
    model = load_model(bert())
    inputs = dict(model.sample())
    plain = logits(model.model, inputs)
    both = by_hand(model.model, "bert.encoder.layer", "num_hidden_layers", [1, 2])

    with skipping(model, [1]), skipping(model, [2]):
        nested = logits(model.model, inputs)
    with pytest.raises(RuntimeError, match="mine"), skipping(model, [1]):
        raise RuntimeError("mine")

    assert torch.equal(nested, logits(both, inputs))
    assert torch.equal(logits(model.model, inputs), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.model.modules())


def test_skipped_results_neither_come_from_the_store_nor_go_there():
    model, task = under_test("bert", num_hidden_layers=3), task_for("sequence-classification")

    with using_store(ResultStore()) as store:
        plain = evaluate(model, task)
        with skipping(model, [1]):
            skipped = evaluate(model, task)
        again = evaluate(model, task)

    expected = load_model(
        by_hand(model.model, "bert.encoder.layer", "num_hidden_layers", [1]), tokenizer=model.tokenizer
    )
    assert store.computed == 1
    assert (skipped.losses != plain.losses).all()
    assert (again.losses == plain.losses).all()
    assert skipped.losses == pytest.approx(evaluate(expected, task).losses, abs=1e-6)


def test_masks_and_skips_are_in_force_together():
    model = load_model(bert())
    smaller = load_model(by_hand(model.model, "bert.encoder.layer", "num_hidden_layers", [1]))
    inputs = dict(model.sample())

    with skipping(model, [1]), model.masked([(0, 2), (3, 1)]):
        skipped = logits(model.model, inputs)

    with smaller.masked([(0, 2), (2, 1)]):
        assert torch.equal(skipped, logits(smaller.model, inputs))


def test_gradients_are_those_of_the_smaller_model():
    model = load_model(bert())
    smaller = by_hand(model.model, "bert.encoder.layer", "num_hidden_layers", [1])
    inputs = dict(model.sample())

    with skipping(model, [1]):
        model.model(**inputs).logits.sum().backward()
    smaller(**inputs).logits.sum().backward()

    layers, fewer = model.model.bert.encoder.layer, smaller.bert.encoder.layer
    for here, there in ((0, 0), (2, 1)):
        torch.testing.assert_close(layers[here].output.dense.weight.grad, fewer[there].output.dense.weight.grad)
    assert all(parameter.grad is None for parameter in layers[1].parameters())


def test_another_thread_is_told():
    model = load_model(bert())
    inputs, caught = dict(model.sample()), []

    def run() -> None:
        try:
            model.model(**inputs)
        except SkippedByAnotherThread as error:
            caught.append(error)

    with skipping(model, [1]):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    assert len(caught) == 1


def test_each_thread_skips_its_own():
    model = load_model(bert())
    inputs, found = dict(model.sample()), {}

    def run() -> None:
        with skipping(model, [2]):
            found["thread"] = logits(model.model, inputs)

    with skipping(model, [1]):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        found["main"] = logits(model.model, inputs)

    for name, drop in (("main", 1), ("thread", 2)):
        expected = by_hand(model.model, "bert.encoder.layer", "num_hidden_layers", [drop])
        assert torch.equal(found[name], logits(expected, inputs))


def test_a_skip_that_did_not_act_is_an_error():
    model = load_model(bert())

    other = bert().bert.encoder.layer[1]

    def exchanged() -> None:
        with skipping(model, [1]):
            model.model.bert.encoder.layer[1] = other
            model.model(**model.sample())

    with pytest.raises(MaskNotApplied, match=r"encoder\.layer\.1 was not skipped"):
        exchanged()


def test_a_layer_whose_output_is_no_input_is_refused():
    model = load_model(bert())
    block = model.model.bert.encoder.layer[1]
    forward = block.forward

    def wider(hidden_states: Any, *args: Any, **kwargs: Any) -> Any:
        result = forward(hidden_states, *args, **kwargs)
        return torch.cat([result, result], dim=-1)

    def run() -> None:
        with skipping(model, [1]):
            model.model(**model.sample())

    block.forward = wider

    with pytest.raises(CannotDropLayers, match=r"given states \(2, 6, 24\) and returns \(2, 6, 48\)"):
        run()


def test_a_model_cannot_be_copied_while_layers_are_skipped():
    model = load_model(bert())

    with skipping(model, [1]), pytest.raises(CopiedUnderMask):
        copy.deepcopy(model.model)
    with model.masked([(0, 1)]), pytest.raises(CopiedUnderMask):
        without_layers(model, [1])


def test_a_layer_that_writes_to_its_input_is_passed_by_too():
    model = load_model(bert())
    smaller = by_hand(model.model, "bert.encoder.layer", "num_hidden_layers", [1])
    inputs = dict(model.sample())

    def scribble(module: Any, args: Any) -> None:
        args[0].mul_(3)

    model.model.bert.encoder.layer[1].attention.register_forward_pre_hook(scribble)
    with skipping(model, [1]):
        skipped = logits(model.model, inputs)

    assert torch.equal(skipped, logits(smaller, inputs))
