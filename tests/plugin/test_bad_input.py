"""Bad input: one clear message each, where the user's own line is shown, and no line of this package's insides.

Oracle: the messages, as a user has to act on them.
"""

from __future__ import annotations

import json
import re

import pytest

from pytest_bertology import HeadMap, HeadMask

RETAINED = """
    from pytest_bertology import assert_metric_retained

    def test_retained(bertology_model, bertology_task):
        assert_metric_retained(bertology_model, bertology_task, {})
"""
EVALUATED = """
    from pytest_bertology import evaluate

    def test_evaluated(bertology_model, bertology_task):
        evaluate(bertology_model, bertology_task)
"""
LOADED = "def test_loaded(bertology_model): pass"
TASK = "def test_task(bertology_task): pass"


@pytest.fixture
def in_test(section):
    """The message of a test's own failure, below the line of the user's that caused it."""

    def tell(result, test, line):
        result.assert_outcomes(failed=1)
        text = section(result, test)
        _no_insides(text)
        shown = [number for number, shown in enumerate(text.splitlines()) if shown.startswith(">")]
        assert len(shown) == 1, text
        assert line in text.splitlines()[shown[0]], text
        return "\n".join(row[1:].strip() for row in text.splitlines() if row.startswith("E "))

    return tell


@pytest.fixture
def in_set_up(section):
    """The message of a test whose set-up failed: it stands alone, but for the command to rerun."""

    def tell(result, test):
        result.assert_outcomes(errors=1)
        text = section(result, test)
        _no_insides(text)
        message, headline, rerun = text.splitlines()
        assert headline.strip("-") == " bertology "
        assert rerun.startswith("rerun: pytest test_release.py::")
        return message

    return tell


def _no_insides(text):
    assert not re.search(r"pytest_bertology/\S*\.py:\d+", text), text
    assert "Traceback" not in text


# -- models ------------------------------------------------------------------------------------------------------


def test_a_model_that_is_not_to_be_had_offline(suite, in_set_up):
    result = suite.bare(LOADED, "--bertology-model=no-such/model")

    message = in_set_up(result, "test_loaded")
    assert message.startswith("ModelNotFound: cannot load the model 'no-such/model': it is no folder, it is not in the")
    assert "HF_HUB_OFFLINE forbids asking the hub" in message


def test_a_folder_that_holds_no_model(suite, in_set_up):
    (suite.path / "empty").mkdir()

    result = suite.bare(LOADED, "--bertology-model=./empty")

    message = in_set_up(result, "test_loaded")
    assert message == (
        "ModelNotFound: cannot load the model './empty': "
        "the folder has no config.json: it is not a transformers checkpoint"
    )


def test_a_folder_without_weights(suite, copied, in_set_up):
    folder = copied("hollow")
    (folder / "model.safetensors").unlink()

    result = suite.bare(LOADED, f"--bertology-model={folder}")

    message = in_set_up(result, "test_loaded")
    assert message.startswith(f"NoWeights: {folder} holds no model weights (model.safetensors); it holds config.json,")
    assert message.endswith("Save the model there with model.save_pretrained(folder).")


