"""The errors' messages against a table of what each was given and must therefore say."""

from __future__ import annotations

import inspect

import pytest

from pytest_bertology import Head, HeadMap, errors
from pytest_bertology.errors import BertologyError

TABLE = {
    errors.UnknownHead: (
        (Head(7, 0), HeadMap([2, 2])),
        ["L7H0", "2 layers of 2 heads, counted from 0: the last is L1H1"],
    ),
    errors.NotAHead: (("L2H4",), ["'L2H4'", "(2, 4)"]),
    errors.InvalidGate: ((1.5, "a number"), ["1.5", "a number"]),
    errors.InvalidScores: (("NaN for L0H1", "finite"), ["NaN for L0H1", "finite"]),
    errors.MaskOfAnotherModel: (("6 layers", "12 layers", "m.json"), ["6 layers", "12 layers", "m.json"]),
    errors.InvalidMaskFile: (("m.json", "it is not JSON"), ["m.json", "it is not JSON", "to_json()"]),
    errors.InvalidArgument: (("k", 99, "up to 8"), ["k=99", "up to 8"]),
    errors.NoHeadSelected: (("heads=[] names no head", "Name some."), ["heads=[]", "could not fail", "Name some."]),
    errors.NothingToJudge: (
        ("no weight is zero", "Prune first."),
        ["no weight is zero", "could not fail", "Prune first."],
    ),
    errors.MissingExtra: (("a figure", "matplotlib", "figures"), ["a figure", "matplotlib", "bertology[figures]"]),
    errors.TooMuchMemory: (
        ("the attention of 3 texts", 3 * 2**30, 2**29, "Take fewer."),
        ["the attention of 3 texts", "3,072 MiB", "512 MiB", "Take fewer."],
    ),
    errors.InvalidBaselines: (
        ("b.json", "it is not JSON"),
        ["b.json", "it is not JSON", "Restore", "--bertology-update=new"],
    ),
    errors.CannotResume: (("s.json", "it is of another model"), ["s.json", "of another model", "delete"]),
    errors.ModelNotFound: (("./gone", "there is no such folder"), ["./gone", "there is no such folder"]),
    errors.NoWeights: (("ckpt", ["pytorch_model.bin"]), ["ckpt", "pytorch_model.bin", "safetensors"]),
    errors.IncompleteCheckpoint: (
        ("ckpt", "BertForMaskedLM", ["cls.bias"], ["pooler.weight"]),
        ["ckpt", "BertForMaskedLM", "cls.bias", "pooler.weight"],
    ),
    errors.UnknownKind: (("'poet' is not a kind", ["causal-lm", "encoder"]), ["poet", "causal-lm, encoder"]),
    errors.CannotSample: (("ViT", "it reads pixels"), ["ViT", "it reads pixels", "sample="]),
    errors.NoAttentionHeads: (("MambaModel",), ["MambaModel"]),
    errors.CannotGate: (("WavLM", "layer 0", "heads are mixed"), ["WavLM", "layer 0", "heads are mixed"]),
    errors.CannotMeasure: (("confidence", "Flex", "no weights"), ["confidence", "Flex", "no weights"]),
    errors.UnknownLayer: ((14, "12 layers"), ["14", "12 layers", "counted from 0"]),
    errors.CannotDropLayers: (("AlbertModel", "one block runs 12 times"), ["AlbertModel", "one block runs 12 times"]),
    errors.SkippedByAnotherThread: (("BertModel",), ["BertModel", "copy.deepcopy(model)"]),
    errors.UnknownUnit: (("L0N9", "2 layers of 8 neurons"), ["L0N9", "2 layers of 8 neurons"]),
    errors.NotAUnit: (((0, 1),), ["(0, 1)", "Neuron(", "Dimension("]),
    errors.CannotPrune: (("Olmo2", "layer 0", "one norm"), ["Olmo2", "layer 0", "one norm", "can be masked"]),
    errors.CutDiffers: (("Bert", "layer 0", "by 0.3 of 2"), ["Bert", "layer 0", "by 0.3 of 2", "not the masked one"]),
    errors.CannotSave: (("out", "it is a file"), ["'out'", "it is a file", "untouched"]),
    errors.InvalidPlan: (("it was changed",), ["it was changed", "plan of a pruned model"]),
    errors.SelfCheckFailed: (("Bert", "layer 1", "nothing moved"), ["Bert", "layer 1", "nothing moved"]),
    errors.CannotChangeAttention: (("Bert", "weights are not seen"), ["Bert", "weights are not seen"]),
    errors.AttentionNotChanged: (("layer 3 never ran",), ["layer 3 never ran", "change of attention"]),
    errors.CannotErase: (("XLNet", "layer 2 is not found"), ["XLNet", "layer 2 is not found"]),
    errors.ErasureNotApplied: (("layer 3 never ran",), ["layer 3 never ran", "no effect"]),
    errors.ErasedByAnotherThread: (("BertModel",), ["BertModel", "copy.deepcopy(model)"]),
    errors.BackwardAfterMask: (("BertModel",), ["BertModel", "inside the `with` block"]),
    errors.CompiledUnderMask: ((), ["uncompiled under masks"]),
    errors.CopiedUnderMask: (("BertModel",), ["BertModel", "Copy it before"]),
    errors.WeightsElsewhere: (("BertModel", "pooler.weight"), ["BertModel", "pooler.weight", "Load its weights"]),
    errors.MaskNotApplied: (("layer 3 never ran",), ["layer 3 never ran"]),
    errors.MaskOfAnotherThread: (("BertModel",), ["BertModel", "model.masked("]),
    errors.WeightsChanged: (("release", ["a.weight", "b.bias"]), ["release", "a.weight", "b.bias"]),
    errors.NoTokenizer: (("release", "none was saved"), ["release", "none was saved", "tokenizer="]),
    errors.TaskNotFound: (("glue/sst9", "no such config"), ["glue/sst9", "no such config"]),
    errors.MalformedData: (("dev.csv", "row 3 has 1 field"), ["dev.csv", "row 3 has 1 field"]),
    errors.MissingColumn: (("dev.csv", "text column", ["a", "b"], "text="), ["dev.csv", "'a', 'b'", "text="]),
    errors.EmptyTask: (("dev.csv",), ["dev.csv", "no examples"]),
    errors.SingleClass: (("dev.csv", "good", 31), ["dev.csv", "'good'", "31"]),
    errors.LabelsNotLearned: (
        ("dev.csv", [0, 1], "train.csv", ["0", "1"]),
        ["dev.csv has 0, 1", "train.csv has '0', '1'", "same type"],
    ),
    errors.LabelMismatch: (("dev.csv", ["pos", "neg"], "m", ["A", "B"]), ["dev.csv", "'pos', 'neg'", "'A', 'B'"]),
    errors.WrongTaskKind: (("m", "causal-lm", "dev.csv", "a classifier"), ["m", "causal-lm", "dev.csv", "classifier"]),
    errors.UnknownMetric: (("bleu", "regression", ["pearson", "loss"]), ["bleu", "regression", "pearson, loss"]),
    errors.UndefinedScore: (("pearson", "all labels are equal"), ["pearson", "all labels are equal"]),
    errors.OutOfMemory: (
        ("an evaluation", "release", 4096, 512, "CUDA out of memory"),
        ["an evaluation of release", "4,096", "512", "CUDA out of memory", "Batching(tokens="],
    ),
    errors.ToleranceBelowNoise: (
        (0.0005, 0.0023, "padding moves logits by 0.02", "release on dev.csv in accuracy", "Ask for more."),
        ["0.0005", "0.0023", "padding moves logits", "release on dev.csv", "Ask for more."],
    ),
    errors.NonFinite: (("the loss", "example 5"), ["the loss", "example 5", "float32"]),
}
PUBLIC = [
    found
    for name, found in vars(errors).items()
    if inspect.isclass(found) and issubclass(found, BaseException) and not name.startswith("_")
]
ERRORS = [
    found for found in PUBLIC if found not in (errors.BertologyError, errors.BertologyWarning, errors.StoreWarning)
]


