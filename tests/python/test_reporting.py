# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import moptcore
import pytest
from moptcore.core import Coverage
from moptcore.evaluation import Evaluation, Latency
from moptcore.reporting import Check, Curve, report

pytest.importorskip("jinja2")
pytest.importorskip("plotly")

ATTACKS = [
    "<img src=x onerror=\"document.documentElement.dataset.attacked='img'\">",
    "</script><script>document.documentElement.dataset.attacked='script'</script>",
    "<!--<script>",
    "]]><svg onload=\"document.documentElement.dataset.attacked='svg'\">",
    '"><iframe src="javascript:parent.document.documentElement.dataset.attacked=\'frame\'">',
    "<a href=\"javascript:document.documentElement.dataset.attacked='a'\">click</a>",
    "{{ 7 * 7 }}{% raw %}",
    "' onmouseover=alert(1) x='",
    "\u2028\u2029<style>@import url(http://example.org/x.css);</style>",
]


def evaluation(accuracy: float, size: int | None, p50: float | None) -> Evaluation:
    latency = Latency(p50, 2 * p50, 3 * p50, 10) if p50 else None
    return Evaluation(accuracy, 0.5, 1000, 200, size, size, latency)


def write(path: Path, name: str = "small", **arguments) -> str:
    models = {"large": evaluation(0.8, 4000, 0.2), name: evaluation(0.6, 1000, 0.1)}
    return report(path / "report.html", models, **arguments).read_text("utf-8")


def filled(path: Path, texts: list[str]) -> Path:
    """A report with each of the texts in every field that takes text."""
    models = {text: evaluation(0.5, 1000, 0.1) for text in texts}
    curves = [Curve(text, {text: ([0, 1], [0.5, 1.0])}, phases=[(text, 0, 1)]) for text in texts]
    report(
        path / "report.html",
        models,
        title=" ".join(texts),
        subtitle=" ".join(texts),
        curves=curves,
        checks=[Check(text, text, text, False) for text in texts],
        coverage=[
            Coverage(text, text, text, True, text, {text: text}, {text: text * 2}) for text in texts
        ],
        settings={text: text for text in texts},
        notes=texts,
    )
    return path / "report.html"


class Elements(html.parser.HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
            self.inside = True

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "script"


def test_the_headline_compares_what_was_asked(tmp_path: Path) -> None:
    page = write(tmp_path)
    for figure in ("4.0\u00d7", "75.0 %", "80.0 %", "2.0\u00d7"):  # size, accuracy, zeros, latency
        assert f'<div class="figure">{figure}</div>' in page
    page = write(tmp_path, baseline="small", compressed="large")
    assert '<div class="label">larger</div>' in page
    assert '<div class="label">slower</div>' in page


def test_figures_not_measured_are_left_out(tmp_path: Path) -> None:
    models = {"a": evaluation(0.5, None, None), "b": evaluation(0.5, None, None)}
    page = report(tmp_path / "r.html", models).read_text("utf-8")
    assert page.count('class="card"') == 2
    charts = json.loads(Elements(page).scripts[0])
    assert [chart["title"] for chart in charts] == ["Accuracy, %"]


def test_charts_carry_the_figures_and_no_nan(tmp_path: Path) -> None:
    curve = Curve("loss", {"train": ([0, 1, 2], [1.0, float("nan"), 0.5])})
    charts = json.loads(Elements(write(tmp_path, curves=[curve])).scripts[0])
    assert charts[-1]["data"][0]["y"] == [1.0, None, 0.5]
    assert charts[1]["data"][0]["x"] == [4.0, 1.0]  # kB


def test_only_hashed_scripts_may_run_and_nothing_is_loaded(tmp_path: Path) -> None:
    page = write(tmp_path)
    elements = Elements(page)
    policy = next(
        attrs["content"] for tag, attrs in elements.found
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )  # fmt: skip
    assert policy.startswith("default-src 'none';")
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert "unsafe-eval" not in policy
    for text in elements.scripts[1:]:
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    for _, attrs in elements.found:
        assert "src" not in attrs
        assert attrs.get("href", "data:,") == "data:,"
    assert "@import" not in page.split("<style>")[1].split("</style>")[0]


def test_names_never_become_markup(tmp_path: Path) -> None:
    elements = Elements(filled(tmp_path, ATTACKS).read_text("utf-8"))
    plain = Elements(filled(tmp_path, ["plain"]).read_text("utf-8"))
    assert {tag for tag, _ in elements.found} == {tag for tag, _ in plain.found}
    assert len(elements.scripts) == len(plain.scripts) == 3
    for _, attrs in elements.found:
        assert not [name for name in attrs if name.startswith("on")]
    assert any(ATTACKS[0] in str(chart["title"]) for chart in json.loads(elements.scripts[0]))


def test_bad_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one evaluation, got none"):
        moptcore.report(tmp_path / "r.html", {})
    with pytest.raises(ValueError, match="baseline must be one of large, small, got 'tiny'"):
        write(tmp_path, baseline="tiny")
    assert not list(tmp_path.iterdir())


def test_without_plotly_the_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['plotly'] = None\n"
        "from moptcore import report\nfrom moptcore.evaluation import Evaluation\n"
        "report('r.html', {'a': Evaluation(1.0, 0.0, 1, 1)})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs plotly, install it with: pip install 'moptcore[report]'" in done.stderr


def test_a_browser_draws_it_offline_without_errors(tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("neither chromium nor google-chrome is installed")
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--v=0", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--dump-dom",
            filled(tmp_path, ATTACKS).as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    # CONSOLE holds script errors, failed requests and what the policy refused.
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    root = re.search(r"<html[^>]*>", done.stdout)
    assert root is not None
    assert 'data-charts="drawn"' in root[0]
    assert "attacked" not in root[0]
    assert done.stdout.count('class="main-svg"') >= len(ATTACKS)