def test_a_folder_with_pickled_weights_alone(suite, copied, in_set_up):
    folder = copied("pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    result = suite.bare(LOADED, f"--bertology-model={folder}")

    assert "Only safetensors are read, since pickled weights can run code" in in_set_up(result, "test_loaded")


def test_a_checkpoint_without_the_part_that_is_asked_for(suite, in_set_up):
    result = suite.bare(LOADED, suite.given[0], "--bertology-kind=masked-lm")

    message = in_set_up(result, "test_loaded")
    assert message.startswith("IncompleteCheckpoint: the checkpoint")
    assert "would be random numbers and every verdict on them meaningless" in message


def test_weights_that_are_no_numbers(suite, edited, in_set_up):
    folder = edited(lambda model: model.bert.embeddings.word_embeddings.weight.fill_(float("nan")))

    result = suite.bare(LOADED, f"--bertology-model={folder}")

    message = in_set_up(result, "test_loaded")
    assert message.startswith("SelfCheckFailed: head masks do not act as they must on BertForSequenceClassification")
    assert "the plain model's output is not finite" in message


def test_results_that_are_no_numbers_on_one_example(suite, edited, in_test):
    from transformers import AutoTokenizer

    word = AutoTokenizer.from_pretrained(suite.model).convert_tokens_to_ids("joke")
    folder = edited(lambda model: model.bert.embeddings.word_embeddings.weight[word].fill_(float("nan")))
    (suite.path / "few.csv").write_text("text,label\ngood film,positive\nbad film,negative\nlong joke,negative\n")

    result = suite.bare(EVALUATED, f"--bertology-model={folder}", "--bertology-task=few.csv")

    message = in_test(result, "test_evaluated", "evaluate(bertology_model, bertology_task)")
    assert message.startswith("pytest_bertology.errors.NonFinite: the loss is not a finite number at example 2 of few.")
    assert "Look for broken weights, or an overflow in half precision" in message


HEADLESS = """
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    class BagOfWords(PreTrainedModel):
        config_class = PreTrainedConfig
        main_input_name = "input_ids"

        def __init__(self, config):
            super().__init__(config)
            self.words = torch.nn.Embedding(10, 4)
            self.classifier = torch.nn.Linear(4, 2)
            self.post_init()

        def forward(self, input_ids, attention_mask=None):
            return {"logits": self.classifier(self.words(input_ids).mean(dim=1))}

    def bag_of_words():
        return BagOfWords(PreTrainedConfig(vocab_size=10))
"""
NO_HEADS = "no attention heads were seen in BagOfWords: it ran without a call of transformers' attention interface"


def test_a_model_without_attention_heads_from_the_hook(suite, in_set_up):
    suite.pytester.makepyfile(headless=HEADLESS)
    suite.pytester.syspathinsert()
    hook = """
        def pytest_bertology_load_model(source):
            from headless import bag_of_words
            return bag_of_words()
    """

    result = suite.bare(LOADED, "--bertology-model=bag", "--bertology-kind=sequence-classification", conftest=hook)

    assert in_set_up(result, "test_loaded").startswith(f"NoAttentionHeads: {NO_HEADS}")


def test_a_live_model_without_attention_heads(suite, in_test):
    suite.pytester.makepyfile(headless=HEADLESS)
    suite.pytester.syspathinsert()

    result = suite.bare("""
        from headless import bag_of_words

        def test_live(load_bertology_model):
            load_bertology_model(bag_of_words(), kind="sequence-classification")
    """)

    message = in_test(result, "test_live", 'load_bertology_model(bag_of_words(), kind="sequence-classification")')
    assert message.startswith(f"pytest_bertology.errors.NoAttentionHeads: {NO_HEADS}")


def test_an_unknown_model_of_the_factory(suite, in_test):
    result = suite.bare("""
        def test_factory(load_bertology_model):
            load_bertology_model("./nowhere")
    """)

    message = in_test(result, "test_factory", 'load_bertology_model("./nowhere")')
    assert message.startswith("pytest_bertology.errors.ModelNotFound: cannot load the model './nowhere': there is no")


def test_a_model_of_the_factory_that_is_not_to_be_had_offline(suite, in_test):
    result = suite.bare("""
        def test_factory(load_bertology_model):
            load_bertology_model("no-such/model")
    """)

    message = in_test(result, "test_factory", 'load_bertology_model("no-such/model")')
    assert message.startswith("pytest_bertology.errors.ModelNotFound: cannot load the model 'no-such/model': it is no")


def test_a_full_trace_shows_where_an_error_was_made_and_from_what(suite):
    source = """
        def test_factory(load_bertology_model):
            load_bertology_model("no-such/model")
    """

    result = suite.bare(source, "--full-trace")

    result.stdout.fnmatch_lines(["*The above exception was the direct cause*", "*models/loading.py:*: ModelNotFound"])


def test_a_test_that_changes_the_weights(suite, section):
    result = suite.run("def test_changes(bertology_model): bertology_model.model.classifier.bias.data.add_(1)")

    result.assert_outcomes(failed=1)
    assert section(result, "test_changes").splitlines()[0] == (
        "the weights of tiny were changed: classifier.bias. The model is shared by all tests; change a copy instead "
        "(copy.deepcopy(bertology_model.model)). It is loaded anew for the tests that follow."
    )
    _no_insides(section(result, "test_changes"))


# -- tasks -------------------------------------------------------------------------------------------------------


def test_labels_that_do_not_match(suite, in_test):
    (suite.path / "few.csv").write_text("text,label\ngood film,pos\nbad film,neg\n")

    result = suite.run(EVALUATED, "--bertology-task=few.csv")

    message = in_test(result, "test_evaluated", "evaluate(bertology_model, bertology_task)")
    assert message.startswith(
        "pytest_bertology.errors.LabelMismatch: the labels do not match: few.csv has 'neg', 'pos', and tiny knows "
        "'negative', 'positive'. Rename the labels of the data"
    )


def test_a_column_that_is_missing(suite, in_set_up):
    (suite.path / "few.csv").write_text("utterance,label\ngood film,positive\nbad film,negative\n")

    result = suite.run(TASK, "--bertology-task=few.csv")

    assert in_set_up(result, "test_task") == (
        "MissingColumn: few.csv has no text column that is known by name; its columns are 'utterance', 'label'. "
        "Name the right one with text=."
    )


def test_a_column_that_is_named_wrongly(suite, in_set_up):
    result = suite.run(TASK, "--bertology-label=mood")

    message = in_set_up(result, "test_task")
    assert message.startswith("MissingColumn: reviews.csv has no label column 'mood'; its columns are 'text', 'label'.")


def test_data_without_labels(suite, in_test):
    (suite.path / "few.csv").write_text("text\ngood film\nbad film\n")

    result = suite.run(EVALUATED, "--bertology-task=few.csv")

    message = in_test(result, "test_evaluated", "evaluate(bertology_model, bertology_task)")
    assert "few.csv needs labels for this model: it has no label column" in message


@pytest.mark.parametrize("content", ["text,label\n", ""])
def test_data_without_examples(suite, in_set_up, content):
    (suite.path / "few.csv").write_text(content)

    result = suite.run(TASK, "--bertology-task=few.csv")

    assert in_set_up(result, "test_task") == (
        "EmptyTask: few.csv holds no examples: a check on it could never fail. Check the file, split and columns."
    )


def test_data_of_a_single_class(suite, in_set_up):
    (suite.path / "few.csv").write_text("text,label\ngood film,positive\ngood joke,positive\n")

    result = suite.run(TASK, "--bertology-task=few.csv")

    message = in_set_up(result, "test_task")
    assert message.startswith("SingleClass: all 2 labels of few.csv are 'positive': a model that always says so would")


def test_data_that_is_malformed(suite, in_set_up):
    (suite.path / "few.csv").write_text("text,label\ngood film,positive\nbad, film,negative\n")

    result = suite.run(TASK, "--bertology-task=few.csv")

    message = in_set_up(result, "test_task")
    assert message == "MalformedData: few.csv: row 3 has 3 fields and the header 2: text, label"


def test_a_metric_that_does_not_fit_the_task(suite, in_set_up):
    result = suite.run(TASK, "--bertology-metric=perplexity")

    message = in_set_up(result, "test_task")
    assert message.startswith("UnknownMetric: the metric 'perplexity' is not one for sequence-classification: choose")


# -- checks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("heads=[(9, 9)], tolerance=0.1", "UnknownHead: there is no head L9H9: 2 layers of 4 heads"),
        ("heads=[7], tolerance=0.1", "NotAHead: 7 is not a head: write (layer, head), both counted from 0"),
        ("heads=[], tolerance=0.1", "NoHeadSelected: heads=[] names no head"),
        ("prune=1.5, tolerance=0.1", "InvalidArgument: prune=1.5 is not valid: expected a fraction of the heads"),
        ("prune=-0.1, tolerance=0.1", "InvalidArgument: prune=-0.1 is not valid: expected a fraction of the heads"),
        ("prune=30, tolerance=0.1", "InvalidArgument: prune=30 is not valid: expected a fraction of the heads"),
        (
            "prune=0.01, tolerance=0.1",
            "NoHeadSelected: prune=0.01 of 8 heads rounds to no head: nothing would be masked and the check could not "
            "fail. One head is 0.125 of them",
        ),
        ("prune=0.5, tolerance=-0.1", "InvalidArgument: tolerance=-0.1 is not valid: expected a number from 0"),
        ("prune=0.5, tolerance=float('nan')", "InvalidArgument: tolerance=nan is not valid: expected a number from 0"),
        ("prune=0.5, tolerance=0.1, confidence=95", "InvalidArgument: confidence=95 is not valid: expected a number"),
        ("prune=0.5, tolerance=0.1, by='size'", "InvalidArgument: by='size' is not valid: expected"),
        ("prune=0.5, tolerance=0.1, metric='bleu'", "UnknownMetric: the metric 'bleu' is not one for sequence-"),
        ("tolerance=0.1", "NoHeadSelected: no mask is in force, and none of mask, heads and prune is given"),
    ],
)
def test_arguments_that_make_no_check(suite, in_test, arguments, message):
    result = suite.run(RETAINED.format(arguments))

    found = in_test(result, "test_retained", f"assert_metric_retained(bertology_model, bertology_task, {arguments})")
    assert found.startswith(f"pytest_bertology.errors.{message}")


