"""A candidate beside its parent, against plain transformers run one text at a time."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from pytest_bertology import CheckFailed, ModelUnderTest, Task, assert_same_outputs, load_model, load_task
from pytest_bertology.checks.verdicts import Verdict, hearing
from pytest_bertology.engine.encoding import encode
from pytest_bertology.errors import InvalidArgument, LabelMismatch, NonFinite, NoTokenizer, WrongTaskKind
from tests.tiny import LABELS, logits, sentences, tiny_model, tiny_task


@pytest.fixture(scope="module")
def reference() -> ModelUnderTest:
    return tiny_model()


@pytest.fixture(scope="module")
def task() -> Task:
    return tiny_task(16)


def changed(model: ModelUnderTest, change: Callable[[torch.nn.Module], None]) -> ModelUnderTest:
    """A copy that `change` has written to."""
    twin = copy.deepcopy(model.model)
    with torch.no_grad():
        change(twin)
    return load_model(twin, tokenizer=model.tokenizer)


def nudge(model: torch.nn.Module) -> None:
    model.bert.encoder.layer[1].output.dense.weight.mul_(1.1)


def apart(one: ModelUnderTest, other: ModelUnderTest, task: Task) -> np.ndarray:
    """(examples, labels) absolute differences of the plain models' logits."""
    both = (logits(each.model, each.tokenizer, task.texts).double() for each in (one, other))
    return torch.sub(*both).abs().numpy()


def message_of(*arguments: object) -> str:
    with pytest.raises(CheckFailed) as caught:
        assert_same_outputs(*arguments)
    return str(caught.value)


# -- classification ----------------------------------------------------------------------------------------------


def test_a_model_saved_and_read_again_gives_the_same_numbers(reference, task, tmp_path):
    reference.model.save_pretrained(tmp_path)

    found = assert_same_outputs(load_model(tmp_path, tokenizer=reference.tokenizer), reference, task, 0.0)

    assert (found.largest, found.changed) == (0.0, 0)


def test_the_largest_difference_is_that_of_the_plain_models(reference, task):
    model = changed(reference, nudge)
    expected = apart(model, reference, task)
    flips = (logits(model.model, model.tokenizer, task.texts).argmax(-1)).ne(
        logits(reference.model, reference.tokenizer, task.texts).argmax(-1)
    )

    found = assert_same_outputs(model, reference, task, expected.max() + 1e-5)

    assert np.allclose(found.differences, expected.max(axis=1), atol=1e-5)
    assert found.changed == int(flips.sum())
    with pytest.raises(CheckFailed):
        assert_same_outputs(model, reference, task, expected.max() - 1e-4)


def test_a_candidate_in_half_precision_is_near_and_not_the_same(reference, task):
    half = load_model(copy.deepcopy(reference.model).to(torch.bfloat16), tokenizer=reference.tokenizer)

    found = assert_same_outputs(half, reference, task, 1.0)

    assert 0.0 < found.largest < 1.0
    with pytest.raises(CheckFailed):
        assert_same_outputs(half, reference, task, 0.0)


def test_the_failure_names_difference_predictions_and_the_worst_examples(reference, task):
    model = changed(reference, lambda m: m.classifier.bias.add_(torch.tensor([3.0, 0.0])))
    before = logits(reference.model, reference.tokenizer, task.texts)
    flips = int(before.argmax(-1).ne((before + torch.tensor([3.0, 0.0])).argmax(-1)).sum())

    message = message_of(model, reference, task, 0.5)

    flat = " ".join(message.split())
    assert flips > 0
    assert "does not give the outputs of" in flat
    assert "on 16 of 16 examples" in flat
    assert "difference 3, largest difference of a logit; required: at most 0.5" in flat
    assert f"predictions {flips} of 16 changed" in flat
    examples = re.findall(r"#(\d+) '(.*)': 3 \(\[(.*), (.*)\] → \[(.*), (.*)\]\)", message)
    assert len(examples) == 5
    for index, text, *numbers in examples:
        assert text == task.texts[int(index)]
        expected = [*before[int(index)].tolist(), float(before[int(index), 0]) + 3.0, float(before[int(index), 1])]
        assert [float(number) for number in numbers] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_only_examples_beyond_the_tolerance_are_shown(reference, task):
    model = changed(reference, nudge)
    each = np.sort(apart(model, reference, task).max(axis=1))

    message = message_of(model, reference, task, float(each[-3] + each[-2]) / 2)

    assert "on 2 of 16 examples" in message
    assert len(re.findall(r"^    #", message, re.MULTILINE)) == 2


