"""The HTML report in a browser: from disk and offline, at the widths of a phone and a desk, light and dark.

Run by `tox -e browser`, or `pytest tests/browser/report_page.py`; not collected otherwise. Oracle: Chromium's layout
and console, and axe-core's rules of accessibility. `BERTOLOGY_SCREENSHOTS=folder` keeps pictures of what it looks like.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest

from pytest_bertology import HeadMap, HeadScores
from pytest_bertology.engine.announcing import Announcement
from pytest_bertology.report.html.page import page as rendered
from pytest_bertology.report.pictures import picture
from tests.report import content
from tests.report.content import HOSTILE, large, run, verdict

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra `browser`)")
CHROMIUM = os.environ.get("BERTOLOGY_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium (BERTOLOGY_CHROMIUM may name one)")

AXE = "axe-core@4"
NARROW, WIDE = 360, 1400
OPEN = """async () => {
    for (const each of document.querySelectorAll('.more > td > details')) each.open = true;
    while (document.querySelector('.more noscript')) await new Promise((soon) => setTimeout(soon, 5));
    for (const each of document.querySelectorAll('details')) each.open = true;
}"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="session")
def axe(folder):
    """The source of axe-core, from npm."""
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("there is no npm to get axe-core with")
    found = subprocess.run([npm, "pack", AXE, "--silent"], cwd=folder, capture_output=True, text=True, timeout=120)
    if found.returncode:
        pytest.skip(f"npm has no axe-core: {found.stderr.strip()[-200:]}")
    with tarfile.open(folder / found.stdout.strip().splitlines()[-1]) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="session")
def pages(folder):
    """Files: a page of a few checks with all kinds of evidence, one of 500, a clean one and an empty one."""
    whole = large(500)
    few = run(
        *whole["tests"][30:42], content.tested("suite/test_hostile.py::test_text", _hostile()), notes=["<b>a note</b>"]
    )

    def drawn(count, names):
        values = np.random.default_rng(count % names).random(72) - 0.2
        scores = HeadScores(values, HeadMap([12] * 6), "gradient")
        found = picture(Announcement("importance", scores, "minilm-sst2", f"sst2, part {count % names}"))
        return [found.to_jsonable()]

    files = {}
    for name, whole_run, pictures in (
        ("few", few, {test["test"]: drawn(i, 3) for i, test in enumerate(few["tests"])}),
        ("large", whole, {test["test"]: drawn(i, 40) for i, test in enumerate(whole["tests"][:100])}),
        ("clean", run(content.tested("test_gate.py::test_retained", verdict())), {}),
        ("empty", run(exit_status=5), {}),
    ):
        files[name] = folder / f"{name}.html"
        files[name].write_text(rendered(whole_run, pictures), encoding="utf-8")
    return files


def _hostile():
    worst = [{"example": 3, "text": HOSTILE, "label": "a", "before": "a", "after": HOSTILE, "margin": 1.0}]
    return verdict(
        passed=False, observed=0.2, message=HOSTILE, model=HOSTILE, task=HOSTILE, judged=HOSTILE,
        evidence={"changed": {"lost": 1, "gained": 0, "worst": worst}, HOSTILE: HOSTILE}, details={HOSTILE: [HOSTILE]},
    )  # fmt: skip


