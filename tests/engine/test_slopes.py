"""Passes for derivatives compute the last layer where it is read, and only if the derivatives are the same.

Oracle: the same gates and autograd on whole forward passes, by the test itself.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from pytest_bertology.engine import slopes
from pytest_bertology.engine.batching import Batching, batches
from pytest_bertology.engine.encoding import encode
from pytest_bertology.engine.objectives import judge
from pytest_bertology.engine.slopes import Shortened
from tests.engine.test_sweeps import Multiplications
from tests.families import task_for, under_test

READ = [("bert", "sequence-classification"), ("llama", "sequence-classification"), ("gpt2", "sequence-classification")]
READ += [("roberta", "masked-lm"), ("distilbert", "masked-lm"), ("gpt2", "causal-lm")]


def derived(model, losses) -> torch.Tensor:
    """Derivatives of each example's loss by gates of its own, all open."""
    gates = [torch.ones(4, site.heads, requires_grad=True) for site in model.sites]
    with model.frozen(), model.gated(gates):
        found = torch.autograd.grad(losses().sum(), gates)
    return torch.cat(found, dim=1)


def four(model, kind):
    """A batch of four examples, padded."""
    encoded = encode(model, task_for(kind, count=4))
    (batch,) = batches(model, encoded, Batching(tokens=4096))
    return encoded, batch


@pytest.mark.parametrize(("name", "kind"), READ)
def test_derivatives_are_those_of_whole_passes(name, kind):
    model = under_test(name, kind, dtype=torch.float64)
    encoded, batch = four(model, kind)
    expected = derived(model, lambda: judge(model, batch, encoded.objective).losses)

    found = derived(model, lambda: Shortened(model, encoded).judge(batch).losses)

    assert torch.allclose(found, expected, rtol=0.0, atol=1e-10)
    assert expected.abs().min() > 0.0


def test_less_is_computed():
    model = under_test("bert", intermediate_size=96)
    encoded, batch = four(model, "sequence-classification")
    passes = Shortened(model, encoded)
    passes.judge(batch)

    with Multiplications() as whole:
        judge(model, batch, encoded.objective)
    with Multiplications() as shortened:
        passes.judge(batch)

    assert shortened.count < 0.7 * whole.count


def test_passes_whose_derivatives_differ_are_whole(monkeypatch):
    model = under_test("bert")
    encoded, batch = four(model, "sequence-classification")
    expected = judge(model, batch, encoded.objective).losses
    narrowed = slopes.narrowed

    @contextmanager
    def detached(*args):
        hook = model.sites[1].projection.register_forward_pre_hook(lambda m, a: (a[0].detach(), *a[1:]))
        with narrowed(*args):
            yield
        hook.remove()

    monkeypatch.setattr(slopes, "narrowed", detached)

    found = Shortened(model, encoded).judge(batch).losses

    assert torch.equal(found, expected)


def test_a_model_with_hooks_of_others_runs_whole():
    model = under_test("bert")
    encoded, batch = four(model, "sequence-classification")
    model.model.bert.encoder.layer[1].register_forward_hook(lambda *_: None)
    expected = judge(model, batch, encoded.objective).losses

    assert torch.equal(Shortened(model, encoded).judge(batch).losses, expected)