def test_the_table_knows_every_error():
    assert set(TABLE) == set(ERRORS)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_an_error_is_a_bertology_error(error):
    assert issubclass(error, BertologyError)


@pytest.mark.parametrize("found", PUBLIC, ids=lambda found: found.__name__)
def test_an_error_says_in_its_docstring_what_it_means(found):
    own = vars(found).get("__doc__")

    assert own
    assert own.strip().endswith(".")


@pytest.mark.parametrize("error", TABLE, ids=lambda error: error.__name__)
def test_a_message_contains_what_was_found_and_what_to_do(error):
    arguments, parts = TABLE[error]

    message = str(error(*arguments))

    assert [part for part in parts if part not in message] == []


@pytest.mark.parametrize("error", TABLE, ids=lambda error: error.__name__)
def test_an_error_keeps_some_of_what_it_found_in_fields(error):
    arguments, _ = TABLE[error]

    fields = vars(error(*arguments)).values()

    kept = [value for value in arguments if value in fields or (isinstance(value, list) and tuple(value) in fields)]
    assert kept or error in (errors.MaskOfAnotherThread, errors.CompiledUnderMask)


def test_a_warning_is_a_user_warning_and_no_error():
    assert issubclass(errors.BertologyWarning, UserWarning)
    assert not issubclass(errors.BertologyWarning, BertologyError)


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.UnknownHead, LookupError),
        (errors.NotAHead, TypeError),
        (errors.InvalidArgument, ValueError),
        (errors.TaskNotFound, LookupError),
        (errors.UndefinedScore, ArithmeticError),
    ],
)
def test_an_error_can_be_caught_as_the_builtin_it_is_like(error, builtin):
    arguments, _ = TABLE[error]

    with pytest.raises(builtin):
        raise error(*arguments)


def test_a_long_list_is_cut_and_counted():
    message = str(errors.WeightsChanged("m", [f"w{i}" for i in range(11)]))

    assert "w7 and 3 more" in message
    assert "w8" not in message


@pytest.mark.parametrize(("count", "text"), [(1, "L0H0"), (24, "L0H23"), (26, "L0H23 … and 2 more")])
def test_heads_are_described_on_one_line(count, text):
    described = errors.describe_heads(HeadMap([count]))

    assert described.endswith(text)
    assert "\n" not in described


@pytest.mark.parametrize(
    ("found", "advice"),
    [(["pytorch_model.bin"], "pickled weights can run code"), (["config.json"], "Save the model"), ([], "nothing")],
)
def test_missing_weights_advise_by_what_is_there(found, advice):
    assert advice in str(errors.NoWeights("ckpt", found))
