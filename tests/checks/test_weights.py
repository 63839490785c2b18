"""Checks on weights: which names differ is known from what the test itself wrote; zeros are counted by numpy loops."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file
from torch import nn

from pytest_bertology import (
    CheckFailed,
    ModelUnderTest,
    assert_only_changed,
    assert_sparsity,
    assert_sparsity_preserved,
    load_model,
)
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.errors import InvalidArgument, ModelNotFound, NonFinite, NothingToJudge, NoWeights
from tests.tiny import LAYERS, tiny_model

BITFIT = r"bias|classifier"
QUERY = "bert.encoder.layer.0.attention.self.query.weight"
PER_LAYER = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
ENCODER = [f"bert.encoder.layer.{layer}.{name}.weight" for layer in range(LAYERS) for name in PER_LAYER]


def trained(model: ModelUnderTest, change: Callable[[str, nn.Parameter], None]) -> ModelUnderTest:
    """A copy whose parameters `change` has written to."""
    after = copy.deepcopy(model.model)
    with torch.no_grad():
        for name, parameter in after.named_parameters():
            change(name, parameter)
    return load_model(after, tokenizer=model.tokenizer)


def bitfit(name: str, parameter: nn.Parameter) -> None:
    if re.search(BITFIT, name):
        parameter.add_(0.25)


def message_of(check: Callable[..., object], *arguments: object, **options: object) -> str:
    with pytest.raises(CheckFailed) as caught:
        check(*arguments, **options)
    return " ".join(str(caught.value).split())


# -- only these changed ------------------------------------------------------------------------------------------


def test_training_of_biases_and_head_changes_nothing_else():
    before = tiny_model()
    after = trained(before, bitfit)
    expected = {name for name, _ in before.model.named_parameters() if re.search(BITFIT, name)}

    found = assert_only_changed(before, after, BITFIT)

    assert set(found.changed) == expected
    assert set(found.names) == set(before.model.state_dict())
    assert all(change.largest == pytest.approx(0.25) and change.numbers == change.size for change in found.changes)


@pytest.mark.parametrize("form", ["loaded", "live", "state dict", "folder", "file"])
def test_either_side_may_come_in_any_form(form, tmp_path):
    before, after = tiny_model(), trained(tiny_model(), bitfit)
    after.model.save_pretrained(tmp_path)
    forms = {
        "loaded": after,
        "live": after.model,
        "state dict": after.model.state_dict(),
        "folder": tmp_path,
        "file": str(tmp_path / "model.safetensors"),
    }

    assert len(assert_only_changed(before, forms[form], BITFIT).changes) > 0
    with pytest.raises(CheckFailed):
        assert_only_changed(forms[form], before, "LayerNorm")


def test_a_folder_of_shards_is_read_whole(tmp_path):
    before, after = tiny_model(), trained(tiny_model(), bitfit)
    after.model.save_pretrained(tmp_path, max_shard_size="8KB")

    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    found = assert_only_changed(before, tmp_path, BITFIT)
    assert set(found.names) == set(before.model.state_dict())


def test_a_tied_weight_that_a_checkpoint_keeps_once_has_not_gone(tmp_path):
    before, after = tiny_model("masked-lm"), trained(tiny_model("masked-lm"), bitfit)
    after.model.save_pretrained(tmp_path)

    found = assert_only_changed(before, tmp_path, "bias")

    assert {change.what for change in found.changes} == {"values"}


def test_one_number_changed_elsewhere_fails_and_is_named():
    before = tiny_model()

    def change(name: str, parameter: nn.Parameter) -> None:
        bitfit(name, parameter)
        if name == QUERY:
            parameter[3, 5] += 2.0

    message = message_of(assert_only_changed, before, trained(before, change), BITFIT)

    total = len(before.model.state_dict())
    matching = sum(bool(re.search(BITFIT, name)) for name in before.model.state_dict())
    assert message.startswith(f"1 of {total} weights changed whose names do not match 'bias|classifier'")
    assert f"matching {matching} of {matching} weights that match changed" in message
    assert f"{QUERY}: 1 of 256 numbers, by up to 2" in message


@pytest.mark.parametrize("what", ["the sign of a zero", "the last bit"])
def test_weights_are_compared_bit_for_bit(what):
    before = tiny_model()
    with torch.no_grad():
        before.model.bert.pooler.dense.weight[0, 0] = 0.0

    def change(name: str, parameter: nn.Parameter) -> None:
        bitfit(name, parameter)
        if name == "bert.pooler.dense.weight":
            if what == "the last bit":
                parameter[0, 1] = torch.nextafter(parameter[0, 1], torch.tensor(9.0))
            else:
                parameter[0, 0] = -0.0

    assert "pooler.dense.weight: 1 of 256 numbers" in message_of(
        assert_only_changed, before, trained(before, change), BITFIT
    )


def test_weights_that_came_went_or_have_another_shape_or_dtype_are_changes():
    before = tiny_model().model.state_dict()
    after = {name: weight.clone() for name, weight in before.items()}
    after["classifier.weight"] = torch.zeros(3, 16)
    after["adapter.weight"] = torch.zeros(2)
    after["bert.pooler.dense.bias"] = after["bert.pooler.dense.bias"].half()
    del after["bert.pooler.dense.weight"]

    message = message_of(assert_only_changed, before, after, "classifier")

    assert message.startswith("3 of ")
    assert "adapter.weight: came" in message
    assert "bert.pooler.dense.weight: went" in message
    assert "bert.pooler.dense.bias: dtype float32 → float16" in message
    assert "classifier.weight: shape" not in message
    found = assert_only_changed(before, after, "classifier|pooler|adapter")
    assert {change.what for change in found.changes} >= {"came", "went", "shape (2, 16) → (3, 16)"}


def test_a_buffer_that_training_moved_is_a_change():
    before, after = tiny_model(), trained(tiny_model(), bitfit)
    for model, value in ((before, 0.0), (after, 1.0)):
        model.model.register_buffer("running_mean", torch.full((3,), value))

    assert "running_mean: 3 of 3 numbers, by up to 1" in message_of(assert_only_changed, before, after, BITFIT)


def test_where_nothing_was_trained_the_check_could_not_fail():
    with pytest.raises(NothingToJudge, match="Nothing was trained"):
        assert_only_changed(tiny_model(), tiny_model(), BITFIT)


def test_a_state_dict_that_is_no_copy_is_told():
    model = tiny_model()
    before = model.model.state_dict()
    with torch.no_grad():
        model.model.classifier.bias.add_(1.0)

    with pytest.raises(NothingToJudge, match="the same live tensors: keep a copy"):
        assert_only_changed(before, model, BITFIT)


@pytest.mark.parametrize(
    ("pattern", "match"),
    [
        ("adapter", "found in the name of a weight, such as bert"),
        (".", "it matches all"),
        ("(", "a regular expression"),
        (None, "a regular expression"),
        (3, "a regular expression"),
    ],
)
def test_a_pattern_that_matches_none_or_all_is_refused(pattern, match):
    with pytest.raises(InvalidArgument, match=match):
        assert_only_changed(tiny_model(), trained(tiny_model(), bitfit), pattern)


def test_nan_is_an_error():
    after = copy.deepcopy(tiny_model().model)
    with torch.no_grad():
        after.classifier.bias[0] = math.nan

    with pytest.raises(NonFinite, match=r"classifier\.bias after"):
        assert_only_changed(tiny_model(), after, BITFIT)


def test_what_holds_no_weights_is_refused(tmp_path):
    model, text = tiny_model(), tmp_path / "weights.safetensors"
    text.write_text("no weights")
    (tmp_path / "empty").mkdir()

    for wrong in (3, None, {}, {"a": 1}, {3: torch.ones(1)}):
        with pytest.raises(InvalidArgument, match=r"after=.*a state dict of tensors"):
            assert_only_changed(model, wrong, BITFIT)
    with pytest.raises(InvalidArgument, match="no name is in both"):
        assert_only_changed(model, {"other.weight": torch.ones(1)}, BITFIT)
    with pytest.raises(ModelNotFound, match="there is no such folder"):
        assert_only_changed(model, tmp_path / "gone", BITFIT)
    with pytest.raises(ModelNotFound, match="its weights are damaged"):
        assert_only_changed(model, text, BITFIT)
    with pytest.raises(NoWeights):
        assert_only_changed(model, tmp_path / "empty", BITFIT)


def test_other_names_of_files_are_read_too(tmp_path):
    before = {"a.weight": torch.ones(2), "a.bias": torch.ones(1)}
    save_file({"a.weight": torch.ones(2), "a.bias": torch.zeros(1)}, tmp_path / "adapter_model.safetensors")

    assert assert_only_changed(before, tmp_path, "bias").changed == ("a.bias",)


# -- sparsity ----------------------------------------------------------------------------------------------------


def sparse(kind: str, family: str = "bert", seed: int = 0) -> ModelUnderTest:
    """A model of whose linear weights some are zero: at random, in blocks of 4×8 (outputs × inputs), or 2:4."""
    model = tiny_model("causal-lm" if family == "gpt2" else "sequence-classification", family)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.model.modules():
            if not isinstance(module, nn.Linear | transformers.pytorch_utils.Conv1D):
                continue
            weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
            outputs, inputs = weight.shape
            if outputs % 4:
                continue
            rows, columns = {"random": (1, 1), "blocks": (4, 8), "2:4": (1, 1)}[kind]
            keep = torch.rand(outputs // rows, inputs // columns, generator=generator) > 0.6
            weight.mul_(keep.repeat_interleave(rows, 0).repeat_interleave(columns, 1))
            if kind == "2:4":
                weight.view(outputs, inputs // 4, 4)[..., :2] = 0.0
    return load_model(model.model, tokenizer=model.tokenizer)


def matrices(model: ModelUnderTest) -> dict[str, np.ndarray]:
    """The layers' linear weights, outputs first, by the names this test knows."""
    found = {name: parameter.detach().numpy() for name, parameter in model.model.named_parameters()}
    if hasattr(model.model, "bert"):
        return {name: found[name] for name in ENCODER}
    return {name: found[name].T for name in found if re.search(r"\.h\.\d\.(attn|mlp)\..*weight", name)}