def test_labels_are_matched_by_name(reference, task):
    def swap(model: torch.nn.Module) -> None:
        model.classifier.weight.copy_(model.classifier.weight.flip(0).clone())
        model.classifier.bias.copy_(model.classifier.bias.flip(0).clone())
        model.config.id2label = dict(enumerate(reversed(LABELS)))
        model.config.label2id = {label: i for i, label in enumerate(reversed(LABELS))}

    found = assert_same_outputs(changed(reference, swap), reference, task, 1e-6)

    assert found.changed == 0


def test_other_labels_are_refused(reference):
    def rename(model: torch.nn.Module) -> None:
        model.config.id2label = {0: "LABEL_0", 1: "LABEL_1"}

    numbers = load_task({"text": sentences(4), "label": [0, 1, 0, 1]})

    with pytest.raises(LabelMismatch, match=r"'negative', 'positive'.*'LABEL_0', 'LABEL_1'"):
        assert_same_outputs(changed(reference, rename), reference, numbers, 0.1)


def test_other_heads_may_be_compared(reference, task):
    model = changed(reference, lambda m: None)
    pruned = model.model
    pruned.config.num_attention_heads = 2
    for layer in pruned.bert.encoder.layer:
        layer.attention.self.num_attention_heads = 2
        layer.attention.self.attention_head_size = 8
    candidate = load_model(pruned, tokenizer=reference.tokenizer)

    message = message_of(candidate, reference, task, 0.0)

    assert "2 layers of 2 heads" in message
    assert "2 layers of 4 heads" in message


def test_other_tokenizers_may_be_compared_on_whole_texts(reference, task):
    """The same words under other numbers, and the embeddings moved along."""
    backend = reference.tokenizer.backend_tokenizer.to_str()
    size = len(reference.tokenizer)
    order = [*range(5), *reversed(range(5, size))]
    vocabulary = reference.tokenizer.get_vocab()
    other = Tokenizer.from_str(
        re.sub(
            r'"vocab":\{[^}]*\}',
            '"vocab":{' + ",".join(f'"{word}":{order[i]}' for word, i in vocabulary.items()) + "}",
            backend,
        )
    )
    names = {name: getattr(reference.tokenizer, name) for name in ("pad_token", "cls_token", "sep_token", "unk_token")}
    twin = copy.deepcopy(reference.model)
    with torch.no_grad():
        words = twin.bert.embeddings.word_embeddings.weight
        words[order] = words.clone()
    candidate = load_model(twin, tokenizer=PreTrainedTokenizerFast(tokenizer_object=other, **names))

    found = assert_same_outputs(candidate, reference, task, 1e-5)

    assert encode(candidate, task).examples != encode(reference, task).examples
    assert found.changed == 0


def test_masks_in_force_count(reference, task):
    model = changed(reference, lambda m: None)
    assert_same_outputs(model, reference, task, 0.0)

    with model.masked([(0, 1)]), pytest.raises(CheckFailed):
        assert_same_outputs(model, reference, task, 0.0)


def test_the_verdict_is_heard(reference, task):
    model, heard = changed(reference, nudge), list[Verdict]()

    with hearing(heard.append), pytest.raises(CheckFailed):
        assert_same_outputs(model, reference, task, 0.0)

    assert heard[0].observed == pytest.approx(apart(model, reference, task).max(), abs=1e-5)
    assert (heard[0].judged, heard[0].required) == ("largest difference of a logit", "<= 0")
    assert heard[0].details["beyond"] == 16


# -- other tasks -------------------------------------------------------------------------------------------------


def test_token_classification_compares_the_words_of_an_example():
    reference = tiny_model("token-classification")
    words = [text.split() for text in sentences(6)]
    task = load_task({"tokens": words, "labels": [[LABELS[i % 2] for i in range(len(w))] for w in words]})
    model = changed(reference, nudge)
    texts = [" ".join(each) for each in words]  # a token is a word, between [CLS] and [SEP]
    both = [[logits(each.model, each.tokenizer, [text])[0, 1:-1] for text in texts] for each in (model, reference)]
    expected = [float((ours - theirs).abs().max()) for ours, theirs in zip(*both, strict=True)]
    flips = sum(int(ours.argmax(-1).ne(theirs.argmax(-1)).sum()) for ours, theirs in zip(*both, strict=True))

    found = assert_same_outputs(model, reference, task, max(expected) + 1e-5)

    assert np.allclose(found.differences, expected, atol=1e-5)
    assert found.changed == flips
    assert f"{flips} of {sum(map(len, words))} changed" in message_of(model, reference, task, 0.0)


