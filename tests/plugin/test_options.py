"""Every setting from every source, which goes before which, and what is refused.

Oracle: the README's order (marker, command line, environment, ini file, default) and values written down here.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from pytest_bertology import HeadMap, HeadMask

MASK = HeadMask.without(HeadMap([4, 4]), [(0, 1)]).to_json()


@pytest.fixture
def given(suite):
    """A valid value for every setting; flags are True."""
    (suite.path / "mask.json").write_text(MASK)
    return {
        "model": str(suite.model),
        "task": str(suite.task),
        "split": "validation",
        "text": "text",
        "label": "label",
        "metric": "f1",
        "kind": "sequence-classification",
        "tokenizer": str(suite.model),
        "revision": "v2",
        "device": "cpu",
        "dtype": "float32",
        "head_mask": str(suite.path / "mask.json"),
        "importance": "random",
        "store": str(suite.path / "store"),
        "report_json": str(suite.path / "report.json"),
        "figures": str(suite.path / "figures"),
        "require_gpu": True,
        "trust_remote_code": True,
    }


def flag(name):
    return "--bertology-" + name.replace("_", "-")


def test_every_setting_is_taken_from_the_command_line(suite, given):
    arguments = [flag(name) if value is True else f"{flag(name)}={value}" for name, value in given.items()]

    header = suite.header(*arguments)

    assert header == [f"{name}: {value} (from {flag(name)})" for name, value in given.items()]


def test_every_setting_is_taken_from_the_environment(suite, given, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(f"BERTOLOGY_{name.upper()}", "1" if value is True else value)

    header = suite.header()

    assert header == [f"{name}: {value} (from BERTOLOGY_{name.upper()})" for name, value in given.items()]


def test_every_setting_is_taken_from_pytest_ini(suite, given):
    lines = [f"bertology_{name} = {value}" for name, value in given.items()]
    (suite.path / "pytest.ini").write_text("\n".join(["[pytest]", *lines]))

    header = suite.header("--strict-config")

    assert header == [f"{name}: {value} (from bertology_{name} in pytest.ini)" for name, value in given.items()]


def test_every_setting_is_taken_from_pyproject(suite, given):
    lines = [f"bertology_{name} = {json.dumps(value)}" for name, value in given.items()]
    suite.pytester.makepyprojecttoml("\n".join(["[tool.pytest.ini_options]", *lines]))

    header = suite.header("--strict-config")

    assert header == [f"{name}: {value} (from bertology_{name} in pyproject.toml)" for name, value in given.items()]


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 reads settings in TOML's own types")
def test_every_setting_is_taken_from_pyproject_in_toml_types(suite, given):
    own = {name: [value] if name == "model" else value for name, value in given.items()}
    lines = [f"bertology_{name} = {json.dumps(value)}" for name, value in own.items()]
    suite.pytester.makepyprojecttoml("\n".join(["[tool.pytest]", *lines]))

    header = suite.header("--strict-config")

    assert header == [f"{name}: {value} (from bertology_{name} in pyproject.toml)" for name, value in given.items()]


def test_a_repeated_model_option_names_several_models(suite):
    header = suite.header("--bertology-model=bert-one", "--bertology-model=bert-two")

    assert header == ["model: bert-one, bert-two (from --bertology-model)"]


def test_the_environment_names_several_models_with_commas(suite, monkeypatch):
    monkeypatch.setenv("BERTOLOGY_MODEL", "bert-one, bert-two")

    assert suite.header() == ["model: bert-one, bert-two (from BERTOLOGY_MODEL)"]


def test_an_ini_file_names_several_models_in_lines(suite):
    suite.pytester.makeini("[pytest]\nbertology_model =\n    bert-one\n    bert-two\n")

    assert suite.header() == ["model: bert-one, bert-two (from bertology_model in tox.ini)"]


def test_where_nothing_is_given_the_header_says_nothing(suite):
    assert suite.header() == []


def test_an_empty_variable_is_not_given(suite, monkeypatch):
    monkeypatch.setenv("BERTOLOGY_DTYPE", "")

    assert suite.header() == []


def test_defaults(suite):
    show = """
        from pytest_bertology.plugin.session import session_key

        def pytest_report_header(config):
            settings = config.stash[session_key].settings
            names = ("model", "task", "metric", "dtype", "device", "importance", "require_gpu", "trust_remote_code")
            return "defaults: " + repr({name: settings.value(name) for name in names})
    """

    result = suite.bare("def test_nothing(): pass", conftest=show)

    default = {"model": [], "task": None, "metric": None, "dtype": None, "device": "auto", "importance": "gradient"}
    assert f"defaults: {default | {'require_gpu': False, 'trust_remote_code': False}}" in result.outlines


def test_the_command_line_goes_before_the_environment(suite, monkeypatch):
    monkeypatch.setenv("BERTOLOGY_DTYPE", "float16")

    assert suite.header("--bertology-dtype=float64") == ["dtype: float64 (from --bertology-dtype)"]


def test_the_environment_goes_before_the_ini_file(suite, monkeypatch):
    suite.pytester.makeini("[pytest]\nbertology_dtype = float64\n")
    monkeypatch.setenv("BERTOLOGY_DTYPE", "float16")

    assert suite.header() == ["dtype: float16 (from BERTOLOGY_DTYPE)"]


def test_a_flag_can_be_taken_back_in_the_environment(suite, monkeypatch):
    suite.pytester.makeini("[pytest]\nbertology_require_gpu = true\n")
    monkeypatch.setenv("BERTOLOGY_REQUIRE_GPU", "0")

    assert suite.header() == ["require_gpu: False (from BERTOLOGY_REQUIRE_GPU)"]


def test_the_models_of_the_command_line_replace_those_of_the_ini_file(suite):
    suite.pytester.makeini("[pytest]\nbertology_model = bert-one\n")

    assert suite.header("--bertology-model=bert-two") == ["model: bert-two (from --bertology-model)"]


BAD = [
    ("model", "./nowhere", "a hub name or an existing folder"),
    ("task", "nowhere.csv", "a hub name, or an existing file or folder"),
    ("metric", "acuracy", "accuracy, f1, f1_macro, f1_micro, matthews, pearson, spearman, perplexity, loss"),
    ("kind", "classifier", "sequence-classification, token-classification, causal-lm, masked-lm, seq2seq-lm, encoder"),
    ("device", "gpu", "auto, cpu, cuda, cuda:N or mps"),
    ("dtype", "fp16", "float64, float32, bfloat16, float16"),
    ("head_mask", "nowhere.json", "an existing file with a head mask"),
    ("head_mask", "conftest.py", "a JSON file written with HeadMask.to_json()"),
    ("importance", "magnitude", "gradient, gradient_per_token"),
    ("store", "conftest.py", "a folder"),
    ("report_json", "nowhere/report.json", "a file in an existing folder"),
]
LOADING = """
    def pytest_bertology_load_model(source):
        raise AssertionError("a model was loaded")
