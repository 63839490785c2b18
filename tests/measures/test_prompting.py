"""Prompts against plain transformers models asked one text at a time in float64; and a bigram model set by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pytest_bertology import Batching, load_model, load_task
from pytest_bertology.engine.store import ResultStore, using_store
from pytest_bertology.errors import (
    BertologyWarning,
    EmptyTask,
    InvalidArgument,
    LabelMismatch,
    MalformedData,
    SingleClass,
    WrongTaskKind,
)
from pytest_bertology.measures import prompt_reading
from pytest_bertology.measures.control_task import control_labels
from pytest_bertology.measures.prompt_reading import ALONE
from pytest_bertology.measures.prompting import prompt_probe
from tests.families import family, texts, tokenizer, under_test

WORDS = {"no": "b", "yes": ("acd", "ac"), "perhaps": "ae"}
"""Of one token, of three and two (one begins with the other), and of two; the model reads what they share once."""

LONG = "a b c d e {text} f g is"
SEVERAL = {"no": ("ba", "bd", "ce"), "yes": ("acd", "ac"), "perhaps": ("ae", "da")}


@pytest.fixture(autouse=True)
def _nothing_stored():
    with using_store(ResultStore()):
        yield


def labelled(count=12, seed=0):
    return load_task({"text": texts(count, seed), "label": [("no", "yes", "perhaps")[i % 3] for i in range(count)]})


def plain_score(model, text, word):
    """Summed log probability of a word's tokens after a text and a space, by the plain model alone."""
    read = tokenizer()
    start = [2, *read(text, add_special_tokens=False)["input_ids"]]
    more = read(word, add_special_tokens=False)["input_ids"]
    total = 0.0
    for at, token in enumerate(more):
        with torch.no_grad():
            logits = model(torch.tensor([start + more[:at]])).logits[0, -1]
        total += float(logits.log_softmax(dim=-1)[token])
    return total


def plain_scores(model, prompts, words):
    own = [[words[label]] if isinstance(words[label], str) else words[label] for label in sorted(words)]
    return np.array([[logsumexp([plain_score(model, p, w) for w in each]) for each in own] for p in prompts])


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("batching", [Batching(), Batching(tokens=1), Batching(tokens=64, padding_side="left")])
def test_scores_are_those_of_the_plain_model_one_by_one(name, batching):
    model = under_test(name, "causal-lm", dtype=torch.float64)
    task = labelled()

    report = prompt_probe(model, task, "a {text} is", WORDS, batching=batching, per_token=False, calibrate=None)

    expected = plain_scores(
        family(name, "causal-lm", dtype=torch.float64), [f"a {text} is" for text in task.texts], WORDS
    )
    assert report.classes == ("no", "perhaps", "yes")
    assert report.log_probabilities == pytest.approx(expected, abs=1e-9)
    assert report.predictions.tolist() == expected.argmax(axis=1).tolist()
    right = [report.classes[index] == label for index, label in zip(report.predictions, task.labels, strict=True)]
    assert report.score == pytest.approx(np.mean(right))


def test_calibration_takes_out_what_is_said_of_nothing():
    model = under_test("gpt2", "causal-lm", dtype=torch.float64)
    plain, task, words = family("gpt2", "causal-lm", dtype=torch.float64), labelled(), {"no": "b", "yes": "ac"}
    task = load_task({"text": task.texts, "label": ["no", "yes"] * 6})

    report = prompt_probe(model, task, "a {text} is", words, calibrate="content-free")

    scores = plain_scores(plain, [f"a {text} is" for text in task.texts], words)
    free = np.exp(plain_scores(plain, [f"a {text} is" for text in ("N/A", "[MASK]", "")], words))
    prior = (free / free.sum(axis=1, keepdims=True)).mean(axis=0)
    assert report.predictions.tolist() == (scores - np.log(prior)).argmax(axis=1).tolist()
    assert "content-free calibration" in report.table()