def counted(weight: np.ndarray, pattern: object) -> tuple[int, int]:
    rows, columns = {"unstructured": (1, 1), "2:4": (1, 4)}.get(pattern, pattern)
    hits = total = 0
    for i in range(0, weight.shape[0], rows):
        for j in range(0, weight.shape[1], columns):
            zeros = int((weight[i : i + rows, j : j + columns] == 0).sum())
            hits += zeros >= 2 if pattern == "2:4" else zeros == rows * columns
            total += 1
    return hits, total


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("kind", ["random", "blocks"])
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", (4, 8), (4, 4), (1, 16), (16, 16)])
def test_sparsity_is_what_loops_count(family, kind, pattern):
    model = sparse(kind, family)
    expected = {name: counted(weight, pattern) for name, weight in matrices(model).items()}
    hits, total = (sum(column) for column in zip(*expected.values(), strict=True))

    if hits:
        found = assert_sparsity(model, hits / total, pattern)
        assert {matrix.name: (matrix.sparse, matrix.total) for matrix in found.matrices} == expected
        assert found.share == hits / total
    with pytest.raises(CheckFailed):
        assert_sparsity(model, min(1.0, (hits + 1) / total), pattern)


def test_a_model_pruned_two_of_four_conforms_to_the_full():
    assert assert_sparsity(sparse("2:4"), 1.0, "2:4").share == 1.0


