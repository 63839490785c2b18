"""What the fixtures give: models and tasks once per session, masks from four sources, and models put back.

Oracle: a hook that counts loads; the zeros that arrive at BERT's projections; weights compared with the checkpoint's.
"""

from __future__ import annotations

import shutil

import pytest

from pytest_bertology import HeadMap, HeadMask

COUNTING = """
    def pytest_bertology_load_model(source):
        with open("loads.txt", "a") as file:
            print(source, file=file)
"""


def loads(suite):
    """What was loaded, by folder name."""
    lines = (suite.path / "loads.txt").read_text().splitlines()
    return [line.rsplit("/", 1)[-1] for line in lines]


def test_without_a_model_the_test_is_skipped_with_a_reason(suite):
    result = suite.bare("def test_needs_one(bertology_model): pass", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*no model to test: give --bertology-model (a folder, a hub name, or 'embedded')"]
    )


def test_without_a_task_the_test_is_skipped_with_a_reason(suite):
    result = suite.bare("def test_needs_one(bertology_task): pass", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(
        ["SKIPPED*no task to judge models on: give --bertology-task (a file, a hub name, or 'embedded')"]
    )


def test_importance_needs_both(suite):
    result = suite.bare("def test_needs_both(head_importance): pass", suite.given[0], "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no task to judge models on*"])


def test_model_and_task_are_what_was_named(suite):
    result = suite.run("""
        from pytest_bertology import HeadMap, ModelUnderTest, Task

        def test_named(bertology_model, bertology_task):
            assert isinstance(bertology_model, ModelUnderTest)
            assert bertology_model.name == "tiny"
            assert bertology_model.heads == HeadMap([4, 4])
            assert isinstance(bertology_task, Task)
            assert bertology_task.name == "reviews.csv"
    """)

    result.assert_outcomes(passed=1)


def test_dtype_and_device_go_to_the_model(suite):
    result = suite.run(
        """
        def test_given(bertology_model):
            assert bertology_model.dtype == "float64"
            assert bertology_model.device.type == "cpu"
        """,
        "--bertology-dtype=float64",
        "--bertology-device=cpu",
    )

    result.assert_outcomes(passed=1)


def test_two_text_columns_are_named_with_a_comma(suite):
    (suite.path / "pairs.csv").write_text("a,b,label\ngood,bad,0\nbad,good,1\n")

    result = suite.run(
        """
        def test_pairs(bertology_task):
            assert bertology_task.texts == (("good", "bad"), ("bad", "good"))
        """,
        "--bertology-task=pairs.csv",
        "--bertology-text=a, b",
    )

    result.assert_outcomes(passed=1)


def test_importance_is_measured_with_the_method_asked_for(suite):
    result = suite.run(
        """
        def test_asked(head_importance):
            assert head_importance.method.startswith("random")
        """,
        "--bertology-importance=random",
    )

    result.assert_outcomes(passed=1)


def test_importance_is_that_of_the_library(suite):
    result = suite.run("""
        from pytest_bertology import head_importance as measure

        def test_same(head_importance, bertology_model, bertology_task):
            assert head_importance.values.tolist() == measure(bertology_model, bertology_task).values.tolist()
    """)

    result.assert_outcomes(passed=1)


def test_results_are_kept_across_sessions_in_the_store(suite):
    source = """
        from pytest_bertology import evaluate
        from pytest_bertology.engine.store import current_store

        def test_stored(bertology_model, bertology_task):
            bertology_model.model  # loaded, whatever answers are known
            evaluate(bertology_model, bertology_task)
            print("computed:", current_store().computed)
    """
    suite.run(source, "--bertology-store=store", "-rP").stdout.fnmatch_lines(["computed: 1"])
    shutil.rmtree(suite.path / "store" / "answers")

    result = suite.run(source, "--bertology-store=store", "-rP")

    result.stdout.fnmatch_lines(["computed: 0"])


