"""What a test may leave behind on a shared model is put back, and changed weights are told.

Oracle: the modes, flags, hooks and weights written down by hand before.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_bertology.models.state import ModelState, checksums, digest, evaluating, frozen
from tests.families import FAMILIES, family, padded_batch


@pytest.mark.parametrize("spoil", [nn.Module.train, nn.Module.eval])
def test_restore_brings_back_each_modules_own_mode(spoil):
    model = family("bert").train()
    model.bert.embeddings.eval()
    modes = [module.training for module in model.modules()]
    state = ModelState.capture(model)
    spoil(model)

    changed = state.restore()

    assert [module.training for module in model.modules()] == modes
    assert changed == []


@pytest.mark.parametrize("spoiled", [True, False])
def test_restore_brings_back_requires_grad_and_clears_gradients(spoiled):
    model = family("bert")
    model.bert.embeddings.requires_grad_(False)
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    state = ModelState.capture(model)
    model(**padded_batch(model)).logits.sum().backward()
    model.requires_grad_(spoiled)

    changed = state.restore()

    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert changed == []


_REGISTER = {
    "forward": lambda module, seen: module.register_forward_hook(lambda *_: seen.append("forward")),
    "forward with keywords": lambda module, seen: module.register_forward_hook(
        lambda *_: seen.append("forward"), with_kwargs=True, always_call=True
    ),
    "before": lambda module, seen: module.register_forward_pre_hook(lambda *_: seen.append("before")),
    "before with keywords": lambda module, seen: module.register_forward_pre_hook(
        lambda *_: seen.append("before"), with_kwargs=True
    ),
    "backward": lambda module, seen: module.register_full_backward_hook(lambda *_: seen.append("backward")),
    "before backward": lambda module, seen: module.register_full_backward_pre_hook(lambda *_: seen.append("backward")),
}


@pytest.mark.parametrize("register", _REGISTER.values(), ids=_REGISTER)
def test_restore_removes_the_hooks_that_came_and_keeps_those_that_were(register):
    model, kept, gone = family("bert"), [], []
    register(model.bert.encoder.layer[0], kept)
    state = ModelState.capture(model)
    register(model.bert.encoder.layer[0], gone)
    register(model.bert.encoder.layer[1].attention.output.dense, gone)

    state.restore()
    model(**padded_batch(model)).logits.sum().backward()

    assert len(kept) == 1
    assert gone == []


def test_restore_brings_back_a_hook_that_was_removed():
    model, seen = family("bert"), []
    handle = model.classifier.register_forward_hook(lambda *_: seen.append(1))
    state = ModelState.capture(model)
    handle.remove()

    state.restore()
    model(**padded_batch(model))

    assert seen == [1]


_DENSE = "bert.encoder.layer.1.attention.output.dense.weight"


def _in_place(model):
    with torch.no_grad():
        model.get_parameter(_DENSE)[3, 3] += 1e-6


def _through_data(model):
    model.get_parameter(_DENSE).data.mul_(-1)


def _through_numpy(model):
    model.get_parameter(_DENSE).detach().numpy()[0, 0] = 7


def _through_a_state_dict(model):
    model.load_state_dict({**model.state_dict(), _DENSE: torch.zeros(24, 24)})


def _by_a_new_parameter(model):
    model.bert.encoder.layer[1].attention.output.dense.weight = nn.Parameter(torch.zeros(24, 24))


def _by_not_a_number(model):
    model.get_parameter(_DENSE).data[0, 0] = float("nan")


def _by_an_optimizer(model):
    weight = model.get_parameter(_DENSE)
    weight.grad = torch.ones_like(weight)
    torch.optim.SGD([weight], lr=0.1).step()


@pytest.mark.parametrize(
    "change",
    [
        _in_place,
        _through_data,
        _through_numpy,
        _through_a_state_dict,
        _by_a_new_parameter,
        _by_not_a_number,
        _by_an_optimizer,
    ],
)
def test_a_changed_weight_is_told_however_it_was_changed(change):
    model = family("bert")
    state = ModelState.capture(model)
    change(model)

    assert state.restore() == [_DENSE]


def test_a_weight_that_was_changed_and_changed_back_is_no_change():
    model = family("bert")
    state = ModelState.capture(model)
    model.get_parameter(_DENSE).data.mul_(-1)
    model.get_parameter(_DENSE).data.mul_(-1)

    assert state.restore() == []


def test_changed_buffers_and_parts_that_came_or_went_are_told():
    model = family("bert")
    state = ModelState.capture(model)
    model.bert.embeddings.position_ids[0, 0] = 3
    model.bert.pooler = None
    model.extra = nn.Linear(2, 1, bias=False)

    assert state.restore() == [
        "bert.embeddings.position_ids",
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "extra.weight",
    ]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FAMILIES)
def test_checksums_and_digest_see_every_parameter(name, dtype):
    model = family(name, dtype=dtype)
    sums, whole = checksums(model), digest(model)

    for parameter_name, parameter in model.named_parameters():
        first = parameter.data.view(-1)[0].clone()
        parameter.data.view(-1)[0] = first + 1
        assert [key for key, value in checksums(model).items() if value != sums[key]] == [parameter_name]
        assert digest(model) != whole
        parameter.data.view(-1)[0] = first

    assert checksums(model) == sums
    assert digest(model) == whole


def test_the_digest_tells_dtypes_and_shapes_of_the_same_bytes_apart():
    weights = [torch.zeros(4), torch.zeros(2, 2), torch.zeros(8, dtype=torch.bfloat16), torch.zeros(2).double()]

    digests = {digest(_Holder(weight)) for weight in weights}

    assert len(digests) == len(weights)


def test_weights_laid_out_otherwise_are_the_same_weights():
    weight = torch.randn(6, 4)

    assert digest(_Holder(weight.T)) == digest(_Holder(weight.T.contiguous()))


class _Holder(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)


@pytest.mark.parametrize("error", [None, ZeroDivisionError])
def test_frozen_restores_mixed_requires_grad_and_modes_and_leaves_gradients_alone(error):
    model = family("bert").train()
    model.bert.encoder.eval()
    model.bert.embeddings.requires_grad_(False)
    model(**padded_batch(model)).logits.sum().backward()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    gradients = [(p.grad, None if p.grad is None else p.grad.clone()) for p in model.parameters()]

    def body():
        with frozen(model):
            assert not any(parameter.requires_grad for parameter in model.parameters())
            assert not any(module.training for module in model.modules())
            if error:
                raise error

    if error:
        with pytest.raises(error):
            body()
    else:
        body()

    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert [module.training for module in model.modules()] == modes
    for parameter, (same, value) in zip(model.parameters(), gradients, strict=True):
        assert parameter.grad is same
        assert value is None or torch.equal(parameter.grad, value)
    assert any(value is not None for _, value in gradients)


def test_evaluating_restores_each_modules_own_mode():
    model = family("gpt2").train()
    model.transformer.h[0].eval()
    modes = [module.training for module in model.modules()]

    with evaluating(model):
        inside = [module.training for module in model.modules()]

    assert not any(inside)
    assert [module.training for module in model.modules()] == modes