def test_groups_of_four_lie_along_the_inputs():
    model = sparse("2:4")
    with torch.no_grad():
        for module in model.model.modules():
            if isinstance(module, nn.Linear) and module.weight.shape[0] == module.weight.shape[1]:
                module.weight.copy_(module.weight.T.clone())

    with pytest.raises(CheckFailed):
        assert_sparsity(model, 1.0, "2:4")


def test_by_default_the_task_head_and_embeddings_do_not_count():
    model = tiny_model()
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if name in ENCODER:
                parameter.zero_()

    found = assert_sparsity(model, 1.0)

    assert [matrix.name for matrix in found.matrices] == ENCODER


def test_weights_choose_other_matrices():
    model = tiny_model()
    with torch.no_grad():
        model.model.bert.pooler.dense.weight.zero_()

    assert [m.name for m in assert_sparsity(model, 1.0, weights="pooler").matrices] == ["bert.pooler.dense.weight"]
    with pytest.raises(CheckFailed):
        assert_sparsity(model, 0.5, weights="pooler|query")
    with pytest.raises(InvalidArgument, match="weights='embeddings'"):  # no linear map
        assert_sparsity(model, 0.5, weights="embeddings")


def test_a_failure_says_what_is_missing_and_where():
    model = tiny_model()
    with torch.no_grad():
        for name in ENCODER[1:]:
            model.model.get_parameter(name).view(-1)[::2] = 0.0
    total = sum(weight.size for weight in matrices(model).values())
    zeros = (total - 256) // 2

    message = message_of(assert_sparsity, model, 0.9)

    assert f"{zeros / total:.2%} of {model.name}'s weights are sparse; required: at least 90.00%" in message
    assert f"counted {zeros} zeros of {total}, in 12 weight matrices" in message
    assert f"missing {math.ceil(0.9 * total) - zeros} more" in message
    assert f"the least sparse: {QUERY}: 0 of 256 (0.00%)" in message
    assert message.endswith("and 4 more")