def test_calls_are_answered_across_sessions(suite):
    source = """
        from pytest_bertology import evaluate

        def test_stored(bertology_model, bertology_task):
            assert evaluate(bertology_model, bertology_task).score > 0
    """
    suite.run(source, "--bertology-store=store").stdout.fnmatch_lines(
        ["store: 0 calls answered from store, 1 computed"]
    )

    result = suite.run(source, "--bertology-store=store")

    result.stdout.fnmatch_lines(["store: 1 call answered from store, 0 computed"])


def test_a_session_leaves_no_store_behind(suite):
    from pytest_bertology.engine.store import current_store

    before = current_store()

    suite.run("def test_model(bertology_model): pass", "--bertology-store=store")

    assert current_store() is before


# -- several models ----------------------------------------------------------------------------------------------


def test_each_model_runs_each_test(suite, copied):
    result = suite.run(
        """
        def test_first(bertology_model): print("model:", bertology_model.name)
        def test_second(head_mask): pass
        def test_other(): pass
        """,
        f"--bertology-model={copied('candidate')}",
        "-v",
        "-rP",
    )

    result.assert_outcomes(passed=5)
    ids = [line.split()[0].partition("::")[2] for line in result.outlines if "PASSED" in line and "%" in line]
    assert sorted(ids) == [
        "test_first[candidate]",
        "test_first[tiny]",
        "test_other",
        "test_second[candidate]",
        "test_second[tiny]",
    ]
    result.stdout.fnmatch_lines_random(["model: tiny", "model: candidate"])


def test_tests_are_grouped_by_model(suite, copied):
    result = suite.run(
        """
        def test_first(bertology_model): pass
        def test_second(bertology_model): pass
        """,
        f"--bertology-model={copied('candidate')}",
        "-v",
    )

    models = [line.split("[")[1].split("]")[0] for line in result.outlines if "PASSED" in line]
    assert models in (["tiny", "tiny", "candidate", "candidate"], ["candidate", "candidate", "tiny", "tiny"])


def test_folders_of_equal_names_are_told_apart_by_where_they_are(suite):
    for version in ("v1", "v2"):
        shutil.copytree(suite.model, suite.path / version / "model")

    result = suite.bare(
        "def test_model(bertology_model): pass",
        f"--bertology-model={suite.path}/v1/model",
        f"--bertology-model={suite.path}/v2/model",
        "-v",
    )

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines(["*::test_model[[]v1/model] PASSED*", "*::test_model[[]v2/model] PASSED*"])


def test_a_single_model_does_not_show_in_the_test_id(suite):
    result = suite.run("def test_model(bertology_model): pass", "-v")

    result.stdout.fnmatch_lines(["test_release.py::test_model PASSED*"])


# -- loaded once -------------------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_per_session(suite):
    result = suite.run(
        """
        import pytest

        def test_first(bertology_model): pass
        def test_second(bertology_model, head_importance): pass

        @pytest.mark.bertology(heads_masked=[(0, 1)])
        def test_masked(bertology_model): pass
        """,
        conftest=COUNTING,
    )

    result.assert_outcomes(passed=3)
    assert loads(suite) == ["tiny"]


def test_a_marker_that_names_the_sessions_model_loads_it_no_second_time(suite):
    result = suite.run(
        f"""
        import pytest

        def test_first(bertology_model): pass

        @pytest.mark.bertology(model={str(suite.model)!r})
        def test_marked(bertology_model): pass

        def test_last(bertology_model): pass
        """,
        conftest=COUNTING,
    )

    result.assert_outcomes(passed=3)
    assert loads(suite) == ["tiny"]


def test_a_folder_under_another_name_is_loaded_no_second_time(suite, monkeypatch):
    monkeypatch.chdir(suite.model.parent)

    result = suite.bare(
        """
        import pytest

        def test_first(bertology_model): pass

        @pytest.mark.bertology(model="./tiny")
        def test_marked(bertology_model): pass
        """,
        suite.given[0],
        str(suite.path),
        conftest=COUNTING.replace('"loads.txt"', repr(str(suite.path / "loads.txt"))),
    )

    result.assert_outcomes(passed=2)
    assert loads(suite) == ["tiny"]