@pytest.mark.parametrize("k", [0, 8, 2.5])
def test_a_k_that_makes_no_check(suite, in_test, k):
    result = suite.run(f"""
        from pytest_bertology import assert_heads_in_top

        def test_top(head_importance):
            assert_heads_in_top(head_importance, [(0, 0)], k={k})
    """)

    message = in_test(result, "test_top", "assert_heads_in_top(head_importance, [(0, 0)]")
    assert message.startswith(f"pytest_bertology.errors.InvalidArgument: k={k} is not valid: expected a whole number")


# -- masks -------------------------------------------------------------------------------------------------------


def test_a_mask_file_for_another_model(suite, in_set_up):
    (suite.path / "mask.json").write_text(HeadMask.without(HeadMap([12] * 6), [(0, 0)]).to_json())

    result = suite.run(LOADED, "--bertology-head-mask=mask.json")

    assert in_set_up(result, "test_loaded") == (
        "MaskOfAnotherModel: the head mask in mask.json is for another model: it was made for 6 layers of 12 heads, "
        "and this model has 2 layers of 4 heads. Make the mask again for this model."
    )


@pytest.mark.parametrize("content", ["[[0, 1]]", "L0H1", "{}", '{"masked": []}', "\x80"])
def test_a_file_that_is_no_mask(suite, content):
    (suite.path / "mask.json").write_bytes(content.encode("latin-1"))

    message = suite.refused("", "--bertology-head-mask=mask.json")

    assert message == (
        "ERROR: --bertology-head-mask: 'mask.json' is not valid; expected a JSON file written with HeadMask.to_json()"
    )


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"masked": [7]}, '"masked" must list [layer, head] pairs; 7 is none'),
        ({"masked": "all"}, 'it must be an object with "heads" and "masked"'),
        ({"heads": "all"}, '"heads" must be the number of heads of each layer, for example [12, 12]'),
        ({"schema": "mask 9"}, "its schema is 'mask 9'; this version reads 'pytest-bertology head mask 1'"),
        ({"gates": {"L9H9": 0.5}}, "\"gates\" names heads the mask does not have: ['L9H9']"),
    ],
)
def test_a_malformed_mask_file(suite, in_set_up, change, problem):
    good = json.loads(HeadMask.without(HeadMap([4, 4]), [(0, 1)]).to_json())
    (suite.path / "mask.json").write_text(json.dumps(good | change))

    result = suite.run(LOADED, "--bertology-head-mask=mask.json")

    message = in_set_up(result, "test_loaded")
    assert message.startswith(f"InvalidMaskFile: mask.json is not a head-mask file: {problem}.")


