"""What the tests of a run say together, and what becomes of checks that the data cannot decide.

Holm's adjusted p-values are worked out by hand; rates of false alarms are counted over simulated runs; suites are run.
"""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from pytest_bertology.plugin.multiplicity import CHECK, LEVEL, family_of, jointly, level, refuse
from pytest_bertology.plugin.session import session_key
from pytest_bertology.significance import mcnemar


def row(name, p, passed=True, tests="change", written=None, **more):
    """A verdict on a baseline."""
    details = {"baseline": {"name": name, "written": written}, "tests": tests}
    return {
        "check": CHECK,
        "passed": passed,
        "outcome": "passed" if passed else "failed",
        "inconclusive": False,
        "judged": "drop from the baseline",
        "p_value": p,
        "details": details,
        "message": "",
        **more,
    }


def of(*verdicts, outcome="passed"):
    return {f"test_{i}": {"test": f"test_{i}", "outcome": outcome, "verdicts": [v]} for i, v in enumerate(verdicts)}


def config(correction):
    session = SimpleNamespace(settings=SimpleNamespace(value=lambda name: correction))
    return SimpleNamespace(stash={session_key: session})


# -- the family --------------------------------------------------------------------------------------------------


def test_a_test_is_judged_at_its_share_of_the_level():
    assert level(config("holm"), 10) == pytest.approx(0.005)
    assert level(config("holm"), 0) == 0.05
    assert level(config("none"), 10) == 0.05


def test_holm_refuses_at_the_end_what_bonferroni_had_to_let_pass():
    """By hand: 4 · 0.004, 3 · 0.015, 2 · 0.02 (raised to the one before), 0.5."""
    tests = of(row("a", 0.015), row("b", 0.004, passed=False), row("c", 0.5), row("d", 0.02))

    refused = refuse(family_of(tests))

    adjusted = {v["details"]["baseline"]["name"]: v["details"]["p_adjusted"] for _, v in family_of(tests)}
    assert adjusted == pytest.approx({"a": 0.045, "b": 0.016, "c": 0.5, "d": 0.045})
    assert [v["details"]["baseline"]["name"] for _, v in refused] == ["a", "d"]
    assert [tests[f"test_{i}"]["outcome"] for i in range(4)] == ["failed", "passed", "passed", "failed"]
    assert "p = 0.015, Holm-adjusted 0.045" in tests["test_0"]["error"] == refused[0][1]["message"]


def test_only_tests_of_a_change_are_of_the_family():
    tests = of(
        row("a", 0.5),
        row("tolerance", 1e-9, tests="non-inferiority"),
        row("none", None),
        row("written", 1e-9, written="changed"),
        row("other", 1e-9, check="assert_metric_retained"),
    )

    assert [v["details"]["baseline"]["name"] for _, v in family_of(tests)] == ["a"]


def test_a_baseline_that_is_asked_for_several_times_counts_once():
    tests = of(row("a", 0.5))
    tests["test_0"]["verdicts"].append(row("a", 0.2))

    assert [v["p_value"] for _, v in family_of(tests)] == [0.2]


@pytest.mark.parametrize("m", [1, 5, 40])
def test_what_fails_when_its_test_runs_is_refused_by_holm_too(m):
    draw = np.random.default_rng(m)
    for _ in range(200):
        p = draw.random(m) ** draw.integers(1, 5)
        alone = p <= level(config("holm"), m)
        tests = of(*(row(str(i), float(p[i]), passed=not alone[i]) for i in range(m)))

        refuse(family_of(tests))

        assert all(v["details"]["p_adjusted"] <= LEVEL + 1e-12 for _, v in family_of(tests) if alone[int(_name(v))])


def _name(verdict):
    return verdict["details"]["baseline"]["name"]


def _alarm(p_values):
    """Whether any comparison of a run is refused, when its test runs or at the end."""
    alone = [p <= level(config("holm"), len(p_values)) for p in p_values]
    tests = of(*(row(str(i), float(p), passed=not alone[i]) for i, p in enumerate(p_values)))
    return any(alone) or bool(refuse(family_of(tests)))


def test_two_identical_models_fail_nothing_in_1000_runs():
    """Nothing changed, or what re-batching could move: no prediction."""
    assert not any(_alarm([mcnemar(0, 0, alternative="worse")] * 12) for _ in range(1000))


@pytest.mark.parametrize("shared", [False, True])
def test_two_models_that_differ_and_are_as_good_fail_a_run_in_5_percent_at_most(shared):
    """1,000 runs of 8 comparisons on 500 examples, 6 % of which change, on the same data or each on its own."""
    draw = np.random.default_rng(5)
    alarms = 0
    for _ in range(1000):
        worse, better, _ = draw.multinomial(500, [0.03, 0.03, 0.94], size=1 if shared else 8).T
        p_values = [mcnemar(int(w), int(b), alternative="worse") for w, b in zip(worse, better, strict=True)]
        alarms += _alarm(p_values * (8 if shared else 1))

    assert alarms / 1000 <= LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 1000)


# -- what is said jointly ----------------------------------------------------------------------------------------


def bound(passed=True, inconclusive=False):
    outcome = "passed" if passed else "inconclusive" if inconclusive else "failed"
    found = {"check": "assert_metric_retained", "judged": "bound on the drop", "details": {"confidence": 0.95}}
    return {**found, "passed": passed, "inconclusive": inconclusive, "outcome": outcome, "p_value": 0.01}


def test_drops_that_all_are_within_tolerance_are_so_jointly():
    (line,) = jointly(of(bound(), bound()), [], corrected=True)

    assert line.startswith(
        "jointly: all 2 drops are within tolerance; were any of them not, all would pass in at most 5%"
    )