def test_each_of_several_models_is_loaded_once(suite, copied):
    result = suite.run(
        """
        def test_first(bertology_model): pass
        def test_second(bertology_model): pass
        """,
        f"--bertology-model={copied('candidate')}",
        conftest=COUNTING,
    )

    result.assert_outcomes(passed=4)
    assert sorted(loads(suite)) == ["candidate", "tiny"]


def test_no_model_is_loaded_for_tests_that_ask_for_none(suite):
    result = suite.run("def test_other(bertology_task): pass", conftest=COUNTING)

    result.assert_outcomes(passed=1)
    assert not (suite.path / "loads.txt").exists()


# -- the factory and the loading hook -----------------------------------------------------------------------------


def test_the_factory_loads_further_models_once(suite, copied):
    result = suite.run(
        f"""
        def test_two(bertology_model, load_bertology_model):
            candidate = load_bertology_model({str(copied("candidate"))!r})
            assert candidate.name == "candidate"
            assert candidate is load_bertology_model({str(copied("candidate2"))!r}[:-1])
            assert load_bertology_model({str(suite.model)!r}) is bertology_model
            assert load_bertology_model() is bertology_model
        """,
        conftest=COUNTING,
    )

    result.assert_outcomes(passed=1)
    assert sorted(loads(suite)) == ["candidate", "tiny"]


def test_the_factory_takes_the_options_of_load_model(suite):
    result = suite.run(f"""
        def test_other_dtype(bertology_model, load_bertology_model):
            double = load_bertology_model({str(suite.model)!r}, dtype="float64")
            assert double.dtype == "float64"
            assert bertology_model.dtype == "float32"
    """)

    result.assert_outcomes(passed=1)


def test_the_factory_takes_a_live_model(suite):
    result = suite.bare(f"""
        from transformers import BertForSequenceClassification
        from pytest_bertology import HeadMap

        def test_live(load_bertology_model):
            live = BertForSequenceClassification.from_pretrained({str(suite.model)!r})
            found = load_bertology_model(live)
            assert found.model is live
            assert found.heads == HeadMap([4, 4])
    """)

    result.assert_outcomes(passed=1)


