"""Masks act however a model is run: in any precision, by any attention backend, compiled, offloaded, padded.

Oracle: a deep copy, or a model of the same weights, in which the columns that read the masked heads are zero.
"""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from accelerate import cpu_offload
from torch._dynamo.exc import Unsupported
from transformers import AutoModelForSequenceClassification

from pytest_bertology import load_model
from pytest_bertology.errors import BackwardAfterMask, CompiledUnderMask, CopiedUnderMask, InvalidArgument
from pytest_bertology.inspection import inspect_model
from pytest_bertology.models import compiling
from tests.families import FAMILIES, family, padded_batch, projections, real, zeroed

SOME = [(0, 1), (1, 3)]
ids = pytest.mark.parametrize("name", FAMILIES)


def _logits(model, batch):
    with torch.no_grad():
        return model(**batch).logits


def _expected(name, kind, batch, heads=SOME, **options):
    """The logits of a model with the same weights, the heads' columns zero; and those of the plain model."""
    model = load_model(family(name, kind, **options))
    return _logits(zeroed(model, heads), batch), _logits(model.model, batch)


@ids
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_in_every_precision(name, dtype):
    model = load_model(family(name, dtype=dtype))
    batch = padded_batch(model.model)
    expected, plain = _expected(name, "sequence-classification", batch, dtype=dtype)

    with model.masked(SOME):
        masked = _logits(model.model, batch)

    assert masked.dtype == dtype
    assert torch.allclose(masked, expected, atol=2e-2 if dtype.itemsize == 2 else 1e-5)
    assert not torch.allclose(masked, plain, atol=5e-2)


@ids
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # flex attention's own
@pytest.mark.parametrize("attention", ["eager", "sdpa", "flex_attention"])
def test_by_every_attention_backend(name, attention):
    kind = FAMILIES[name][1]
    if attention == "flex_attention" and name != "llama":
        pytest.skip("flex attention compiles for half a minute: one family will do")
    if attention == "flex_attention" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        pytest.skip("flex attention compiles, and there is no C++ compiler")
    model = load_model(family(name, kind, attn_implementation=attention))
    batch = padded_batch(model.model)
    expected, plain = _expected(name, kind, batch)

    with model.masked(SOME):
        masked = _logits(model.model, batch)

    assert torch.allclose(real(masked, batch), real(expected, batch), atol=1e-4)
    assert not torch.allclose(real(masked, batch), real(plain, batch), atol=1e-2)


@ids
def test_on_batches_padded_on_the_left(name):
    kind = "token-classification"
    model = load_model(family(name, kind))
    batch = {key: value.flip(1) for key, value in padded_batch(model.model).items()}
    expected, plain = _expected(name, kind, batch)

    with model.masked(SOME):
        masked = _logits(model.model, batch)

    assert torch.allclose(real(masked, batch), real(expected, batch), atol=1e-5)
    assert not torch.allclose(real(masked, batch), real(plain, batch), atol=1e-2)


@ids
def test_with_weights_offloaded_to_memory(name):
    model = load_model(cpu_offload(family(name), execution_device="cpu"))
    batch = padded_batch(family(name))
    expected, plain = _expected(name, "sequence-classification", batch)

    with model.masked(SOME):
        masked = _logits(model.model, batch)

    assert {parameter.device.type for parameter in model.model.parameters()} == {"meta"}
    assert torch.allclose(masked, expected, atol=1e-5)
    assert torch.equal(_logits(model.model, batch), plain)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, of quantisation
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_with_weights_quantised_to_int8(name):
    live = torch.ao.quantization.quantize_dynamic(family(name), {torch.nn.Linear}, dtype=torch.qint8)
    model = load_model(live)
    batch = padded_batch(live)
    plain = _logits(live, batch)

    with model.masked([(0, 1)]):
        masked = _logits(live, batch)

    def zero(module, args):
        contexts = args[0].clone()
        contexts[..., 6:12] = 0.0
        return (contexts,)

    assert {site.cut for site in inspect_model(live).sites} == {"its weights are quantised"}
    assert not torch.allclose(masked, plain, atol=1e-2)
    projections(live)[0].register_forward_pre_hook(zero)
    assert torch.equal(masked, _logits(live, batch))


def test_offloaded_weights_have_the_digest_of_the_weights():
    offloaded = load_model(cpu_offload(family("bert"), execution_device="cpu"))

    assert offloaded.weights_digest() == load_model(family("bert")).weights_digest()
    assert offloaded.weights_digest() != load_model(family("bert", seed=1)).weights_digest()


