"""The report: safe to open, complete, the same numbers in every form, and readable."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore.data import from_arrays, load
from dlcore.scaling import drawing, grid, page, style
from dlcore.scaling.learners import choose
from dlcore.scaling.metrics import METRICS
from dlcore.scaling.outlook import exchange, outlooks
from dlcore.scaling.runs import Result
from dlcore.scaling.study import Outcome, Study
from dlcore.scaling.summary import Summary

HOSTILE = "<script>alert(1)</script> & \"quotes\" 'too' $x_1$ </svg>"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """What a browser would make of it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag != "style")


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    study = Study(
        load("digits"),
        sizes=[4, 16],
        learners=["relu", "sigmoid", "logistic"],
        seeds=2,
        m=[40, 80],
        store=folder / "study.db",
    )
    study.run()
    study.report(folder / "report.html")
    return study, folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    random = np.random.default_rng(0)
    y = np.where(np.arange(200) % 9, HOSTILE, "rare")
    data = from_arrays(random.normal(size=(200, 2)), y, name=HOSTILE)
    study = Study(data, sizes=[4], seeds=1, m=[20], store=folder / "study.db")
    study.run()
    study.report(folder / "report.html")
    return folder


def page_of(folder) -> Page:
    return Page((folder / "report.html").read_text("utf-8"))


@pytest.mark.parametrize("kind", ["studied", "hostile"])
def test_nothing_runs_and_nothing_is_fetched(kind, request):
    made = request.getfixturevalue(kind)
    folder = made[1] if isinstance(made, tuple) else made
    page = page_of(folder)
    names = {tag for tag, _ in page.tags}
    assert not names & {
        "script",
        "iframe",
        "object",
        "embed",
        "link",
        "img",
        "image",
        "base",
        "form",
    }
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "xlink:href", "src", "srcset", "action", "data", "poster"):
                assert (value or "").startswith("#"), (tag, name, value)
            assert not re.search(r"url\((?!#)", value or ""), (tag, name, value)
    text = (folder / "report.html").read_text("utf-8")
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style and "@import" not in style
    assert "http:" not in text and "https:" not in text
    policy = next(a for t, a in page.tags if t == "meta" and a.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


@pytest.mark.parametrize("kind", ["studied", "hostile"])
def test_well_formed_with_unique_names(kind, request):
    made = request.getfixturevalue(kind)
    folder = made[1] if isinstance(made, tuple) else made
    page = page_of(folder)
    assert page.open == [] and page.unbalanced == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {v[1:] for _, a in page.tags for k, v in a.items() if k.endswith("href") and v}
    text = (folder / "report.html").read_text("utf-8")
    used |= set(re.findall(r"url\(#([^)]*)\)", text))
    assert used and used <= set(ids)


def test_texts_from_data_are_shown_and_not_obeyed(hostile):
    page = page_of(hostile)
    assert f"dlcore study of {HOSTILE}" in page.text()
    assert "rare 23" in page.text()  # the note on unequal classes lists class names
    assert HOSTILE not in (hostile / "report.html").read_text("utf-8")


@pytest.fixture(scope="module")
def findings(studied):
    return studied[0].findings()


ODD = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from("<>&\"'`=/;\0\n"), max_size=40
)
TEXTS = ODD | st.sampled_from(
    [
        *("</style><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<!-- ", "]]>"),
        *('" onload="alert(1)', "javascript:alert(1)", "&lt;b&gt;", "</title><base href=//x>"),
        *("<svg/onload=alert(1)>", "<style>*{}</style>", "{{7*7}}", "<iframe srcdoc='<script>'>"),
    ]
)


@given(name=TEXTS, first=TEXTS, second=TEXTS, note=TEXTS, failure=TEXTS, how=TEXTS)
@settings(max_examples=100)
def test_no_text_changes_what_the_page_is(findings, name, first, second, note, failure, how):
    """Tags and attributes are those of a page with harmless texts, and the texts are shown."""

    def rendered(name, classes, note, failure, how):
        data = replace(findings.summary.data, name=name, classes=classes, notes=(note,))
        summary = replace(
            findings.summary, data=data, split=replace(findings.summary.split, how=how)
        )
        outcome = Outcome(0, 0, 0, (failure,), "", 1.0)
        study = SimpleNamespace(
            outcome=outcome,
            **{part: getattr(findings.study, part) for part in ("runs", "m", "seeds")},
        )
        parts = replace(findings, study=study, summary=summary, drawings=())
        return Page(page.page(parts)), Page(page.fragment(parts))

    plain = rendered("a", ("b", "c"), "d", "e", "f")
    odd = rendered(name, (first, second), note, failure, how)
    for one, other in zip(plain, odd, strict=True):
        assert one.tags == other.tags and other.unbalanced == [] == other.open
    shown = " ".join(odd[0].text().split())
    for text in (name, note, failure):
        # A parser puts another sign in the place of a null and of a line's end.
        wanted = " ".join(text.replace("\r", "\n").split())
        assert wanted in shown or "\0" in text


