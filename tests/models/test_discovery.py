"""Discovery finds the heads, and leaves nothing behind.

Oracle: each family's configuration and the names of its projections, written down in `families.py`; zeroed weight
columns for the adapter.
"""

from __future__ import annotations

import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_utils import AttentionInterface

from pytest_bertology import HeadMap, load_model
from pytest_bertology.errors import CannotGate, CannotSample, NoAttentionHeads
from pytest_bertology.models.discovery import discover
from pytest_bertology.models.sampling import make_sample
from tests.families import (
    EVERY,
    FAMILIES,
    HEADS,
    LAYERS,
    PROJECTIONS,
    family,
    head_size,
    padded_batch,
    projections,
    redraw,
)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_heads_are_those_of_the_configuration(name, kind):
    model = family(name, kind)

    found = discover(model, make_sample(model))
    sites, heads = found.sites, found.heads

    assert heads == HeadMap([model.config.num_attention_heads] * model.config.num_hidden_layers)
    for layer, site in enumerate(sites):
        assert (site.layer, site.stack, site.calls) == (layer, None, 1)
        assert site.heads == model.config.num_attention_heads
        assert site.kv_heads == getattr(model.config, "num_key_value_heads", site.heads)
        assert site.width == head_size(model)


@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_projections_are_the_known_ones(name, kind):
    model = family(name, kind)

    sites = discover(model, make_sample(model)).sites

    names = [PROJECTIONS[name].format(layer) for layer in range(LAYERS)]
    assert [site.name for site in sites] == [f"{model.base_model_prefix}.{below}" for below in names]
    assert [site.projection for site in sites] == projections(model)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", FAMILIES)
def test_the_attention_backend_does_not_matter(name, attention):
    model = family(name, attn_implementation=attention)

    found = discover(model, make_sample(model))
    sites, heads = found.sites, found.heads

    assert heads == HeadMap([HEADS] * LAYERS)
    assert [site.projection for site in sites] == projections(model)


def test_a_layer_shared_by_two_passes_is_one_layer_called_twice():
    model = family("bert")
    model.bert.encoder.layer[1] = model.bert.encoder.layer[0]

    found = discover(model, make_sample(model))
    sites, heads = found.sites, found.heads

    assert heads == HeadMap([HEADS])
    assert [site.calls for site in sites] == [2]


