"""What the fixtures `attention_maps` and `hidden_states` give to a test, in sessions of their own."""

from __future__ import annotations


def test_maps_of_a_layer(suite):
    result = suite.run(
        """
        def test_maps(attention_maps, bertology_model):
            maps = attention_maps(["the film was good", "a plot"])

            assert maps[1][0].shape == (4, 6, 6)
            assert abs(maps[1][0].sum(axis=-1) - 1).max() < 1e-5
            assert (maps.head((1, 3))[1] == maps[1][1][3]).all()
            assert maps.tokens[1] == ("[CLS]", "a", "plot", "[SEP]")
        """
    )

    result.assert_outcomes(passed=1)


def test_states_of_a_task(suite):
    result = suite.run(
        """
        def test_states(hidden_states, bertology_task):
            states = hidden_states(bertology_task)

            assert len(states) == 3
            assert len(states[0]) == len(bertology_task)
            assert states[2][0].shape == (len(states.tokens[0]), 16)
        """
    )

    result.assert_outcomes(passed=1)


def test_the_mask_of_the_test_acts(suite):
    result = suite.run(
        """
        import pytest

        seen = []

        @pytest.mark.parametrize("turn", [pytest.param(0, marks=pytest.mark.bertology(heads_masked=[(0, 1)])), 1])
        def test_states(hidden_states, turn):
            seen.append(hidden_states(["the film was good"])[1][0])
            assert turn == 0 or abs(seen[0] - seen[1]).max() > 1e-4
        """
    )

    result.assert_outcomes(passed=2)


def test_too_much_is_refused_with_what_it_would_take(suite):
    result = suite.run(
        """
        def test_maps(attention_maps):
            attention_maps(["the film was good"], limit=10)[0]
        """
    )

    result.assert_outcomes(failed=1)
    assert any("TooMuchMemory: one layer's attention on 1 texts" in line for line in result.outlines)


def test_a_failed_check_shows_its_page(suite):
    result = suite.run(
        """
        from pytest_bertology import assert_head_attends

        def test_previous(bertology_model):
            assert_head_attends(bertology_model, ["the film was good"], (0, 1), to="previous", at_least=0.99)
        """
    )

    result.assert_outcomes(failed=1)
    assert any("L0H1 does not attend to the previous token" in line for line in result.outlines)
    assert any("looks at" in line for line in result.outlines)