def test_with_a_device_map_and_layers_on_disk(tmp_path):
    family("bert").save_pretrained(tmp_path / "model")
    places = {"bert.embeddings": "cpu", "bert.encoder.layer.0": "cpu", "bert.encoder.layer.1": "disk"}
    places |= {"bert.pooler": "cpu", "dropout": "cpu", "classifier": "cpu"}
    live = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=str(tmp_path / "disk")
    )
    model = load_model(live.eval())
    batch = padded_batch(family("bert"))
    expected, plain = _expected("bert", "sequence-classification", batch)

    with model.masked(SOME):
        masked = _logits(model.model, batch)

    assert torch.allclose(masked, expected, atol=1e-5)
    assert not torch.allclose(masked, plain, atol=1e-2)


@pytest.fixture
def compiler():
    """An empty compiler cache, and a backend that compiles without a C++ compiler."""
    torch._dynamo.reset()
    yield "eager"
    torch._dynamo.reset()


@pytest.mark.parametrize("in_place", [False, True], ids=["wrapped", "in place"])
@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_compiled_model_runs_uncompiled_under_a_mask(name, in_place, compiler):
    live = family(name)
    if in_place:
        live.compile(backend=compiler)
    compiled = live if in_place else torch.compile(live, backend=compiler)
    batch = padded_batch(live)
    expected, plain = _expected(name, "sequence-classification", batch)
    model = load_model(compiled)
    before = _logits(compiled, batch)
    frames = torch._dynamo.utils.counters["frames"]["total"]

    with model.masked(SOME):
        masked = _logits(compiled, batch)

    assert torch.allclose(masked, expected, atol=1e-5)
    assert torch._dynamo.utils.counters["frames"]["total"] == frames
    assert torch.allclose(before, plain, atol=1e-5)
    assert torch.allclose(_logits(compiled, batch), plain, atol=1e-5)


def test_code_compiled_after_loading_runs_uncompiled_too(compiler):
    model = load_model(family("bert"))
    batch = padded_batch(model.model)
    expected = _logits(zeroed(model, SOME), batch)
    compiled = torch.compile(model.model, backend=compiler)
    around = torch.compile(lambda: model.model(**batch).logits, backend=compiler)
    with torch.no_grad():
        compiled(**batch), around()

    with torch.no_grad(), model.masked(SOME):
        assert torch.allclose(compiled(**batch).logits, expected, atol=1e-5)
        assert torch.allclose(around(), expected, atol=1e-5)
    assert not torch.allclose(_logits(compiled, batch), expected, atol=1e-2)


@pytest.mark.parametrize("whole", [False, True])
def test_compiling_under_a_mask_is_refused_where_it_cannot_be_held_back(whole, compiler, monkeypatch):
    monkeypatch.setattr(compiling, "enter_eager", lambda: None)
    monkeypatch.setattr(compiling, "leave_eager", lambda: None)
    model = load_model(family("bert"))
    compiled = torch.compile(model.model, backend=compiler, fullgraph=whole)

    with pytest.raises((CompiledUnderMask, Unsupported)) as error, model.masked(SOME):
        _logits(compiled, padded_batch(model.model))

    assert "refuse" in str(error.getrepr(style="native"))


def test_masks_of_two_models_may_end_in_any_order():
    models = [load_model(family(name)) for name in ("bert", "llama")]
    first, second = (model.masked(SOME) for model in models)

    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert compiling._stance is not None
    second.__exit__(None, None, None)
    assert compiling._stance is None


def _checkpointing(model, reentrant):
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    return load_model(model.train())


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_backward_that_recomputes_after_the_mask_is_an_error(reentrant):
    model = _checkpointing(family("bert"), reentrant)
    batch = padded_batch(model.model)
    with model.masked(SOME):
        loss = model.model(**batch).logits.sum()

    with pytest.raises(BackwardAfterMask):
        loss.backward()

    model.model(**batch).logits.sum().backward()
    hooks = [len(site.projection._forward_pre_hooks) for site in model.sites]
    assert hooks == [0, 0]
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize("source", [torch.nn.Linear(2, 2), None, (1, 2), dict], ids=["module", "None", "pair", "class"])
def test_what_is_no_model_is_refused(source):
    with pytest.raises(InvalidArgument, match="a hub name, a folder or a live transformers PreTrainedModel"):
        load_model(source)


def test_a_sample_that_is_no_mapping_is_refused():
    with pytest.raises(InvalidArgument, match="the keyword inputs of one forward pass"):
        load_model(family("bert"), sample=[1])


def test_a_model_is_not_copied_under_a_mask():
    model = load_model(family("bert"))

    with model.masked(SOME), pytest.raises(CopiedUnderMask):
        copy.deepcopy(model.model)