def test_drops_that_are_not_all_within_tolerance_are_counted():
    tests = of(bound(), bound(passed=False, inconclusive=True))

    assert jointly(tests, [], corrected=True) == ["jointly: 1 of 2 drops are established to be within tolerance"]


def test_a_drop_that_its_test_expects_to_be_too_large_is_no_claim():
    assert jointly(of(bound(passed=False)), [], corrected=True) == []


# -- suites ------------------------------------------------------------------------------------------------------

FAMILY = """
    import pytest
    from pytest_bertology.checks.verdicts import Verdict, give

    @pytest.mark.bertology()
    @pytest.mark.parametrize("p", [0.03, 0.02, 0.6])
    def test_change(p):
        details = {"baseline": {"name": f"p {p}"}, "tests": "change"}
        give(Verdict("bertology_baseline.check", True, 0.1, "not significant", "drop", p_value=p, details=details), str)
"""


@pytest.mark.parametrize("workers", ["-n0", "-n2"])
def test_a_run_fails_for_what_only_holm_refuses(suite, workers):
    source = FAMILY.replace("0.03, 0.02", "0.02, 0.015")

    result = suite.bare(source, "--bertology-report-json=report.json", "--junitxml=junit.xml", workers)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    text = result.stdout.str()
    assert re.search(r"changed: test_release.py::test_change\[0.015\]: p 0.015: p = 0.015, Holm-adjusted 0.045", text)
    assert re.search(r"FAILED +test_release.py::test_change\[0.02\]", text)
    assert "3 comparisons with baselines by p-value: 2 changed (smallest p 0.045 by Holm's method" in text
    report = json.loads((suite.path / "report.json").read_text(encoding="utf-8"))
    assert [test["outcome"] for test in report["tests"]] == ["failed", "failed", "passed"]
    assert report["exit_status"] == 1
    properties = ElementTree.parse(suite.path / "junit.xml").iter("property")
    assert sum("Holm-adjusted" in each.get("value", "") for each in properties) == 2


def test_a_run_without_correction_leaves_each_test_its_own_level(suite):
    result = suite.bare(FAMILY, "--bertology-correction=none")

    result.assert_outcomes(passed=3)
    assert result.ret == 0
    said = "3 comparisons with baselines by p-value: no change beyond chance (p-values are not corrected"
    assert said in result.stdout.str()


def test_a_run_in_which_nothing_changed_passes(suite):
    result = suite.bare(FAMILY)

    assert result.ret == 0
    assert (
        "no change beyond chance (smallest p 0.06 by Holm's method; any false alarm: at most 5%)" in result.stdout.str()
    )


UNDECIDED = """
    from pytest_bertology import assert_metric_retained

    def test_undecided(bertology_model, bertology_task):
        options = dict(prune=0.13, tolerance={tolerance}, confidence=0.95)
        assert assert_metric_retained(bertology_model, bertology_task, **options).bound is not None
"""


@pytest.fixture
def undecided(suite):
    """A suite whose check is inconclusive: its tolerance is the drop."""
    suite.run(UNDECIDED.format(tolerance=0.99), "--bertology-report-json=report.json")
    (verdict,) = json.loads((suite.path / "report.json").read_text(encoding="utf-8"))["tests"][0]["verdicts"]
    return UNDECIDED.format(tolerance=max(verdict["details"]["drop"], 0.0) + 1e-3)


def test_what_cannot_be_decided_fails_and_is_told_as_such(suite, undecided):
    result = suite.run(undecided, "--bertology-report-json=report.json")

    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert re.search(r"  INCONCLUSIVE +test_release.py::test_undecided: bound on the drop", text)
    assert "it cannot be told whether accuracy is retained" in text
    (verdict,) = json.loads((suite.path / "report.json").read_text(encoding="utf-8"))["tests"][0]["verdicts"]
    assert (verdict["outcome"], verdict["passed"]) == ("inconclusive", False)
    assert verdict["p_value"] > 0.05
    assert re.match(r"with \d+ examples of which [\d.]+% change, the smallest drop", verdict["details"]["power"][0])
    assert set(verdict["evidence"]["changed"]) == {"lost", "gained", "worst"}


def test_what_cannot_be_decided_may_warn(suite, undecided):
    result = suite.run(undecided, "--bertology-inconclusive=warn", "-Wdefault")

    result.assert_outcomes(passed=1, warnings=1)
    assert "BertologyWarning: inconclusive: it cannot be told whether accuracy is retained" in result.stdout.str()
    allowed = ", allowed by --bertology-inconclusive=warn"
    assert re.search(rf"  INCONCLUSIVE +test_release.py::test_undecided.*{allowed}", result.stdout.str())
    assert re.search(r"  warning test_release.py::test_undecided: inconclusive: it cannot be told", result.stdout.str())
    assert "true drop" not in result.stdout.str()  # the whole page is in the reports


def test_drops_within_tolerance_are_summed_up(suite):
    result = suite.run(
        """
        import pytest
        from pytest_bertology import assert_metric_retained

        @pytest.mark.parametrize("prune", [0.13, 0.3])
        def test_pruned(bertology_model, bertology_task, prune):
            assert_metric_retained(bertology_model, bertology_task, prune=prune, tolerance=0.95, confidence=0.9)
        """
    )

    result.assert_outcomes(passed=2)
    assert result.outlines[-3].startswith(
        "jointly: all 2 drops are within tolerance; were any of them not, all would pass"
    )