def test_per_token_scores_are_means_over_a_words_tokens():
    model = under_test("llama", "causal-lm", dtype=torch.float64)
    task, words = labelled(), {"no": "b", "perhaps": "ac", "yes": "acd"}

    report = prompt_probe(model, task, "{text} is", words, per_token=True)

    plain = plain_scores(family("llama", "causal-lm", dtype=torch.float64), [f"{t} is" for t in task.texts], words)
    assert report.log_probabilities == pytest.approx(plain / [1, 2, 3], abs=1e-9)


def test_batches_and_order_change_no_answer():
    model, task = under_test("gpt2", "causal-lm"), labelled(40)

    first = prompt_probe(model, task, "{text} is", WORDS)
    turned = prompt_probe(model, task.subset(range(39, -1, -1)), "{text} is", WORDS, batching=Batching(tokens=20))

    assert turned.log_probabilities[::-1] == pytest.approx(first.log_probabilities, abs=1e-4)
    assert turned.predictions[::-1].tolist() == first.predictions.tolist()
    assert (turned.score, turned.control_score) == (first.score, first.control_score)


def test_under_a_mask_it_is_the_masked_model_that_is_asked():
    model, task = under_test("gpt2", "causal-lm", dtype=torch.float64), labelled()
    plain = family("gpt2", "causal-lm", dtype=torch.float64)
    with torch.no_grad():  # head 1 of layer 0, of six dimensions
        plain.transformer.h[0].attn.c_proj.weight[6:12] = 0.0

    with model.masked([(0, 1)]):
        masked = prompt_probe(model, task, "{text} is", WORDS)
    whole = prompt_probe(model, task, "{text} is", WORDS)

    expected = plain_scores(plain, [f"{text} is" for text in task.texts], WORDS)
    assert masked.log_probabilities == pytest.approx(expected, abs=1e-9)
    assert np.abs(whole.log_probabilities - expected).max() > 1e-3


COLOURS = {"rose": "red", "grass": "green", "sky": "blue", "blood": "red", "leaf": "green"}


def bigrams():
    """A GPT-2 whose attention and feed-forward write nothing: after a thing it says its colour, nothing else."""
    vocabulary = ["[UNK]", "[PAD]", *COLOURS, "red", "green", "blue", "a", "of"]
    ids = {word: index for index, word in enumerate(vocabulary)}
    config = GPT2Config(
        vocab_size=len(ids), n_embd=2 * len(ids), n_layer=1, n_head=2, n_positions=16, tie_word_embeddings=False
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.transformer.h.parameters():
            parameter.zero_()
        model.transformer.wpe.weight.zero_()
        model.transformer.wte.weight.copy_(torch.eye(len(ids), 2 * len(ids)))
        model.lm_head.weight.zero_()
        for thing, colour in COLOURS.items():
            model.lm_head.weight[ids[colour], ids[thing]] = 5.0
    backend = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    reads = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]")
    return load_model(model, tokenizer=reads)


def things():
    sentences = [["a", thing, "of", other] for thing in COLOURS for other in COLOURS if thing != other]
    # Of these two words the model knows nothing.
    named = {**COLOURS, "a": "blue", "of": "green"}
    return load_task({"tokens": sentences, "labels": [[named[word] for word in words] for words in sentences]})


def test_a_model_that_knows_answers_rightly():
    spans = [(i, thing) for i, thing in enumerate(COLOURS)]
    task = load_task({"text": [f"a {t}" for _, t in spans], "label": [COLOURS[t] for _, t in spans]})

    report = prompt_probe(bigrams(), task, "of {text}", {"red": "red", "green": "green", "blue": "blue"})

    assert report.score == 1.0
    assert report.control_score == pytest.approx(0.36, abs=0.06)  # (1 + 4 + 4) / 25
    assert report.selectivity == report.score - report.control_score
    assert report.majority_baseline == 0.4


def test_words_are_asked_for_in_their_texts():
    words = {"red": "red", "green": "green", "blue": "blue"}

    report = prompt_probe(bigrams(), things(), "{text} of {item}", words)

    labels = np.array(things().flat_labels)
    known = np.array([word in COLOURS for row in things().texts for word in row])
    answers = np.array(report.classes)[report.predictions]
    assert report.level == "word"
    assert (answers[known] == labels[known]).all()
    assert len(report) == len(labels)


