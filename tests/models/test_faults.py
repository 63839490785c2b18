"""Faults planted in the gates: without the proof at load they go unnoticed and masks are wrong; with it, never.

Oracle for "wrong": a deep copy in which the columns that read the masked head are zero.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import AttentionInterface

from pytest_bertology import load_model
from pytest_bertology.errors import MaskNotApplied, SelfCheckFailed
from pytest_bertology.models import gating, under_test
from pytest_bertology.models.gating import Gating
from pytest_bertology.models.selfcheck import SelfCheck
from tests.families import family, padded_batch, projections, zeroed

HEAD = (0, 2)


def _other_sites(monkeypatch, change):
    """Discovery that finds `change(model, site)` instead of the first layer's site."""
    right = under_test.discover

    def discover(model, sample, *headless):
        found = right(model, sample, *headless)
        return replace(found, sites=(change(model, found.sites[0]), *found.sites[1:]))

    monkeypatch.setattr(under_test, "discover", discover)


def _wrong_side(monkeypatch):
    _other_sites(
        monkeypatch, lambda model, site: replace(site, projection=model.bert.encoder.layer[0].attention.output.dropout)
    )


def _wrong_module(monkeypatch):
    _other_sites(
        monkeypatch, lambda model, site: replace(site, projection=model.bert.encoder.layer[0].attention.self.query)
    )


def _width_off_by_one(monkeypatch):
    _other_sites(monkeypatch, lambda model, site: replace(site, width=site.width - 1))


def _hook_that_never_fires(monkeypatch):
    monkeypatch.setattr(Gating, "_enter", lambda self: None)
    monkeypatch.setattr(Gating, "_leave", lambda self: None)


def _mask_ignored_by_the_backend(monkeypatch):
    """Gates on the attention weights that a backend returns: sdpa returns none."""
    monkeypatch.setattr(gating, "_apply", lambda frame, index, site, context: context)


def _padding_mask_dropped_by_the_backend(monkeypatch):
    """Gates through an attention function of another name: the builder of masks does not know it, and builds none."""
    AttentionInterface.register("planted", sdpa_attention_forward)
    right_enter, right_leave = Gating._enter, Gating._leave

    def enter(self):
        right_enter(self)
        self._model.config._attn_implementation = "planted"

    def leave(self):
        right_leave(self)
        self._model.config._attn_implementation = "sdpa"

    monkeypatch.setattr(Gating, "_enter", enter)
    monkeypatch.setattr(Gating, "_leave", leave)


def _lost_in_recomputation(monkeypatch):
    right = gating._apply

    def apply(frame, index, site, context):
        recomputing = torch._C._current_graph_task_id() != -1
        return context if recomputing else right(frame, index, site, context)

    monkeypatch.setattr(gating, "_apply", apply)


FORWARD = {
    "hook on the wrong side of the projection": _wrong_side,
    "gate on the wrong module": _wrong_module,
    "head width off by one": _width_off_by_one,
    "hook that never fires": _hook_that_never_fires,
    "gates ignored by the attention backend": _mask_ignored_by_the_backend,
    "padding mask dropped by the attention backend": _padding_mask_dropped_by_the_backend,
}
each = pytest.mark.parametrize("plant", FORWARD.values(), ids=FORWARD)


def _no_self_check(monkeypatch):
    nothing = SelfCheck(dead=(), silent=(), joint=(), per_example=True, passes=0)
    monkeypatch.setattr(under_test, "self_check", lambda *args, **options: nothing)


@each
def test_without_the_proof_a_fault_goes_unnoticed(plant, monkeypatch):
    plant(monkeypatch)
    _no_self_check(monkeypatch)
    model = load_model(family("bert"))
    batch, twin = padded_batch(model.model), family("bert")
    with torch.no_grad():
        projections(twin)[0].weight[:, 12:18] = 0.0

    with torch.no_grad(), model.masked([HEAD]):
        masked = model.model(**batch).logits

    with torch.no_grad():
        assert not torch.allclose(masked, twin(**batch).logits, atol=1e-3)


@each
def test_the_proof_catches_the_fault(plant, monkeypatch):
    plant(monkeypatch)

    with pytest.raises((SelfCheckFailed, MaskNotApplied)):
        load_model(family("bert"))


def _checkpointing(*, reentrant):
    model = family("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    return model


def _gradient(model, batch):
    model.train()
    model(**batch).logits.square().sum().backward()
    return model.get_input_embeddings().weight.grad


def test_without_the_proof_a_gate_lost_in_recomputation_goes_unnoticed(monkeypatch):
    _lost_in_recomputation(monkeypatch)
    _no_self_check(monkeypatch)
    model = load_model(_checkpointing(reentrant=True))
    batch, twin = padded_batch(model.model), zeroed(load_model(family("bert")), [HEAD])
    for module in twin.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    with model.masked([HEAD]):
        ours = _gradient(model.model, batch)

    assert not torch.allclose(ours, _gradient(twin, batch), atol=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_proof_catches_a_gate_lost_in_recomputation(reentrant, monkeypatch):
    _lost_in_recomputation(monkeypatch)

    with pytest.raises(SelfCheckFailed, match="gradient checkpointing recomputes"):
        load_model(_checkpointing(reentrant=reentrant))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_sound_model_that_checkpoints_passes_and_keeps_its_gradients(reentrant):
    model = family("bert")
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    kept = torch.ones_like(model.classifier.weight)
    model.classifier.weight.grad = kept

    load_model(model)

    assert model.classifier.weight.grad is kept
    assert model.get_input_embeddings().weight.grad is None
    assert not any(module.training for module in model.modules())