def test_the_factory_without_a_source_skips_where_no_model_is_named(suite):
    result = suite.bare("def test_none(load_bertology_model): load_bertology_model()", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*no model to test: give --bertology-model*"])


@pytest.mark.parametrize("returned", ["load_model(FOLDER)", "(live, tokenizer)", "live"])
def test_the_hook_loads_a_model_in_a_way_of_its_own(suite, returned):
    hook = f"""
        FOLDER = {str(suite.model)!r}

        def pytest_bertology_load_model(source, config):
            from transformers import AutoTokenizer, BertForSequenceClassification
            from pytest_bertology import load_model

            if source != "ours":
                return None
            live = BertForSequenceClassification.from_pretrained(FOLDER)
            tokenizer = AutoTokenizer.from_pretrained(FOLDER)
            return {returned}
    """

    result = suite.bare(
        """
        def test_ours(bertology_model):
            assert len(bertology_model.heads) == 8
        """,
        "--bertology-model=ours",
        conftest=hook,
    )

    result.assert_outcomes(passed=1)


# -- the head mask in four ways -----------------------------------------------------------------------------------

MASKED = """
    from looking import masked_heads

    def test_masked(bertology_model):
        print("masked:", sorted(masked_heads(bertology_model)))
"""
MASKED_AND_ASKED = """
    from looking import masked_heads

    def test_masked(bertology_model, head_mask):
        assert {(head.layer, head.head) for head in head_mask.masked} == masked_heads(bertology_model)
        print("masked:", sorted(masked_heads(bertology_model)))
"""
MARKED = "    import pytest\n    pytestmark = pytest.mark.bertology(heads_masked=[(0, 0)])\n"
OVERRIDING = """
    import pytest
    from pytest_bertology import HeadMap, HeadMask

    @pytest.fixture
    def head_mask():
        return HeadMask.without(HeadMap([4, 4]), [(0, 1)])
"""
OVERRIDING_WITH_THE_MODEL = """
    import pytest
    from pytest_bertology import HeadMask

    @pytest.fixture
    def head_mask(bertology_model):
        return HeadMask.without(bertology_model.heads, [(0, 1)])
"""
OVERRIDING_FOR_THE_SESSION = OVERRIDING_WITH_THE_MODEL.replace("fixture", 'fixture(scope="session")')
HOOK = """
    def pytest_bertology_head_mask(model, config):
        from pytest_bertology import HeadMask

        return HeadMask.without(model.heads, [(0, 3)])
"""
asked_or_not = pytest.mark.parametrize("source", [MASKED, MASKED_AND_ASKED], ids=["model", "model and mask"])


@pytest.fixture
def mask_file(suite):
    """The option that names a file with a mask of head 2."""
    (suite.path / "mask.json").write_text(HeadMask.without(HeadMap([4, 4]), [(0, 2)]).to_json())
    return "--bertology-head-mask=mask.json"


@asked_or_not
def test_by_default_no_head_is_masked(suite, source):
    suite.run(source, "-rP").stdout.fnmatch_lines(["masked: []"])


@asked_or_not
def test_a_file_masks(suite, mask_file, source):
    suite.run(source, "-rP", mask_file).stdout.fnmatch_lines(["masked: [[](0, 2)[]]"])


@asked_or_not
def test_a_hook_masks(suite, source):
    suite.run(source, "-rP", conftest=HOOK).stdout.fnmatch_lines(["masked: [[](0, 3)[]]"])


@asked_or_not
@pytest.mark.parametrize(
    "overriding",
    [OVERRIDING, OVERRIDING_WITH_THE_MODEL, OVERRIDING_FOR_THE_SESSION],
    ids=["alone", "with model", "session"],
)
def test_an_overriding_fixture_masks(suite, source, overriding):
    suite.run(source, "-rP", conftest=overriding).stdout.fnmatch_lines(["masked: [[](0, 1)[]]"])


def test_an_overriding_fixture_may_list_heads(suite):
    conftest = """
        import pytest

        @pytest.fixture
        def head_mask():
            return [(0, 1)]
    """

    suite.run(MASKED, "-rP", conftest=conftest).stdout.fnmatch_lines(["masked: [[](0, 1)[]]"])


def test_an_overriding_fixture_may_have_parameters(suite):
    result = suite.run("""
        import pytest
        from looking import masked_heads
        from pytest_bertology import HeadMask

        @pytest.fixture(params=[0, 1])
        def head_mask(request, bertology_model):
            return HeadMask.without(bertology_model.heads, [(request.param, 2)])

        def test_each_layer(bertology_model, head_mask):
            assert masked_heads(bertology_model) == {tuple(head[:2]) for head in head_mask.masked}
    """)

    result.assert_outcomes(passed=2)


@asked_or_not
def test_a_file_goes_before_the_hook(suite, mask_file, source):
    suite.run(source, "-rP", mask_file, conftest=HOOK).stdout.fnmatch_lines(["masked: [[](0, 2)[]]"])


@asked_or_not
def test_an_overriding_fixture_goes_before_file_and_hook(suite, mask_file, source):
    result = suite.run(source, "-rP", mask_file, conftest=OVERRIDING + HOOK)

    result.stdout.fnmatch_lines(["masked: [[](0, 1)[]]"])


@asked_or_not
@pytest.mark.parametrize("overriding", ["", OVERRIDING_WITH_THE_MODEL], ids=["", "overriding"])
def test_a_marker_goes_before_all(suite, mask_file, source, overriding):
    result = suite.run(MARKED + source, "-rP", mask_file, conftest=overriding + HOOK)

    result.stdout.fnmatch_lines(["masked: [[](0, 0)[]]"])


def test_the_mask_acts_on_each_of_several_models(suite, copied, mask_file):
    result = suite.run(MASKED, "-rP", mask_file, f"--bertology-model={copied('candidate')}")

    assert result.outlines.count("masked: [(0, 2)]") == 2


def test_the_mask_is_in_force_in_checks(suite, mask_file):
    result = suite.run(
        """
        from pytest_bertology import assert_metric_retained

        def test_retained(bertology_model, bertology_task):
            found = assert_metric_retained(bertology_model, bertology_task, tolerance=0.99)
            assert [str(head) for head in found.heads] == ["L0H2"]
            assert not found.baseline.mask.masked
        """,
        mask_file,
    )

    result.assert_outcomes(passed=1)


def test_the_mask_acts_where_a_test_reaches_the_model_through_its_own_fixture(suite, mask_file):
    result = suite.run(
        """
        import pytest
        from looking import masked_heads

        @pytest.fixture
        def ours(bertology_model):
            return bertology_model

        def test_masked(ours):
            assert masked_heads(ours) == {(0, 2)}
        """,
        mask_file,
    )

    result.assert_outcomes(passed=1)


def test_damped_heads_are_in_force_too(suite):
    (suite.path / "mask.json").write_text(HeadMask(HeadMap([4, 4]), (0.5, *[1.0] * 7)).to_json())

    result = suite.run(
        """
        def test_damped(bertology_model):
            assert bertology_model.mask_in_force().gate((0, 0)) == 0.5
        """,
        "--bertology-head-mask=mask.json",
    )

    result.assert_outcomes(passed=1)


def test_the_mask_acts_on_an_overriding_model_fixture(suite, mask_file):
    result = suite.run(
        f"""
        import pytest
        from looking import masked_heads
        from pytest_bertology import load_model

        @pytest.fixture(scope="session")
        def bertology_model():
            return load_model({str(suite.model)!r})

        def test_masked(bertology_model):
            assert masked_heads(bertology_model) == {{(0, 2)}}
        """,
        mask_file,
    )

    result.assert_outcomes(passed=1)


def test_the_mask_acts_where_a_test_asks_for_the_model_while_it_runs(suite, mask_file):
    result = suite.run(
        """
        from looking import masked_heads

        def test_masked(request):
            assert masked_heads(request.getfixturevalue("bertology_model")) == {(0, 2)}
        """,
        mask_file,
    )

    result.assert_outcomes(passed=1)


def test_an_overriding_model_fixture_is_put_back_too(suite):
    result = suite.run(f"""
        import pytest
        from pytest_bertology import load_model

        @pytest.fixture(scope="session")
        def bertology_model():
            return load_model({str(suite.model)!r})

        def test_trains(bertology_model):
            bertology_model.model.train()

        def test_next(bertology_model):
            assert not bertology_model.model.training
    """)

    result.assert_outcomes(passed=2)


# -- put back -----------------------------------------------------------------------------------------------------


def test_mode_gradients_and_hooks_are_put_back_after_each_test(suite):
    result = suite.run("""
        def test_leaves_a_mess(bertology_model):
            model = bertology_model.model
            model.train()
            model.classifier.weight.requires_grad_(False)
            model.bert.register_forward_hook(lambda *anything: None)
            model.classifier.register_forward_pre_hook(lambda *anything: None)
            model(input_ids=model.dummy_inputs["input_ids"]).logits.sum().backward()
            bertology_model.masked([(0, 1)]).__enter__()

        def test_finds_none(bertology_model):
            model = bertology_model.model
            assert not any(module.training for module in model.modules())
            assert all(parameter.requires_grad for parameter in model.parameters())
            assert all(parameter.grad is None for parameter in model.parameters())
            assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
            assert not bertology_model.mask_in_force().touched
    """)

    result.assert_outcomes(passed=2)


def test_models_are_put_back_after_a_failing_test_too(suite):
    result = suite.run("""
        def test_fails(bertology_model):
            bertology_model.model.train()
            assert False

        def test_next(bertology_model):
            assert not bertology_model.model.training
    """)

    result.assert_outcomes(passed=1, failed=1)


CHANGES = {
    "in place": ("with torch.no_grad(): model.classifier.weight.mul_(2)", "classifier.weight"),
    "through .data": ("model.classifier.weight.data[0, 0] += 1e-3", "classifier.weight"),
    "by a state dict": ("model.load_state_dict({k: v * 2 for k, v in model.state_dict().items()})", "bert.embeddings."),
    "by a new parameter": ("model.classifier.weight = torch.nn.Parameter(model.classifier.weight * 2)", "classifier."),
    "by a new module": ("model.classifier = torch.nn.Linear(16, 2)", "classifier.bias, classifier.weight"),
    "by an optimiser": (
        "model(input_ids=model.dummy_inputs['input_ids']).logits.sum().backward(); "
        "torch.optim.SGD(model.parameters(), lr=1.0).step()",
        "bert.embeddings.",
    ),
}


@pytest.mark.parametrize(("change", "weights"), CHANGES.values(), ids=CHANGES)
def test_a_test_that_changes_weights_fails_and_its_neighbours_do_not(suite, section, change, weights):
    result = suite.run(
        f"""
        import torch
        from safetensors.torch import load_file

        def unchanged(model):
            saved = load_file({str(suite.model / "model.safetensors")!r})
            found = model.model.state_dict()
            return saved.keys() == found.keys() and all(torch.equal(saved[name], found[name]) for name in saved)

        def test_before(bertology_model):
            assert unchanged(bertology_model)

        def test_changes(bertology_model):
            model = bertology_model.model
            {change}

        def test_after(bertology_model):
            assert unchanged(bertology_model)
            assert bertology_model.check.passes
            with bertology_model.masked([(0, 1)]):
                pass
        """,
        conftest=COUNTING,
    )

    result.assert_outcomes(passed=2, failed=1)
    assert section(result, "test_changes").startswith(f"the weights of tiny were changed: {weights}")
    assert "copy.deepcopy(bertology_model.model)" in section(result, "test_changes")
    assert loads(suite) == ["tiny", "tiny"]


def test_a_failing_test_that_changed_weights_is_told_so(suite, section):
    result = suite.run("""
        def test_changes(bertology_model):
            bertology_model.model.classifier.weight.data.mul_(2)
            assert False, "its own reason"

        def test_after(bertology_model):
            pass
    """)

    result.assert_outcomes(passed=1, failed=1)
    assert "its own reason" in section(result, "test_changes")
    assert "the weights of tiny were changed: classifier.weight" in section(result, "test_changes")


def test_changed_weights_of_a_factory_model_are_found_too(suite, copied):
    result = suite.run(f"""
        def test_changes(load_bertology_model):
            load_bertology_model({str(copied("candidate"))!r}).model.classifier.weight.data.mul_(2)

        def test_after(load_bertology_model):
            pass
    """)

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*the weights of candidate were changed: classifier.weight*"])


def test_a_copy_may_be_changed(suite):
    result = suite.run("""
        import copy

        def test_changes_a_copy(bertology_model):
            copy.deepcopy(bertology_model.model).classifier.weight.data.mul_(2)
            assert copy.deepcopy(bertology_model).heads == bertology_model.heads
    """)

    result.assert_outcomes(passed=1)


def test_weights_changed_while_setting_up_a_test_are_held_against_that_test(suite):
    result = suite.run("""
        import pytest

        @pytest.fixture
        def broken(bertology_model):
            bertology_model.model.classifier.weight.data.mul_(2)
            raise RuntimeError("set-up fails")

        def test_changes(broken): pass

        def test_after(bertology_model): pass
    """)

    result.assert_outcomes(passed=1, errors=2)
    result.stdout.fnmatch_lines(["*ERROR at teardown of test_changes*", "the weights of tiny were changed: *"])


def test_weights_changed_while_tearing_down_a_test_are_held_against_that_test(suite):
    result = suite.run("""
        import pytest

        @pytest.fixture
        def late(bertology_model):
            yield
            bertology_model.model.classifier.weight.data.mul_(2)

        def test_changes(late): pass

        def test_after(bertology_model): pass
    """)

    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["ERROR test_release.py::test_changes*"])


