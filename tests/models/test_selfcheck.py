"""The proof at load catches gates that do not act as they must, and nothing else.

Oracle: planted faults, each a known way in which a mask can be wrong; planted dead and silent heads.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import BertForSequenceClassification

from pytest_bertology import Head, HeadMap, load_model
from pytest_bertology.errors import SelfCheckFailed
from pytest_bertology.models import gating as gating_module
from pytest_bertology.models.discovery import discover
from pytest_bertology.models.gating import Gating
from pytest_bertology.models.sampling import make_sample
from pytest_bertology.models.selfcheck import self_check
from tests.families import EVERY, FAMILIES, HEADS, LAYERS, family, head_size, projections, tokenizer

STACKED = pytest.mark.parametrize("stacked", [True, False], ids=["many heads at a time", "one head at a time"])


@STACKED
@pytest.mark.parametrize(("name", "kind"), EVERY)
def test_sound_models_pass_with_every_head_alive(name, kind, stacked):
    check = _check(family(name, kind), stacked=stacked)

    assert check.dead == ()
    assert check.silent == ()


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_a_classifier_without_padding_token_is_proven_one_head_at_a_time(name):
    check = load_model(family(name, pad_token_id=None), tokenizer=tokenizer()).check

    assert check.idle == frozenset()


@STACKED
@pytest.mark.parametrize("name", FAMILIES)
def test_a_width_off_by_one_is_caught(name, stacked):
    with pytest.raises(SelfCheckFailed, match="24 numbers per token and not 4 heads of 7"):
        _check(family(name), {0: {"width": 7}}, stacked=stacked)


@STACKED
def test_heads_and_width_exchanged_are_caught(stacked):
    with pytest.raises(SelfCheckFailed, match=r"attention returned \(., ., 4, 6\)"):
        _check(family("bert"), {0: {"heads": 6, "width": 4}}, stacked=stacked)


@STACKED
def test_slices_off_by_one_number_are_caught(stacked, monkeypatch):
    _plant(monkeypatch, lambda context, gated: torch.where(torch.roll(gated != context, 1, -1), 0.0, context))

    with pytest.raises(SelfCheckFailed, match=r"with L0H0 masked, the projection does not receive"):
        _check(family("bert"), stacked=stacked)


@STACKED
def test_masking_the_neighbouring_head_is_caught(stacked, monkeypatch):
    _plant(monkeypatch, lambda context, gated: torch.where(torch.roll(gated != context, 6, -1), 0.0, context))

    with pytest.raises(SelfCheckFailed, match="L0H0"):
        _check(family("bert"), stacked=stacked)


@STACKED
def test_masking_more_than_the_head_is_caught(stacked, monkeypatch):
    _plant(monkeypatch, lambda context, gated: torch.where((gated != context).any(-1, keepdim=True), 0.0, context))

    with pytest.raises(SelfCheckFailed, match="L0H0"):
        _check(family("bert"), stacked=stacked)


@STACKED
def test_a_mask_that_is_ignored_is_caught(stacked, monkeypatch):
    _plant(monkeypatch, lambda context, gated: context)

    with pytest.raises(SelfCheckFailed, match="L0H0"):
        _check(family("bert"), stacked=stacked)


@STACKED
def test_a_gate_that_lets_a_trace_through_is_caught(stacked, monkeypatch):
    _plant(monkeypatch, lambda context, gated: gated + 1e-6 * (context - gated))

    with pytest.raises(SelfCheckFailed, match="L0H0"):
        _check(family("bert"), stacked=stacked)


def test_an_open_gate_that_changes_a_bit_is_caught(monkeypatch):
    _plant(monkeypatch, lambda context, gated: gated * (1 + 1e-6))

    with pytest.raises(SelfCheckFailed, match="with all gates open"):
        _check(family("bert"))


@STACKED
@pytest.mark.parametrize(
    "elsewhere",
    ["layer.0.attention.self.query", "layer.1.attention.self.query", "layer.0.intermediate.dense"],
)
def test_a_gate_on_another_module_is_caught(elsewhere, stacked):
    model = family("bert")

    with pytest.raises(SelfCheckFailed, match=r"attention returned|is not attention's result"):
        _check(model, {0: {"projection": model.bert.encoder.get_submodule(elsewhere)}}, stacked=stacked)


def test_gates_of_exchanged_layers_are_caught():
    model = family("bert")
    first, second = projections(model)

    with pytest.raises(SelfCheckFailed, match="order"):
        _check(model, {0: {"projection": second}, 1: {"projection": first}})


@STACKED
@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_gate_behind_the_projection_is_caught(name, stacked):
    model = family(name)
    behind = model.bert.encoder.layer[0].attention.output.dropout if name == "bert" else model.transformer.h[0].ln_2

    with pytest.raises(SelfCheckFailed, match="is not attention's result"):
        _check(model, {0: {"projection": behind}}, stacked=stacked)


def test_a_hook_that_never_fires_is_caught():
    with pytest.raises(SelfCheckFailed, match="never called"):
        _check(family("bert"), {1: {"projection": nn.Linear(24, 24)}})


def test_a_projection_that_runs_less_often_than_discovered_is_caught():
    with pytest.raises(SelfCheckFailed, match="must act 2 times in one forward pass; it acted 1 times"):
        _check(family("bert"), {1: {"calls": 2}})


@STACKED
def test_an_output_that_is_not_the_sum_of_the_heads_shares_is_caught(stacked):
    model = family("bert")
    projections(model)[1].register_forward_hook(lambda module, args, result: result.tanh())

    with pytest.raises(SelfCheckFailed, match="masking L1H0 does not change the projection's output by that head's"):
        _check(model, stacked=stacked)


class _Scaled(nn.Module):
    """An adapter whose branch scales the heads before it reads them: the branch itself never sees a gate."""

    def __init__(self, base):
        super().__init__()
        self.base, self.branch = base, nn.Linear(base.in_features, base.out_features)

    def forward(self, contexts):
        return self.base(contexts) + 0.01 * self.branch(contexts * 2.0)


@STACKED
def test_a_branch_that_reads_the_heads_past_the_gate_is_caught(stacked):
    model = family("bert")
    layer = model.bert.encoder.layer[1].attention.output
    layer.dense = _Scaled(layer.dense)

    with pytest.raises(SelfCheckFailed, match="something beside the projection reads the heads too") as error:
        _check(model.eval(), stacked=stacked)

    assert error.value.site == "bert.encoder.layer.1.attention.output.dense.base"


class _Decorative(BertForSequenceClassification):
    """A classifier whose layers run for show: its logits come from the embeddings."""

    def forward(self, input_ids, attention_mask=None):
        self.bert(input_ids, attention_mask=attention_mask)
        return (self.classifier(self.bert.embeddings(input_ids)[:, 0]),)


def test_layers_that_run_for_show_are_caught():
    model = _Decorative(family("bert").config).eval()

    with pytest.raises(SelfCheckFailed, match="moves nothing of the model's output"):
        load_model(model)


def test_a_model_with_other_outputs_at_each_run_is_refused():
    model = family("bert")
    model.dropout.register_forward_pre_hook(lambda module, args: args[0] + torch.randn_like(args[0]))

    with pytest.raises(SelfCheckFailed, match="with all gates open its output is not the plain one"):
        load_model(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", FAMILIES)
def test_weights_that_are_not_finite_are_refused(name, value):
    model = family(name)
    projections(model)[1].weight.data[3, 3] = value

    with pytest.raises(SelfCheckFailed, match="the plain model's output is not finite"):
        load_model(model)


@STACKED
@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_with_zero_columns_is_dead_and_no_fault(name, stacked):
    model = family(name)
    _zero(model, 0, 2)
    _zero(model, 1, 3)

    check = _check(model, stacked=stacked)

    assert check.dead == (Head(0, 2), Head(1, 3))
    assert check.silent == ()


def test_a_model_of_dead_heads_is_told_and_no_fault():
    model = family("gpt2")
    for layer in range(LAYERS):
        for head in range(HEADS):
            _zero(model, layer, head)

    found = load_model(model)

    assert found.idle_heads() == tuple(found.heads)


@STACKED
def test_a_head_that_writes_what_no_one_reads_is_silent(stacked):
    model = family("bert")
    last = model.bert.encoder.layer[1]
    last.attention.output.LayerNorm = last.output.LayerNorm = nn.Identity()
    _zero(model, 1, 2)
    with torch.no_grad():
        last.attention.output.dense.weight[5, 12:18] = 1.0
        last.intermediate.dense.weight[:, 5] = 0.0
        model.bert.pooler.dense.weight[:, 5] = 0.0

    check = _check(model, stacked=stacked)

    assert check.dead == ()
    assert check.silent == (Head(1, 2),)


def test_the_proof_reads_fewer_tokens_than_one_forward_of_512():
    model = family("bert", num_hidden_layers=12, num_attention_heads=12)
    read = []
    model.bert.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )

    found = load_model(model)

    assert len(found.heads) == 144
    assert 0 < sum(read) < 512


def _check(model, changes=None, *, stacked=True):
    """The proof for a model, with some fields of some sites replaced."""
    sample = make_sample(model)
    found = discover(model, sample).sites
    sites = tuple(replace(site, **(changes or {}).get(index, {})) for index, site in enumerate(found))
    heads = HeadMap([site.heads for site in sites])
    return self_check(model, sites, heads, Gating(model, sites), sample, own_sample=stacked)


def _plant(monkeypatch, fault):
    """Gates that hand on `fault(context, gated)` instead of the gated context."""
    right = gating_module._apply
    monkeypatch.setattr(
        gating_module, "_apply", lambda frame, index, site, context: fault(context, right(frame, index, site, context))
    )


def _zero(model, layer, head):
    """Zero the projection weights that read a head."""
    weight, size = projections(model)[layer].weight.data, head_size(model)
    read = slice(head * size, (head + 1) * size)
    if model.config.model_type == "gpt2":
        weight[read] = 0.0
    else:
        weight[:, read] = 0.0