def test_a_mask_file_with_a_head_that_does_not_exist(suite, in_set_up):
    good = json.loads(HeadMask.without(HeadMap([4, 4]), [(0, 1)]).to_json())
    (suite.path / "mask.json").write_text(json.dumps(good | {"masked": [[0, 4]]}))

    result = suite.run(LOADED, "--bertology-head-mask=mask.json")

    assert (
        in_set_up(result, "test_loaded")
        == "UnknownHead: there is no head L0H4: 2 layers of 4 heads, counted from 0: the last is L1H3"
    )


OVERRIDING = """
    import pytest
    from pytest_bertology import HeadMap, HeadMask

    @pytest.fixture
    def head_mask():
        return {}
"""


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("HeadMask.keep_all(HeadMap([12]))", "MaskOfAnotherModel: the head mask is for another model: it was made for"),
        ("[(0, 9)]", "UnknownHead: there is no head L0H9: 2 layers of 4 heads"),
        ("None", "NotAHead: None is not a head"),
    ],
)
@pytest.mark.parametrize("test", [LOADED, "def test_loaded(bertology_model, head_mask): pass"])
def test_an_overriding_fixture_that_gives_no_mask_of_the_model(suite, in_set_up, test, returned, message):
    result = suite.run(test, conftest=OVERRIDING.format(returned))

    assert in_set_up(result, "test_loaded").startswith(message)


@pytest.mark.parametrize(
    ("returned", "message"), [("[(0, 9)]", "UnknownHead: there is no head L0H9"), ("5", "NotAHead")]
)
def test_a_hook_that_gives_no_mask_of_the_model(suite, in_set_up, returned, message):
    result = suite.run(LOADED, conftest=f"def pytest_bertology_head_mask(model): return {returned}")

    assert in_set_up(result, "test_loaded").startswith(message)


# -- the user's own errors ---------------------------------------------------------------------------------------


def test_an_error_of_the_users_own_metric_shows_the_users_line(suite, section):
    result = suite.run("""
        from pytest_bertology import assert_metric_retained

        def share(labels, predictions):
            return labels.nonsense

        def test_own(bertology_model, bertology_task):
            assert_metric_retained(bertology_model, bertology_task, prune=0.5, tolerance=0.1, metric=share)
    """)

    result.assert_outcomes(failed=1)
    assert "return labels.nonsense" in section(result, "test_own")


def test_an_error_in_the_users_own_fixture_shows_the_users_line(suite, section):
    result = suite.run("""
        import pytest
        from pytest_bertology import evaluate

        @pytest.fixture
        def masked_score(bertology_model, bertology_task):
            return evaluate(bertology_model, bertology_task, [(9, 9)]).score

        def test_own(masked_score): pass
    """)

    result.assert_outcomes(errors=1)
    text = section(result, "test_own")
    assert "return evaluate(bertology_model, bertology_task, [(9, 9)]).score" in text
    assert "E       pytest_bertology.errors.UnknownHead: there is no head L9H9" in text
    _no_insides(text)