def test_a_hook_that_hands_out_the_changed_model_again_is_told_so(suite, section):
    hook = f"""
        KEPT = []

        def pytest_bertology_load_model(source):
            from pytest_bertology import load_model

            if not KEPT:
                KEPT.append(load_model({str(suite.model)!r}))
            return KEPT[0]
    """

    result = suite.run(
        """
        def test_changes(bertology_model):
            bertology_model.model.classifier.weight.data.mul_(2)

        def test_after(bertology_model): pass
        """,
        conftest=hook,
    )

    result.assert_outcomes(failed=2)
    assert "gave other weights: later tests fail likewise" in section(result, "test_changes")


HELD = """
    import pytest
    from looking import masked_heads

    @pytest.fixture(scope="module")
    def masked_model(bertology_model):
        with bertology_model.masked([(0, 1)]):
            yield bertology_model

    def test_first(masked_model):
        assert masked_heads(masked_model) == {(0, 1)}

    def test_second(masked_model):
        assert masked_heads(masked_model) == {(0, 1)}
"""
LEFT_OPEN = """
    from looking import masked_heads

    opened = []

    def test_leaves_a_mask_open(bertology_model):
        opened.append(bertology_model.masked([(0, 1)]))
        opened[0].__enter__()

    def test_finds_none(bertology_model):
        assert not bertology_model.mask_in_force().touched
        with bertology_model.masked([(1, 2)]):
            assert masked_heads(bertology_model) == {(1, 2)}
"""