def test_swapped_words_are_wrong_everywhere():
    task = load_task({"text": ["a rose", "a leaf", "of blood", "a grass"], "label": ["red", "green"] * 2})

    report = prompt_probe(bigrams(), task, "{text}", {"red": "green", "green": "red"})

    assert report.score == 0.0
    assert not report.beats_majority
    assert report.selectivity < 0.0


def test_the_control_is_the_mean_score_against_labels_drawn_for_each_type():
    task = load_task({"text": ["a rose", "a leaf", "of blood", "a sky"], "label": ["red", "green"] * 2})

    report = prompt_probe(bigrams(), task, "{text}", {"red": "red", "green": "green"}, seed=2)

    drawn = [control_labels(task.texts, [2, 2], 200 + draw) for draw in range(100)]
    assert report.control_scores == tuple(float((each == report.predictions).mean()) for each in drawn)


def test_pairs_of_texts_are_named_first_and_second():
    pairs = [("a rose", "of sky"), ("a sky", "of leaf"), ("a leaf", "a blood")]
    columns = {"first": [a for a, _ in pairs], "second": [b for _, b in pairs], "label": ["blue", "green", "red"]}
    task = load_task(columns, text=("first", "second"))

    report = prompt_probe(bigrams(), task, "{first} {second}", {c: c for c in ("red", "green", "blue")})

    assert report.score == 1.0


@pytest.mark.parametrize(
    ("prompt", "word"), [("{text} of ", "red"), ("{text} of", " red"), ("{text} of", "red"), ("{text} of\n", "red")]
)
def test_white_space_between_prompt_and_word_may_stand_with_either(prompt, word):
    task = load_task({"text": ["a rose", "a leaf"], "label": ["red", "green"]})

    found = prompt_probe(bigrams(), task, prompt, {"red": word, "green": "green"})

    same = prompt_probe(bigrams(), task, "{text} of", {"red": "red", "green": "green"})
    assert found.log_probabilities.tolist() == same.log_probabilities.tolist()


def test_prompts_that_are_too_long_are_left_out_and_counted():
    task = load_task({"text": ["a rose", "a leaf", "a " * 20 + "leaf"], "label": ["red", "green", "green"]})
    words = {"red": "red", "green": "green"}

    with pytest.warns(BertologyWarning, match="1 of 3 prompts"):
        report = prompt_probe(bigrams(), task, "{text}", words)

    assert (len(report), report.left_out) == (2, 1)
    assert "left out" in report.table()
    with pytest.warns(BertologyWarning), pytest.raises(SingleClass):
        prompt_probe(bigrams(), task.subset([0, 2]), "{text}", words)
    with pytest.raises(EmptyTask, match="longer than"):
        prompt_probe(bigrams(), task, "a " * 20 + "{text}", words)


def test_other_models_are_sent_to_probe():
    with pytest.raises(WrongTaskKind, match="probe"):
        prompt_probe(under_test("bert", "masked-lm"), labelled(), "{text}", WORDS)


def test_labels_without_words_are_named():
    with pytest.raises(LabelMismatch, match="perhaps"):
        prompt_probe(under_test("gpt2", "causal-lm"), labelled(), "{text}", {"yes": "a", "no": "b"})


def test_keys_of_another_type_are_told_from_those_of_the_data():
    task = load_task({"text": ["a rose", "a leaf"], "label": [0, 1]})

    with pytest.raises(LabelMismatch, match="use the keys 0 and 1 of the type int") as caught:
        prompt_probe(bigrams(), task, "{text}", {"0": "red", "1": "green"})

    assert "config" not in str(caught.value)


def test_a_label_that_no_item_has_is_named_with_the_answers_it_took():
    task = load_task({"text": ["a rose", "a leaf", "a sky"], "label": ["red", "green", "green"]})

    with pytest.warns(
        BertologyWarning, match="'blue', a label that no judged item .* 1 of 3 answers, which count as wrong"
    ):
        report = prompt_probe(bigrams(), task, "{text}", {"red": "red", "green": "green", "blue": "blue"})

    assert "'blue' (no item has this label)" in " ".join(report.table().split())


def counted(model, forward):
    """Tokens that the model reads from now on, padding too."""
    read = []

    def hook(module, args, kwargs):
        read.append(kwargs["input_ids"].numel())

    handle = model.model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        forward()
    finally:
        handle.remove()
    return sum(read)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("tokens", [None, 40])