def test_results_show_themselves_in_notebooks(studied):
    study = studied[0]
    curve = study.curves["relu-16"]
    for shown, words in (
        (curve._repr_html_(), "ReLU 16"),
        (study.advice._repr_html_(), study.advice.sentence),
        (Outcome(3, 1, 2, (HOSTILE,), "budget", 4.0)._repr_html_(), "2 (budget)"),
    ):
        parsed = Page(shown)
        assert parsed.unbalanced == [] == parsed.open and words in parsed.text()
        assert {tag for tag, _ in parsed.tags} == {
            *("table", "caption", "thead", "tbody", "tr", "th", "td"),
        }
    assert f"{curve.value[-1]:.3g}" in curve._repr_html_()


def test_every_figure_has_its_sentence_and_a_text_for_those_who_cannot_see(studied):
    page = page_of(studied[1])
    count = sum(tag == "figure" for tag, _ in page.tags)
    assert count == 7
    assert sum(tag == "figcaption" for tag, _ in page.tags) == count
    drawn = [a for t, a in page.tags if t == "svg"]
    assert len(drawn) == count
    assert all(a["role"] == "img" and a["aria-label"].endswith(".") for a in drawn)
    words = " ".join(data for tag, data in page.texts if tag == "text")
    assert "logistic regression" in words and "labelled examples (m)" in words
    assert "$" not in words  # no formula mark-up in place of numbers


def test_what_is_on_top_and_below(studied):
    study, folder = studied
    page = page_of(folder)
    assert study.advice.sentence in page.text()
    assert page.text().count(study.advice.sentence) == 1
    headings = [data for tag, data in page.texts if tag == "h2"]
    assert headings == [
        "Error against labelled examples",
        "ReLU networks by size",
        "Sigmoid networks by size",
        "What the last doubling of data gave",
        "Error against network size",
        "Sigmoid networks: data and size together",
        "Error against cost",
        "Every learner",
        "Settings and cost",
        "Gradient health",
        "Warnings",
        "How it was done",
    ]
    for words in (
        "used once per run",
        "0.0003, 0.001, 0.003, 0.01, the same for every size and activation",
        "m counts every label",
        "same seed, same bits",
    ):
        assert words in page.text(), words


def test_the_same_numbers_in_every_form(studied):
    study, folder = studied
    content = json.loads((folder / "report.json").read_text())
    assert content["complete"] is True and len(content["runs"]) == len(study.runs) == 20
    with open(folder / "report.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    shown = page_of(folder).text()
    for line in lines:
        point = next(p for p in content["curves"][line["learner"]] if p["m"] == int(line["m"]))
        runs = [
            run["score"]
            for run in content["runs"]
            if run["learner"] == line["learner"] and run["m"] == int(line["m"])
        ]
        assert float(line["error"]) == point["value"] == pytest.approx(np.mean(runs))
        assert float(line["low"]) == point["low"] and float(line["se"]) == point["error"]
        half = 50 * (point["high"] - point["low"])
        assert f"{100 * point['value']:.1f}\N{PLUS-MINUS SIGN}{half:.1f}" in shown
    assert content["advice"]["sentence"] == study.advice.sentence


def test_colours_are_the_pages_own(studied):
    text = (studied[1] / "report.html").read_text("utf-8")
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert not re.search(r"#[0-9a-fA-F]{6}\b", drawn), "a colour that dark mode cannot change"
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", drawn))
    assert {"--ink", "--faint", "--series-0", "--series-1", "--series-2", "--font"} <= used
    for name in used:
        assert f"{name}:" in text, name


def luminance(color: str) -> float:
    parts = [int(color[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_read_on_paper_and_in_the_dark():
    """Labels are drawn in the curves' colours: WCAG asks 4.5 : 1 of texts."""
    sheet = style.style_sheet()
    paper = re.findall(r"--paper:(#[0-9a-f]{6})", sheet)
    assert len(paper) == 3 and paper[2] == paper[0]  # light, dark, print
    for colors, ground in ((drawing.LIGHT, paper[0]), (drawing.DARK, paper[1])):
        for color in colors:
            assert contrast(color, ground) >= 4.5, (color, ground)
    assert len(set(drawing.LIGHT)) == len(set(drawing.DARK)) == 8


def test_colour_blind_readers_can_tell_the_families():
    """The first four colours stay apart for red- and green-blind eyes (Vienot et al. 1999)."""
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    kinds = {
        "protan": np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]]),
        "deutan": np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]]),
    }
    for colors in (drawing.LIGHT[:4], drawing.DARK[:4]):
        rgb = np.array([[int(c[k : k + 2], 16) / 255 for k in (1, 3, 5)] for c in colors]) ** 2.2
        for seen in kinds.values():
            eyes = rgb @ to_lms.T @ seen.T @ np.linalg.inv(to_lms).T
            eyes = np.clip(eyes, 0, 1) ** (1 / 2.2)
            apart = [np.linalg.norm(eyes[i] - eyes[j]) for i in range(4) for j in range(i)]
            assert min(apart) > 0.1