def test_a_mask_that_a_fixture_holds_for_a_module_stays_in_force(suite):
    suite.run(HELD).assert_outcomes(passed=2)


def test_a_mask_left_open_by_a_test_is_not_in_force_in_the_next(suite):
    suite.run(LEFT_OPEN).assert_outcomes(passed=2)


# -- hypothesis, and help -----------------------------------------------------------------------------------------


def test_hypothesis_tests_may_use_all_fixtures(suite):
    result = suite.run("""
        import pytest
        from hypothesis import given, settings, strategies as st
        from looking import masked_heads

        @settings(max_examples=3, database=None, deadline=None)
        @given(number=st.integers())
        def test_all(bertology_model, bertology_task, head_mask, head_importance, load_bertology_model, number):
            assert not head_mask.masked

        @pytest.mark.bertology(heads_masked=[(0, 1)], importance="random")
        @settings(max_examples=3, database=None, deadline=None)
        @given(number=st.integers())
        def test_marked(bertology_model, head_importance, number):
            assert masked_heads(bertology_model) == {(0, 1)}
    """)

    result.assert_outcomes(passed=2)


def test_hypothesis_tests_may_run_for_several_models(suite, copied):
    result = suite.run(
        """
        from hypothesis import given, settings, strategies as st

        @settings(max_examples=3, database=None, deadline=None)
        @given(number=st.integers())
        def test_all(bertology_model, number): pass
        """,
        f"--bertology-model={copied('candidate')}",
    )

    result.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("fixture", "last_words"),
    [
        ("bertology_model", "with bertology_model.masked([(2, 4)]): masks head 4 of layer 2."),
        ("bertology_task", "or by the marker: @pytest.mark.bertology(task=..., split=...)."),
        ("head_mask", "It acts on bertology_model whether or not the test asks for this fixture."),
        ("head_importance", "assert_heads_in_top and assert_ranking_agrees judge it."),
        ("load_bertology_model", "Models loaded by name are shared by all tests."),
    ],
)
def test_fixtures_are_described_in_full(suite, fixture, last_words):
    result = suite.bare("", "--fixtures", "-v")

    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if line.startswith(f"{fixture} [session scope]"))
    block = " ".join(" ".join(lines[start + 1 : lines.index("", lines.index("", start) + 1) + 40]).split())
    assert last_words in block.replace("``", "")


def test_private_fixtures_are_not_listed(suite):
    result = suite.bare("", "--fixtures")

    assert "_bertology_mask_of_test" not in result.stdout.str()