def test_regressions_have_no_predictions_that_change():
    reference = tiny_model("regression")
    task = load_task({"text": sentences(4), "label": [0.1, 0.7, 0.4, 0.2]}, metric="pearson")
    model = changed(reference, nudge)

    found = assert_same_outputs(model, reference, task, 100.0)

    assert np.allclose(found.differences, apart(model, reference, task)[:, 0], atol=1e-5)
    assert found.changed is None
    assert "predictions" not in message_of(model, reference, task, 0.0)


@pytest.mark.parametrize(("kind", "family"), [("causal-lm", "gpt2"), ("masked-lm", "bert")])
def test_language_models_are_compared_by_their_losses(kind, family):
    reference, task = tiny_model(kind, family), load_task({"text": sentences(6)})
    model = changed(reference, lambda m: next(m.parameters()).mul_(1.05))

    found = assert_same_outputs(model, reference, task, 100.0)

    assert np.array_equal(found.differences, np.abs(found.model.losses - found.reference.losses))
    assert found.largest > 0
    message = message_of(model, reference, task, 0.0)
    assert "largest difference of a loss" in " ".join(message.split())
    assert re.search(r"\(loss [\d.]+ → [\d.]+\)", message)


def test_the_loss_of_an_example_is_the_plain_models():
    reference, task = tiny_model("causal-lm", "gpt2"), load_task({"text": sentences(4)})
    model = changed(reference, lambda m: next(m.parameters()).mul_(1.05))
    expected = []
    for text in task.texts:
        inputs = reference.tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        with torch.no_grad():
            ours, theirs = (float(each.model(**inputs, labels=inputs["input_ids"]).loss) for each in (model, reference))
        expected.append(abs(ours - theirs))

    found = assert_same_outputs(model, reference, task, 100.0)

    assert np.allclose(found.differences, expected, atol=1e-5)


def test_language_models_that_read_other_tokens_are_refused():
    reference, task = tiny_model("causal-lm", "gpt2"), load_task({"text": sentences(4)})
    bert = tiny_model().tokenizer  # adds [CLS] and [SEP]
    model = load_model(copy.deepcopy(reference.model), tokenizer=bert)

    with pytest.raises(InvalidArgument, match=r"reads the tokens that .* reads"):
        assert_same_outputs(model, reference, task, 0.1)


def test_models_of_two_kinds_are_refused():
    task = load_task({"text": sentences(4)})

    with pytest.raises(WrongTaskKind, match=r"loaded as 'causal-lm', .* needs a masked-lm model"):
        assert_same_outputs(tiny_model("causal-lm", "gpt2"), tiny_model("masked-lm"), task, 0.1)


# -- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [-0.1, math.nan, math.inf, True, "0.1", None])
def test_a_tolerance_that_is_none_is_refused(reference, task, tolerance):
    with pytest.raises(InvalidArgument, match="a number from 0, in units of the logits"):
        assert_same_outputs(tiny_model(), reference, task, tolerance)


def test_what_was_not_loaded_and_the_same_model_are_refused(reference, task):
    with pytest.raises(InvalidArgument, match="another model"):
        assert_same_outputs(reference, reference, task, 0.1)
    with pytest.raises(InvalidArgument, match=r"reference=.*load_model"):
        assert_same_outputs(tiny_model(), reference.model, task, 0.1)
    with pytest.raises(InvalidArgument, match="load_task"):
        assert_same_outputs(tiny_model(), reference, "dev.tsv", 0.1)


def test_a_candidate_without_a_tokenizer_is_told(reference, task):
    with pytest.raises(NoTokenizer):
        assert_same_outputs(load_model(copy.deepcopy(reference.model)), reference, task, 0.1)


def test_nan_is_an_error(reference, task):
    broken = changed(reference, lambda m: None)
    with torch.no_grad():
        broken.model.classifier.bias[0] = math.nan

    with pytest.raises(NonFinite):
        assert_same_outputs(broken, reference, task, 0.1)