@pytest.mark.parametrize(("pattern", "word"), [((4, 8), "4×8 blocks"), ("2:4", "groups of four")])
def test_a_failure_names_what_was_counted(pattern, word):
    assert f"'s {word} are sparse" in message_of(assert_sparsity, tiny_model(), 0.9, pattern)


def test_the_verdict_of_a_sparsity_check_is_heard():
    heard = list[Verdict]()

    with hearing(heard.append):
        assert_sparsity(sparse("2:4"), 0.5, "2:4")

    assert (heard[0].passed, heard[0].observed, heard[0].required) == (True, 1.0, ">= 0.5")
    assert heard[0].judged == "share of 2:4 groups"


@pytest.mark.parametrize("at_least", [0, 0.0, 1.01, -0.1, math.nan, True, "0.5", None])
def test_a_share_that_cannot_fail_or_be_reached_is_refused(at_least):
    with pytest.raises(InvalidArgument, match="a share above 0 and up to 1"):
        assert_sparsity(tiny_model(), at_least)


@pytest.mark.parametrize("pattern", ["4:2", "blocks", None, 32, (0, 4), (4,), (4, 4, 4), (True, 4), (2.0, 4)])
def test_a_pattern_that_is_none_is_refused(pattern):
    with pytest.raises(InvalidArgument, match="pattern="):
        assert_sparsity(tiny_model(), 0.5, pattern)


@pytest.mark.parametrize("pattern", [(32, 32), (3, 4), (16, 5)])
def test_blocks_that_leave_a_ragged_edge_are_refused(pattern):
    with pytest.raises(InvalidArgument, match=rf"one that divides {re.escape(QUERY)}, 16×16"):
        assert_sparsity(tiny_model(), 0.5, pattern)