def test_notebook_fragment_styles_nothing_else(studied):
    shown = studied[0]._repr_html_()
    style = shown[shown.index("<style>") + 7 : shown.index("</style>")]
    rules = re.findall(r"(?:^|[}\n])([^{}@]+)\{", re.sub(r"@media[^{]*\{", "", style))
    for rule in rules:
        for part in rule.split(","):
            assert part.strip().startswith(".dlcore-report"), part
    assert Page(shown).unbalanced == []


def test_empty_study_has_a_fragment_and_a_table():
    study = Study(load("digits"), seeds=1, store=":memory:")
    assert "no finished run yet" in study._repr_html_()
    assert study.table() == "no finished run yet"


def test_table_fits_the_terminal(studied):
    study = studied[0]
    assert max(map(len, study.table(100).splitlines()[1:])) <= 100
    narrow = study.table(34).splitlines()
    assert max(map(len, narrow[1:])) <= 34 and "80" in narrow[1] and "40" not in narrow[1]


def test_two_writings_are_the_same_bytes(studied, tmp_path):
    study, folder = studied
    study.report(tmp_path / "report.html")
    for name in ("report.html", "report.csv", "report.json"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


def test_labels_keep_their_distance_and_order():
    random = np.random.default_rng(0)
    for _ in range(100):
        wanted = random.uniform(0, 50, 7)
        placed = np.array(drawing._apart(list(wanted), 10))
        order = np.argsort(wanted)
        assert (np.diff(placed[order]) >= 10 - 1e-9).all()
    assert drawing._apart([0, 100, 200], 10) == [0, 100, 200]
    assert drawing._apart([0, 0], 10) == [-5, 5]


CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_opened_in_a_browser(studied, tmp_path):
    """No console message, and nothing asked of the network by the page."""
    log = tmp_path / "net.json"
    page = tmp_path / "page.html"
    page.write_text((studied[1] / "report.html").read_text("utf-8"), "utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *(f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}", "--v=0"),
            *("--disable-background-networking", "--no-first-run", "--window-size=500,2000"),
            *(f"--screenshot={tmp_path / 'shot.png'}", page.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    assert (tmp_path / "shot.png").stat().st_size > 20_000
    asked = set(re.findall(r'"url":"(https?:[^"]*)"', log.read_text()))
    # The browser's own services ask for the time and for updates; a page could not hide there.
    assert all(re.match(r"https?://[a-z0-9.-]*\.(google|googleapis|gvt1)\.com/", u) for u in asked)


def made_up(name: str, sizes: dict[int, float], seeds: int = 3) -> list[Result]:
    """Runs of a learner with given errors at each m."""
    facts = {"seconds": 1.0, "train_seconds": 0.5, "flops": None, "notes": [], "value": 0.1}
    facts |= {"epochs": None, "parameters": 10 * int(name.partition("-")[2] or 0) or None}
    made = []
    for m, error in sizes.items():
        for seed in range(seeds):
            wrong = np.zeros(10_000, np.float32)
            wrong[: round(error * 10_000) + 3 * seed] = 1
            run = grid.Run(name, m, seed, {})
            made.append(Result(run, float(wrong.mean()), 0.0, wrong, facts))
    return made


def summary_of(*results: list[Result]) -> Summary:
    chosen = choose(
        ["logistic", "relu-4", "relu-16", "relu-64"], [], "classification", METRICS["error"]
    )
    data = load("digits")
    return Summary.of(itertools.chain(*results), data, grid.split(data), METRICS["error"], chosen)


def test_forecasts_follow_the_curves_and_doubt_is_no_number():
    sizes = [50 * 2**k for k in range(8)]
    smooth = {m: 0.02 + 2 * m**-0.6 for m in sizes}
    broken = {m: (0.3, 0.3, 0.3, 0.29, 0.3, 0.2, 0.1, 0.02)[k] for k, m in enumerate(sizes)}
    summary = summary_of(made_up("relu-4", smooth), made_up("logistic", broken))
    found = outlooks(summary, summary.curves(), ["relu-4", "logistic"])
    ahead = found["relu-4"].points
    assert [point.m for point in ahead] == [12800, 25600]
    value, low, high = ahead[0].span
    assert low <= 0.02 + 2 * 12800**-0.6 <= high and low < value < high
    assert 0.8 < found["relu-4"].coverage < 1
    doubt = found["logistic"]
    assert doubt.reasons and doubt.points[1].span is None
    table = page._forecast_table(summary, found)
    assert "undetermined" in table and doubt.reasons[0] in unescape(table)
    assert f"{100 * value:.2f} %" in table
    card = page._forecast_card(summary, found["relu-4"])
    assert card[0] == "More data: 12,800" and card[1] == f"{100 * value:.2f} % forecast"
    short = summary_of(made_up("relu-4", {50: 0.5, 100: 0.4}))
    assert outlooks(short, short.curves(), ["relu-4"]) == {}


def test_data_or_size_follows_what_limits_the_networks():
    sizes = (50, 200, 800, 3200)

    def world(by_size: float, by_data: float) -> Summary:
        return summary_of(
            *(
                made_up(
                    f"relu-{n}", {m: 0.01 + by_size * n**-0.5 + by_data * m**-0.5 for m in sizes}
                )
                for n in (4, 16, 64)
            )
        )

    for summary, answer in ((world(0.01, 3.0), "more_data"), (world(0.8, 0.1), "larger_network")):
        found = exchange(summary, summary.curves(), "relu-64")
        assert (found.answer, found.m, found.parameters) == (answer, 3200, 640)
        _, word, detail = page._exchange_card(found)
        assert word.lower().replace(" ", "_").removeprefix("a_") == answer
        gains = "examples" if answer == "more_data" else "parameters"
        assert f"doubling the {gains} gains more" in detail
    assert exchange(summary, summary.curves(), None) is None
    few = summary_of(made_up("relu-4", {m: 0.2 for m in sizes}))
    assert exchange(few, few.curves(), "relu-4") is None


def test_figures_as_files_of_their_own(studied, tmp_path):
    study = studied[0]
    study.report(tmp_path / "r.html", figures_to=tmp_path / "f")
    drawn = sorted((tmp_path / "f").iterdir())
    assert [path.stem for path in drawn] == [
        *("cost", "data", "networks-relu", "networks-sigmoid", "sizes", "steps", "surface")
    ]
    for path in drawn:
        root = xml.etree.ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg" and "viewBox" in root.attrib
        text = path.read_text("utf-8")
        used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text))
        assert all(f"{name}:" in text for name in used)
        assert "prefers-color-scheme:dark" in text


def test_gradient_health_is_that_of_the_last_training(studied):
    study = studied[0]
    for result in study.store.results(study.runs):
        layers = result.facts["layers"]
        if result.facts["epochs"] is None:
            assert layers == []
            continue
        assert [layer["layer"] for layer in layers] == ["0", "2"]
        assert all(layer["gradient_norm"] > 0 for layer in layers)
        kind = "dead" if result.run.learner.startswith("relu") else "saturated"
        assert 0 <= layers[0][kind] <= 1 and layers[1][kind] is None
    shown = Page(page._health_table(study.summary()))
    assert "Sigmoid 16" in shown.text() and "logistic" not in shown.text()
    cells = [data for tag, data in shown.texts if tag == "td"]
    assert cells.count("hidden") == cells.count("output") == 4  # every layer of every network