def test_discovery_with_one_token_and_one_head():
    model = family("bert", num_attention_heads=1, num_hidden_layers=1)

    found = discover(model, {"input_ids": torch.tensor([[7]])})
    sites, heads = found.sites, found.heads

    assert heads == HeadMap([1])
    assert [site.width for site in sites] == [24]


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_on_the_model(name):
    model = family(name)
    before = _traces(model)
    weights = {key: value.clone() for key, value in model.state_dict().items()}

    discover(model, make_sample(model))

    assert _traces(model) == before
    assert all(torch.equal(weights[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_left_on_the_model_by_discovery_and_proof(name):
    model = family(name)
    model.train()
    before, weights, random = _traces(model), pickle.dumps(model.state_dict()), torch.get_rng_state()

    found = load_model(model)
    drawn = torch.get_rng_state()
    with torch.no_grad(), found.masked([(0, 1)]):
        model(**padded_batch(model))

    assert _traces(model) == before
    assert pickle.dumps(model.state_dict()) == weights
    assert torch.equal(drawn, random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_is_left_after_a_failing_forward():
    model = family("bert")
    before = _traces(model)

    with pytest.raises(IndexError):
        discover(model, {"input_ids": torch.tensor([[10**6]])})

    assert _traces(model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_outputs_during_discovery_are_the_plain_ones(name):
    model, seen = family(name), []
    sample = make_sample(model)
    with torch.no_grad():
        plain = model(**sample).logits
    model.register_forward_hook(lambda module, args, result: seen.append(result.logits))

    discover(model, sample)

    assert len(seen) == 1
    assert torch.equal(seen[0], plain)


def test_two_threads_discover_at_once():
    models = [family("bert"), family("llama"), family("gpt2"), family("bert")]
    models.append(models[0])
    found, barrier = [None] * len(models), threading.Barrier(len(models))

    def work(index):
        barrier.wait()
        for _ in range(5):
            found[index] = discover(models[index], make_sample(models[index]))

    _in_threads(work, len(models))

    for model, discovery in zip(models, found, strict=True):
        assert discovery.heads == HeadMap([HEADS] * LAYERS)
        assert [site.projection for site in discovery.sites] == projections(model)


def test_another_threads_forward_is_not_mistaken_for_the_dry_run():
    model, other = family("bert"), family("bert", num_hidden_layers=4)
    batch = padded_batch(other)
    running, stop = threading.Event(), threading.Event()

    def run():
        with torch.no_grad():
            while not stop.is_set():
                other(**batch)
                running.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert running.wait(20)
    try:
        found = [discover(model, make_sample(model)).heads for _ in range(5)]
    finally:
        stop.set()
        thread.join()

    assert found == [HeadMap([HEADS] * LAYERS)] * 5


class _Linear(PreTrainedModel):
    """A model of linear layers: nothing attends."""

    config_class = PreTrainedConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed, self.out = nn.Embedding(50, 8), nn.Linear(8, 2)

    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(to_tuple=lambda: (self.out(self.embed(input_ids).mean(1)),))


def test_a_model_of_linear_layers_has_no_heads():
    model = _Linear(PreTrainedConfig(vocab_size=50))

    with pytest.raises(NoAttentionHeads) as error:
        load_model(model, kind="sequence-classification")

    assert error.value.architecture == "_Linear"


def test_a_state_space_model_has_no_heads():
    model = MambaForCausalLM(
        MambaConfig(vocab_size=50, hidden_size=8, num_hidden_layers=1, state_size=4, pad_token_id=0)
    )

    with pytest.raises(NoAttentionHeads):
        load_model(model.eval())


class _Plain(BertForSequenceClassification):
    """A BERT whose own forward never reaches its layers."""

    def forward(self, input_ids, attention_mask=None):
        return (self.classifier(self.bert.embeddings(input_ids)[:, 0]),)


def test_layers_that_never_run_have_no_heads():
    model = _Plain(BertConfig(vocab_size=50, hidden_size=8, num_attention_heads=2, num_hidden_layers=1))

    with pytest.raises(NoAttentionHeads):
        load_model(model.eval())


def test_a_model_that_does_not_read_tokens_asks_for_a_sample():
    model = family("bert")
    model.main_input_name = "pixel_values"

    with pytest.raises(CannotSample, match="sample="):
        load_model(model)


class _Between(nn.Module):
    """A projection with something before it, done by a function of no module."""

    def __init__(self, projection, function):
        super().__init__()
        self.projection, self.function = projection, function

    def forward(self, contexts):
        return self.projection(self.function(contexts))


def _between(function):
    model = family("bert")
    output = model.bert.encoder.layer[1].attention.output
    output.dense = _Between(output.dense, function)
    return model


@pytest.mark.parametrize(
    "function",
    [lambda x: x + x.roll(6, -1), lambda x: x / x.norm(dim=-1, keepdim=True), lambda x: x.flip(-1), lambda x: x + 1.0],
    ids=["mixed", "normalised together", "in another order", "shifted"],
)
def test_heads_that_do_not_arrive_apart_are_refused(function):
    with pytest.raises(CannotGate, match="do not arrive side by side") as error:
        load_model(_between(function))

    assert error.value.site == "bert.encoder.layer.1.attention.self"


def test_heads_multiplied_on_their_way_are_gated_at_the_projection():
    model = _between(lambda x: x * torch.linspace(0.5, 2.0, 24))

    found = load_model(model)

    assert [site.found for site in found.sites] == ["interface", "gated"]
    assert found.sites[1].projection is model.bert.encoder.layer[1].attention.output.dense.projection


class _Adapter(nn.Module):
    """A projection and a low-rank branch beside it that reads the same heads, as LoRA has it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.dropout = base, nn.Dropout(0.1)
        self.down, self.up = nn.Linear(base.in_features, 2, bias=False), nn.Linear(2, base.out_features, bias=False)

    def forward(self, contexts):
        return self.base(contexts) + self.up(self.down(self.dropout(contexts)))


def test_an_adapter_beside_the_projection_is_gated_with_it():
    model, twin = _with_adapters(), _with_adapters()
    batch = padded_batch(model)
    adapter = twin.bert.encoder.layer[1].attention.output.dense
    with torch.no_grad():
        for branch in (adapter.base, adapter.down):
            branch.weight[:, 2 * 6 : 3 * 6] = 0.0

    found = load_model(model)
    with torch.no_grad(), found.masked([(1, 2)]):
        masked = model(**batch).logits

    assert [type(site.projection) for site in found.sites] == [_Adapter, _Adapter]
    with torch.no_grad():
        assert torch.allclose(masked, twin(**batch).logits, atol=1e-5)
        assert not torch.allclose(masked, model(**batch).logits, atol=1e-2)


def _with_adapters():
    model = family("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.output.dense = _Adapter(layer.attention.output.dense)
    return redraw(model, 1).eval()


def _traces(model):
    """What discovery could leave behind: hooks, attributes, a patched class."""
    hooks = [
        {kind: list(value) for kind, value in vars(module).items() if "hook" in kind and hasattr(value, "__len__")}
        for module in model.modules()
    ]
    return (
        AttentionInterface.get_interface,
        torch._C._len_torch_function_stack(),
        [set(vars(module)) for module in model.modules()],
        hooks,
        [module.training for module in model.modules()],
    )


def _in_threads(work, count):
    """Run `work(index)` in threads, and raise here what one of them raised."""
    errors = []

    def guarded(index):
        try:
            work(index)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