def test_a_weight_that_is_nan_is_an_error():
    model = tiny_model()
    with torch.no_grad():
        model.model.get_parameter(QUERY)[0, 0] = math.nan

    with pytest.raises(NonFinite, match=re.escape(QUERY)):
        assert_sparsity(model, 0.5)
    with pytest.raises(InvalidArgument, match="load_model"):
        assert_sparsity(model.model, 0.5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_packed_weights_are_refused():
    quantised = torch.ao.quantization.quantize_dynamic(tiny_model().model, {nn.Linear}, dtype=torch.qint8)

    with pytest.raises(InvalidArgument, match="weights of their own, not packed"):
        assert_sparsity(load_model(quantised), 0.5)


# -- the zero pattern --------------------------------------------------------------------------------------------


def finetuned(model: ModelUnderTest, revive: int = 0) -> ModelUnderTest:
    """Every weight that is not zero moved, and of the first matrix so many zeros as well."""
    left = revive

    def change(name: str, parameter: nn.Parameter) -> None:
        nonlocal left
        zero = parameter == 0
        parameter.add_(0.01 * ~zero if name in ENCODER else 0.01)
        if name in ENCODER and left:
            at = zero.nonzero()[:left]
            parameter[at[:, 0], at[:, 1]] = 1e-30
            left = 0

    return trained(model, change)


def test_zeros_that_stay_pass_though_all_else_moved():
    before = sparse("random")
    zeros = sum(int((weight == 0).sum()) for weight in matrices(before).values())

    found = assert_sparsity_preserved(before, finetuned(before))

    assert (found.zeros, found.lost) == (zeros, 0)
    assert found.before.share == found.after.share


def test_one_revived_zero_fails_however_small_it_is():
    before = sparse("random")
    zeros = sum(int((weight == 0).sum()) for weight in matrices(before).values())
    first = int((matrices(before)[ENCODER[0]] == 0).sum())
    after = finetuned(before, revive=1)

    message = message_of(assert_sparsity_preserved, before, after)

    assert message.startswith(f"1 of {zeros} zeros of {before.name} are zero no longer in {after.name}")
    assert f"{QUERY}: 1 of {first} ({1 / first:.2%})" in message
    assert "where 1 of 12 matrices with zeros" in message


def test_more_zeros_than_before_are_no_loss():
    before = sparse("random")

    def change(name: str, parameter: nn.Parameter) -> None:
        if name in ENCODER:
            parameter.view(-1)[::2] = 0.0

    found = assert_sparsity_preserved(before, trained(before, change))

    assert found.after.share > found.before.share


def test_another_task_head_does_not_matter():
    before = sparse("random")
    bare = load_model(copy.deepcopy(before.model.bert))
    config = copy.deepcopy(before.model.config)
    other = transformers.BertForTokenClassification(config).eval()
    other.bert.load_state_dict(before.model.bert.state_dict(), strict=False)

    for one, two in ((before, load_model(other)), (before, bare), (bare, before)):
        assert assert_sparsity_preserved(one, two).lost == 0


def test_without_zeros_the_check_could_not_fail():
    with pytest.raises(NothingToJudge, match=r"no weight of .* is zero before"):
        assert_sparsity_preserved(tiny_model(), tiny_model(seed=1))


def test_a_model_that_lacks_a_matrix_is_refused():
    with pytest.raises(InvalidArgument, match=f"a model with {re.escape(QUERY)}"):
        assert_sparsity_preserved(sparse("random"), tiny_model("causal-lm", "gpt2"))


def test_the_same_model_twice_is_refused():
    model = sparse("random")

    with pytest.raises(InvalidArgument, match="another model than before"):
        assert_sparsity_preserved(model, model)
    with pytest.raises(InvalidArgument, match=r"after=.*load_model"):
        assert_sparsity_preserved(model, model.model)


def test_the_verdict_of_a_zero_pattern_is_heard():
    before, heard = sparse("random"), list[Verdict]()

    with hearing(heard.append), pytest.raises(CheckFailed):
        assert_sparsity_preserved(before, finetuned(before, revive=3))

    assert (heard[0].passed, heard[0].observed) == (False, 3.0)
    assert heard[0].details["matrices"] == [QUERY]