def test_what_prompts_share_is_read_once_and_changes_nothing(name, side, tokens, monkeypatch):
    model = under_test(name, "causal-lm", dtype=torch.float64)
    task = labelled(24)
    with model.masked([(0, 1)]):
        monkeypatch.setattr(type(model), "altered", lambda self: False)  # of the hook that counts
        shared = Batching(tokens, padding_side=side)
        found = {}
        few = counted(model, lambda: found.update(a=prompt_probe(model, task, LONG, SEVERAL, batching=shared)))
        many = counted(model, lambda: found.update(b=prompt_probe(model, task, LONG, SEVERAL, batching=ALONE)))

    assert found["a"].log_probabilities == pytest.approx(found["b"].log_probabilities, abs=1e-9)
    assert few < 0.8 * many


def test_a_model_whose_keys_and_values_are_not_enough_is_read_whole(monkeypatch):
    """As one that forgets what it was given: seen at the first prompts."""
    model, task = under_test("gpt2", "causal-lm", dtype=torch.float64), labelled()
    expected = prompt_probe(model, task, LONG, SEVERAL, batching=ALONE)

    def wrong(cache, rows):
        found = of(cache, rows)
        found.layers[0].values = found.layers[0].values * 1.01
        return found

    of = prompt_reading._of
    monkeypatch.setattr(prompt_reading, "_of", wrong)
    found = prompt_probe(model, task, LONG, SEVERAL)

    assert found.log_probabilities == pytest.approx(expected.log_probabilities, abs=1e-9)


def test_a_prompt_whose_tokens_change_is_refused():
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "a b": 1, "a": 2, "b": 3}, unk_token="[UNK]"))
    model = bigrams()
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[UNK]")
    task = load_task({"text": ["a", "b"], "label": ["x", "y"]})

    with pytest.raises(MalformedData, match="are others when 'b' follows"):
        prompt_probe(model, task, "{text}", {"x": "b", "y": "a"})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"prompt": "It was"}, "prompt"),
        ({"prompt": "{text} {item}"}, "prompt"),
        ({"prompt": "{text!r}"}, "prompt"),
        ({"prompt": "{text"}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"label_words": {"red": "red"}}, "label_words"),
        ({"label_words": ["red", "green"]}, "label_words"),
        ({"label_words": {"red": "red", "green": ""}}, "label_words"),
        ({"label_words": {"red": "red", "green": []}}, "label_words"),
        ({"label_words": {"red": "red", "green": ["green", " red"]}}, "label_words"),
        ({"label_words": {"red": "red", "green": "red of"}}, "label_words"),
        ({"label_words": {"red": "unknown", "green": "words"}}, "label_words"),
        ({"calibrate": True}, "calibrate"),
        ({"per_token": 1}, "per_token"),
        ({"control": None}, "control"),
        ({"seed": -1}, "seed"),
        ({"confidence": 0}, "confidence"),
    ],
)
def test_wrong_arguments_are_named(arguments, named):
    task = load_task({"text": ["a rose", "a leaf"], "label": ["red", "green"]})
    given = {"prompt": "{text}", "label_words": {"red": "red", "green": "green"}} | arguments

    with pytest.raises(InvalidArgument, match=named):
        prompt_probe(bigrams(), task, **given)


@pytest.mark.assets
def test_a_model_of_stories_knows_girls_from_boys_by_their_names(assets):
    names = {"girl": ("Lily", "Mia", "Sue", "Anna"), "boy": ("Tim", "Tom", "Max", "Ben")}
    labels = [label for label, own in names.items() for _ in range(3 * len(own))]
    stories = [
        f"Once upon a time, there was a {how} {label} named {name}."
        for label in names
        for name in names[label]
        for how in ("little", "happy", "kind")
    ]
    model = load_model(assets / "checkpoints" / "stories260K-hf")

    report = prompt_probe(
        model, load_task({"text": stories, "label": labels}), "{text} One day,", {"girl": "she", "boy": "he"}
    )

    assert report.score == 1.0
    assert report.beats_majority