@pytest.fixture(scope="session")
def chromium():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page that is open, and what went wrong in it."""

    def __init__(self, tab):
        self.tab = tab
        self.wrong = []
        self.asked = []
        tab.on("console", lambda told: self.wrong.append(told.text) if told.type in ("error", "warning") else None)
        tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        tab.on("request", lambda request: self.asked.append(request.url))
        tab.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))

    def shown(self):
        """Ids of the tests that are shown, in order."""
        return self.tab.eval_on_selector_all(
            "#table > tbody:not([hidden])", "found => found.map(each => each.querySelector('.c-test').dataset.sort)"
        )

    def status(self):
        return self.tab.text_content("#shown")


@pytest.fixture
def opened(chromium, pages):
    contexts = []

    def open_page(name, width=WIDE, scheme="light", hash="", javascript=True):
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, java_script_enabled=javascript
        )
        contexts.append(context)
        found = Opened(context.new_page())
        found.tab.goto(f"file://{pages[name]}{hash}")
        return found

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("name", ["few", "large", "clean", "empty"])
def test_it_opens_from_disk_without_network_and_errors(opened, pages, name):
    found = opened(name)

    assert found.wrong == []
    assert {url for url in found.asked if not url.startswith("data:")} == {f"file://{pages[name]}"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("name", ["few", "clean", "empty"])
def test_nothing_overflows_and_axe_finds_nothing_serious(opened, axe, name, width, scheme):
    found = opened(name, width, scheme)
    keep(found.tab, f"{name}-{width}-{scheme}")

    found.tab.evaluate(OPEN)
    assert found.tab.evaluate("document.documentElement.scrollWidth") == width
    beyond = found.tab.evaluate(
        """width => [...document.querySelectorAll('body *')].filter(each => {
            const box = each.getBoundingClientRect();
            return box.width > 1 && box.right > width + 0.5 && !each.closest('.scroll, .sprite, svg');
        }).map(each => each.outerHTML.slice(0, 120))""",
        width,
    )
    assert beyond == []
    keep(found.tab, f"{name}-{width}-{scheme}-open")
    found.tab.evaluate(axe)  # not as a <script>: the page's policy runs none but its own
    told = found.tab.evaluate("axe.run(document, {resultTypes: ['violations']})")
    bad = [(each["id"], [node["target"] for node in each["nodes"]][:3], each["nodes"][0]["failureSummary"])
           for each in told["violations"] if each["impact"] in ("serious", "critical")]  # fmt: skip
    assert bad == []


def keep(tab, name):
    folder = os.environ.get("BERTOLOGY_SCREENSHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tab.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_text_of_a_data_set_is_text(opened):
    found = opened("few")
    found.tab.evaluate(OPEN)

    assert found.tab.title().startswith(("1", "2", "3", "4", "5", "6", "7", "8", "9"))
    assert found.tab.locator("script").count() == 1
    assert found.tab.locator("img").count() == 0
    assert "<script>document.title" in found.tab.text_content("#table")
    assert "\\x1b[31m\\u202e" in found.tab.text_content("#table")
    assert found.wrong == []


def test_it_filters_by_outcome_check_model_and_text_and_says_how_many(opened):
    found = opened("large")
    everything = found.shown()

    found.tab.check("input[value=inconclusive]", force=True)
    unclear = found.shown()
    found.tab.select_option("select[name=check]", "bertology_baseline.check")
    baselines = found.shown()
    found.tab.fill("input[name=q]", "test_gate[1")
    words = found.shown()

    assert len(everything) == 500
    assert len(everything) > len(unclear) > len(baselines) > len(words) > 0
    assert found.status() == f"{len(words)} of 500 rows shown"
    assert all("baselines" in name and "[1" in name for name in words)
    found.tab.fill("input[name=q]", "there is no such word")
    assert found.shown() == []
    assert found.tab.is_visible("#nothing")
    found.tab.click("#reset")
    assert found.shown() == everything


@pytest.mark.parametrize(("key", "read"), [("observed", float), ("score", float), ("model", str), ("test", str)])
def test_each_column_sorts_both_ways_by_keyboard(opened, key, read):
    found = opened("large")
    head = found.tab.locator(f"th[data-key={key}]")
    value = f"rows => rows.map(row => row.querySelector('.c-{key}').dataset.sort)"

    head.locator("button").focus()
    found.tab.keyboard.press("Enter")
    up = [read(each) for each in found.tab.eval_on_selector_all("tbody.check", value) if each]
    direction = head.get_attribute("aria-sort")
    found.tab.keyboard.press("Space")
    down = [read(each) for each in found.tab.eval_on_selector_all("tbody.check", value) if each]

    if key == "test":
        up, down = ([int(each.partition("[")[2][:-1]) for each in names if "pruning" in each] for names in (up, down))
    assert direction == "ascending"
    assert head.get_attribute("aria-sort") == "descending"
    assert found.tab.locator("th[aria-sort]").count() == 1
    assert up == sorted(up)
    assert down == sorted(down, reverse=True)
    assert len(up) > 100


def test_the_worst_stand_first(opened):
    found = opened("large")

    outcomes = found.tab.eval_on_selector_all("tbody.check", "rows => rows.map(row => row.dataset.outcome)")

    order = ["failed", "error", "inconclusive", "skipped", "passed"]
    assert list(dict.fromkeys(outcomes)) == order
    assert outcomes == sorted(outcomes, key=order.index)


def test_the_address_keeps_filter_and_order(opened):
    first = opened("large")
    first.tab.check("input[value=failed]", force=True)
    first.tab.select_option("select[name=model]", "release/llama-260k")
    first.tab.click("th[data-key=observed] button")
    first.tab.click("th[data-key=observed] button")
    address = first.tab.evaluate("location.hash")

    again = opened("large", hash=address)

    assert again.shown() == first.shown()
    assert 0 < len(again.shown()) < 100
    assert again.tab.get_attribute("th[data-key=observed]", "aria-sort") == "descending"
    assert again.tab.is_checked("input[value=failed]")


def test_colours_follow_the_system_and_the_button(opened):
    found = opened("few", scheme="dark")
    found.tab.evaluate(OPEN)
    found.tab.wait_for_selector("figure.drawn")
    ground = "getComputedStyle(document.body).backgroundColor"
    letters = "getComputedStyle(document.querySelector('figure.drawn svg')).color"
    dark, dark_letters = found.tab.evaluate(ground), found.tab.evaluate(letters)

    found.tab.click("#theme")

    assert found.tab.evaluate(ground) != dark
    assert found.tab.evaluate(letters) != dark_letters
    assert opened("few").tab.evaluate(ground) == found.tab.evaluate(ground)


def test_without_scripts_everything_can_be_read(opened):
    found = opened("few", javascript=False)

    assert found.tab.locator("tbody.check").count() == 13
    assert found.tab.locator("#filters").is_hidden()
    assert found.tab.locator("#theme").is_hidden()
    closed = found.tab.locator("tbody.check > tr > td > details").last
    assert closed.get_attribute("open") is None
    closed.locator("summary").first.click()
    assert closed.locator("h3").first.is_visible()
    assert closed.locator("figure").first.is_visible()


def test_equal_figures_are_stored_once_and_shown_wherever_they_belong(opened):
    found = opened("few")
    found.tab.evaluate(OPEN)

    assert found.tab.locator("symbol[id^=p-]").count() < found.tab.locator("figure.drawn").count() == 13
    boxes = found.tab.eval_on_selector_all("figure.drawn > svg", "all => all.map(each => each.getBBox().width)")
    assert min(boxes) > 100
    ids = found.tab.eval_on_selector_all("[id]", "all => all.map(each => each.id)")
    assert len(ids) == len(set(ids))


def test_500_checks_are_small_and_soon_there(opened, pages):
    assert pages["large"].stat().st_size < 5_000_000

    times = []
    for _ in range(5):  # the machine may be busy with other things
        tab = opened("large").tab
        times.append(tab.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))

    print("interactive after", [round(each) for each in times], "ms;", pages["large"].stat().st_size, "bytes")
    assert min(times) < 1000