"""
bad = pytest.mark.parametrize(("name", "value", "valid"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])


@bad
def test_a_bad_value_on_the_command_line_is_refused(suite, name, value, valid):
    message = suite.refused("", f"{flag(name)}={value}", conftest=LOADING)

    assert message.startswith(f"ERROR: {flag(name)}: {value!r} is not valid; expected {valid}")


@bad
def test_a_bad_value_in_the_environment_is_refused(suite, monkeypatch, name, value, valid):
    monkeypatch.setenv(f"BERTOLOGY_{name.upper()}", value)

    message = suite.refused(conftest=LOADING)

    assert message.startswith(f"ERROR: BERTOLOGY_{name.upper()}: {value!r} is not valid; expected {valid}")


@bad
def test_a_bad_value_in_the_ini_file_is_refused(suite, name, value, valid):
    suite.pytester.makeini(f"[pytest]\nbertology_{name} = {value}\n")

    message = suite.refused(conftest=LOADING)

    assert message.startswith(f"ERROR: bertology_{name} in tox.ini: ")
    assert message.partition(" is not valid; expected ")[2].startswith(valid)
    assert value in message


def test_one_bad_model_among_good_ones_is_refused(suite):
    message = suite.refused("", f"--bertology-model={suite.model}", "--bertology-model=./nowhere")

    assert "--bertology-model: './nowhere' is not valid" in message


@pytest.mark.parametrize("value", ["maybe", "2"])
def test_a_flag_that_is_neither_yes_nor_no_is_refused_in_the_environment(suite, monkeypatch, value):
    monkeypatch.setenv("BERTOLOGY_REQUIRE_GPU", value)

    assert suite.refused() == f"ERROR: BERTOLOGY_REQUIRE_GPU: {value!r} is not valid; expected 1 or 0"


def test_a_flag_that_is_neither_yes_nor_no_is_refused_in_the_ini_file(suite):
    suite.pytester.makeini("[pytest]\nbertology_require_gpu = maybe\n")

    message = suite.refused()

    assert message == "ERROR: bertology_require_gpu in tox.ini: invalid truth value 'maybe'; expected true or false"


@pytest.mark.skipif(pytest.version_tuple < (9,), reason="pytest 9 reads settings in TOML's own types")
def test_a_value_of_the_wrong_toml_type_is_refused(suite):
    suite.pytester.makepyprojecttoml('[tool.pytest]\nbertology_model = "bert-one"\n')

    message = suite.refused()

    assert message.startswith("ERROR: bertology_model in pyproject.toml: ")
    assert message.endswith("expected a list")


def test_paths_in_an_ini_file_are_relative_to_it(suite, monkeypatch):
    shutil.copytree(suite.model, suite.path / "models" / "tiny")
    (suite.path / "mask.json").write_text(MASK)
    values = {"model": "models/tiny", "head_mask": "mask.json", "store": "store", "report_json": "report.json"}
    suite.pytester.makeini("[pytest]\n" + "".join(f"bertology_{name} = {value}\n" for name, value in values.items()))
    below = suite.path / "below"
    below.mkdir()
    monkeypatch.chdir(below)

    header = suite.header(str(suite.path))

    assert header == [
        f"{name}: {suite.path / value} (from bertology_{name} in tox.ini)" for name, value in values.items()
    ]


def test_a_hub_name_in_an_ini_file_stays_as_it_is(suite):
    suite.pytester.makeini("[pytest]\nbertology_model = owner/model\n")

    assert suite.header() == ["model: owner/model (from bertology_model in tox.ini)"]


def test_paths_on_the_command_line_are_relative_to_where_pytest_is_started(suite, monkeypatch):
    below = suite.path / "below"
    below.mkdir()
    shutil.copytree(suite.model, below / "tiny")
    monkeypatch.chdir(below)

    assert suite.header(str(suite.path), "--bertology-model=./tiny") == ["model: ./tiny (from --bertology-model)"]


def test_a_path_in_two_words_that_moves_the_rootdir_is_pointed_out(suite):
    suite.pytester.makeini("[pytest]\nbertology_dtype = float64\n")

    root = os.path.commonpath([suite.path, suite.model])

    header = suite.header("--bertology-model", str(suite.model))

    assert header == [
        f"model: {suite.model} (from --bertology-model)",
        f"bertology: pytest made {root} its rootdir, and reads no ini file from {suite.path}: "
        "write --bertology-model=... in one word",
    ]


def test_a_path_in_one_word_moves_nothing(suite):
    suite.pytester.makeini("[pytest]\nbertology_dtype = float64\n")

    header = suite.header(f"--bertology-model={suite.model}")

    assert header == [
        f"model: {suite.model} (from --bertology-model)",
        "dtype: float64 (from bertology_dtype in tox.ini)",
    ]


def test_help_shows_each_option_with_its_choices(suite):
    result = suite.bare("", "--help")

    said = " ".join(result.stdout.str().split())
    assert "--bertology-model=MODEL" in said
    assert "one of float64, float32, bfloat16, float16" in said
    assert "bertology_report_json (string): write every verdict to this JSON file" in said
