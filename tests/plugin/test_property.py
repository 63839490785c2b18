"""Hypothesis tests over sets of heads, as a user runs them.

Oracle: a property that fails exactly where head 2 of layer 1 is masked.
"""

from __future__ import annotations

FAILING = """
    from hypothesis import given, settings, strategies as st
    from pytest_bertology.strategies import {strategy}s

    @settings(max_examples=200, database=None, deadline=None, derandomize=True)
    @given(data=st.data())
    def test_no_head_matters(bertology_model, data):
        {strategy} = data.draw({strategy}s(bertology_model), label="{strategy}")
        with bertology_model.masked({strategy}):
            masked = bertology_model.mask_in_force().masked
        assert "L1H2" not in [str(head) for head in masked]
"""


def test_a_failing_set_of_heads_shrinks_to_a_minimal_one(suite, section):
    result = suite.run(FAILING.format(strategy="head_set"))

    result.assert_outcomes(failed=1)
    assert "Draw 1 (head_set): (Head(1, 2),)" in section(result, "test_no_head_matters")


def test_a_failing_mask_shrinks_to_a_minimal_one(suite, section):
    result = suite.run(FAILING.format(strategy="head_mask"))

    result.assert_outcomes(failed=1)
    text = section(result, "test_no_head_matters")
    assert "Draw 1 (head_mask): HeadMask(masked: L1H2; of 2 layers of 4 heads)" in text


def test_a_failing_check_shrinks_to_the_fewest_heads_and_shows_its_message(suite, section):
    result = suite.run("""
        from hypothesis import given, settings, strategies as st
        from pytest_bertology import assert_heads_prunable
        from pytest_bertology.strategies import head_sets

        @settings(max_examples=50, database=None, deadline=None, derandomize=True)
        @given(data=st.data())
        def test_any_two_heads_can_go(bertology_model, bertology_task, data):
            heads = data.draw(head_sets(bertology_model, min_size=2, max_size=4), label="heads")
            assert_heads_prunable(bertology_model, bertology_task, heads, tolerance=0.0)
    """)

    result.assert_outcomes(failed=1)
    text = section(result, "test_any_two_heads_can_go")
    assert "Draw 1 (heads): (Head(0, 0), Head(0, 1))" in text
    assert "pytest_bertology.CheckFailed: accuracy is not retained with 2 of 8 heads masked" in text
    assert "heads     L0H0 L0H1" in text


def test_a_failing_check_does_not_print_the_whole_task(suite, section):
    result = suite.run("""
        from hypothesis import given, settings
        from hypothesis import strategies as st
        from pytest_bertology import assert_heads_prunable

        @settings(max_examples=5, database=None, deadline=None, derandomize=True)
        @given(head=st.integers(0, 3))
        def test_any_head_can_go(bertology_model, bertology_task, head):
            assert_heads_prunable(bertology_model, bertology_task, [(0, head)], tolerance=0.0)
    """)

    result.assert_outcomes(failed=1)
    first = suite.task.read_text().splitlines()[1].split(",")[0]
    assert first not in section(result, "test_any_head_can_go")


def test_a_mask_in_force_is_in_force_in_every_example(suite):
    result = suite.run("""
        import pytest
        from hypothesis import given, settings, strategies as st
        from looking import masked_heads
        from pytest_bertology.strategies import head_sets

        @pytest.mark.bertology(heads_masked=[(0, 0)])
        @settings(max_examples=20, database=None, deadline=None, derandomize=True)
        @given(data=st.data())
        def test_masked(bertology_model, data):
            heads = data.draw(head_sets(bertology_model))
            assert masked_heads(bertology_model) == {(0, 0)}
            with bertology_model.masked(heads):
                assert masked_heads(bertology_model) == {(0, 0)} | {tuple(head[:2]) for head in heads}
    """)

    result.assert_outcomes(passed=1)


def test_token_batches_run_through_the_model(suite):
    result = suite.run("""
        from hypothesis import given, settings, strategies as st
        from pytest_bertology.strategies import token_batches

        @settings(max_examples=20, database=None, deadline=None, derandomize=True)
        @given(data=st.data())
        def test_runs(bertology_model, data):
            batch = data.draw(token_batches(bertology_model))
            assert len(bertology_model.model(**batch).logits) == len(batch["input_ids"])
    """)

    result.assert_outcomes(passed=1)
