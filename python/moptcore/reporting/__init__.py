# SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows what compression did; it opens offline."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import importlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from moptcore._core import Error, __version__

if TYPE_CHECKING:
    from moptcore.core import Coverage
    from moptcore.evaluation import Evaluation

__all__ = ["Check", "Curve", "report"]

_TIMES, _ARROW, _MICRO = "\u00d7", "\u2192", "\u00b5"
_REFERENCE, _RESULT, _OTHER = "#94a3b8", "#0f766e", "#cbd5e1"
_LINES = ("#0f766e", "#b45309", "#4338ca", "#be123c", "#0369a1", "#4d7c0f")


@dataclasses.dataclass(frozen=True)
class Check:
    """A goal in words, what was asked and what was measured."""

    goal: str
    asked: str
    measured: str
    passed: bool


@dataclasses.dataclass(frozen=True)
class Curve:
    """Lines over training steps: `series` maps a name to its steps and values.

    `kind` of a series is "line" or, for few measurements, "markers"; `phases` are
    (name, first step, last step) and shade the background; `percent` shows 0.8 as 80 %.
    """

    title: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    percent: bool = False
    phases: Sequence[tuple[str, float, float]] = ()
    markers: frozenset[str] = frozenset()


def report(
    path: str | os.PathLike[str],
    models: Mapping[str, Evaluation],
    *,
    title: str = "Compression report",
    subtitle: str = "",
    baseline: str | None = None,
    compressed: str | None = None,
    curves: Iterable[Curve] = (),
    checks: Sequence[Check] = (),
    coverage: Iterable[Coverage] = (),
    settings: Mapping[str, object] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Writes the report to `path` and returns it.

    `baseline` and `compressed` name the two models that the headline compares: by default the
    first and the last one. Nothing in the page is loaded from elsewhere, and names are text,
    never markup. Needs `pip install 'moptcore[report]'`.
    """
    where = "reporting.report"
    if not models:
        raise Error(f"[{where}] models must hold at least one evaluation, got none")
    names = list(models)
    first = _chosen(baseline, names[0], names, where, "baseline")
    last = _chosen(compressed, names[-1], names, where, "compressed")
    lines = [_lines(curve) for curve in curves]
    jinja2 = _needs("jinja2", where)
    plotly = _needs("plotly.offline", where).get_plotlyjs()
    room = resources.files("moptcore.reporting")
    script = (room / "page.js").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    # Markup: files of the package and of plotly, and JSON that cannot close its script element.
    markup = importlib.import_module("markupsafe").Markup
    page = environment.from_string((room / "page.html").read_text("utf-8")).render(
        title=title,
        subtitle=subtitle,
        version=__version__,
        headline=_headline(models[first], models[last], first),
        models=[
            _model_row(name, each, models[first], name in (first, last))
            for name, each in models.items()
        ],
        checks=checks,
        coverage=[_coverage_row(row) for row in coverage],
        settings=[(key, str(value)) for key, value in (settings or {}).items()],
        notes=notes,
        curves=bool(lines),
        style=markup((room / "page.css").read_text("utf-8")),
        scripts=[markup(text) for text in (plotly, script)],
        policy=_policy(plotly, script),
        charts=markup(_json(_bars(models, first, last) + lines)),
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(page, "utf-8")
    return target


def _needs(module: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"[{where}] needs {module.partition('.')[0]}, "
            "install it with: pip install 'moptcore[report]'"
        ) from error


def _chosen(name: str | None, default: str, names: Sequence[str], where: str, argument: str) -> str:
    if name is not None and name not in names:
        raise Error(f"[{where}] {argument} must be one of {', '.join(names)}, got {name!r}")
    return default if name is None else name


def _policy(*scripts: str) -> str:
    """A content security policy under which these scripts run and nothing else does."""
    hashes = (
        base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
        for text in scripts
    )
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _json(value: object) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _bytes(size: int | None) -> str:
    if size is None:
        return "-"
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _times(ratio: float, more: str, less: str, same: str) -> tuple[str, str]:
    """1.04 and its inverse are no difference that one run can tell."""
    if ratio >= 1.05:
        return f"{ratio:.1f}{_TIMES}", more
    if ratio <= 1 / 1.05:
        return f"{1 / ratio:.1f}{_TIMES}", less
    return f"1{_TIMES}", same


def _headline(before: Evaluation, after: Evaluation, name: str) -> list[dict[str, str]]:
    cards = []
    if before.size_bytes and after.size_bytes:
        figure, word = _times(before.size_bytes / after.size_bytes, "smaller", "larger", "the size")
        detail = f"{_bytes(before.size_bytes)} {_ARROW} {_bytes(after.size_bytes)} on disk"
        cards.append({"figure": figure, "label": word, "detail": detail})
    kept = after.accuracy / before.accuracy if before.accuracy else 1.0
    cards.append(
        {
            "figure": f"{100 * kept:.1f} %",
            "label": "of the accuracy",
            "detail": f"{_percent(before.accuracy)} {_ARROW} {_percent(after.accuracy)}",
        }
    )
    cards.append(
        {
            "figure": f"{100 * after.sparsity:.1f} %",
            "label": "zeros",
            "detail": f"{after.nonzeros:,} of {after.parameters:,} parameters are left",
        }
    )
    if before.latency and after.latency:
        figure, word = _times(
            before.latency.p50 / after.latency.p50, "faster", "slower", "the speed"
        )
        detail = f"{_time(before.latency.p50)} {_ARROW} {_time(after.latency.p50)} a sample, median"
        cards.append({"figure": figure, "label": word, "detail": detail})
    for card in cards:
        card["detail"] += f", against {name}" if card is cards[0] else ""
    return cards


def _time(milliseconds: float) -> str:
    if milliseconds < 1:
        return f"{1000 * milliseconds:.0f} {_MICRO}s"
    return f"{milliseconds:.2f} ms"


def _model_row(name: str, each: Evaluation, before: Evaluation, strong: bool) -> dict[str, object]:
    ratio = (
        f"{each.size_bytes / before.size_bytes:.3f}"
        if each.size_bytes and before.size_bytes
        else "-"
    )
    latency = [_time(p) for p in (each.latency.p50, each.latency.p99)] if each.latency else None
    return {
        "name": name,
        "strong": strong,
        "accuracy": _percent(each.accuracy),
        "loss": f"{each.loss:.4f}",
        "parameters": f"{each.parameters:,}",
        "sparsity": f"{100 * each.sparsity:.1f} %",
        "size": _bytes(each.size_bytes),
        "ratio": ratio,
        "gzip": _bytes(each.gzip_bytes),
        "p50": latency[0] if latency else "-",
        "p99": latency[1] if latency else "-",
    }


def _coverage_row(row: Coverage) -> dict[str, object]:
    changes = [
        f"{key} {_shown(row.before.get(key))} {_ARROW} {_shown(row.after[key])}"
        if key in row.before and row.before[key] != row.after[key]
        else f"{key} {_shown(row.after[key])}"
        for key in row.after
    ]
    return {
        "name": row.name,
        "kind": row.kind,
        "technique": row.technique,
        "done": row.done,
        "change": ", ".join(changes),
        "reason": row.reason,
    }


def _shown(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _bars(models: Mapping[str, Evaluation], first: str, last: str) -> list[dict[str, Any]]:
    """Before/after bars, one panel a figure; a panel without figures is left out."""
    panels: list[tuple[str, str, dict[str, float | None]]] = [
        ("Accuracy", "%", {n: 100 * e.accuracy for n, e in models.items()}),
        (
            "File size",
            "kB",
            {n: e.size_bytes / 1e3 if e.size_bytes else None for n, e in models.items()},
        ),
        (
            "Latency of one sample (median)",
            f"{_MICRO}s",
            {n: 1e3 * e.latency.p50 if e.latency else None for n, e in models.items()},
        ),
    ]
    colors = {first: _REFERENCE, last: _RESULT}
    charts = []
    for panel, unit, values in panels:
        shown = {name: value for name, value in values.items() if value is not None}
        if not shown:
            continue
        charts.append(
            {
                "group": "bars",
                "title": f"{panel}, {unit}",
                "data": [
                    {
                        "type": "bar",
                        "orientation": "h",
                        "y": [_plain(name) for name in shown],
                        "x": list(shown.values()),
                        "text": [
                            f"{value:,.2f}" if unit == "%" else f"{value:,.4g}"
                            for value in shown.values()
                        ],
                        "textposition": "auto",
                        "cliponaxis": False,
                        "marker": {"color": [colors.get(name, _OTHER) for name in shown]},
                        "hovertemplate": "%{y}: %{x:,.5g} " + unit + "<extra></extra>",
                    }
                ],
                "layout": {
                    "height": 60 + 38 * len(shown),
                    "yaxis": {"autorange": "reversed", "automargin": True},
                    "xaxis": {"rangemode": "tozero", "gridcolor": "#e2e8f0"},
                    "bargap": 0.28,
                },
            }
        )
    return charts


def _lines(curve: Curve) -> dict[str, Any]:
    shapes, labels = [], []
    for i, (name, begin, end) in enumerate(curve.phases):
        shapes.append(
            {
                "type": "rect",
                "xref": "x",
                "yref": "paper",
                "x0": begin,
                "x1": end,
                "y0": 0,
                "y1": 1,
                "layer": "below",
                "line": {"width": 0},
                "fillcolor": "#f1f5f9" if i % 2 == 0 else "#ffffff",
            }
        )
        labels.append(
            {
                "xref": "x",
                "yref": "paper",
                "x": (begin + end) / 2,
                "y": 1,
                "yanchor": "bottom",
                "text": _plain(name),
                "showarrow": False,
                "font": {"size": 12, "color": "#64748b"},
            }
        )
    data = []
    for i, (name, (steps, values)) in enumerate(curve.series.items()):
        data.append(
            {
                "type": "scatter",
                "mode": "markers" if name in curve.markers else "lines",
                "name": _plain(name),
                "x": [float(step) for step in steps],
                # JSON has no NaN; a gap in the line says the same.
                "y": [float(v) if abs(float(v)) < float("inf") else None for v in values],
                "cliponaxis": False,
                "line": {"color": _LINES[i % len(_LINES)], "width": 2},
                "marker": {
                    "color": _LINES[i % len(_LINES)],
                    "size": 9,
                    "line": {"color": "#ffffff", "width": 1.5},
                },
            }
        )
    # Markers at the last step would stretch an automatic range beyond the phases.
    span = [curve.phases[0][1], curve.phases[-1][2]] if curve.phases else None
    return {
        "group": "curves",
        "title": curve.title,
        "data": data,
        "layout": {
            "height": 290,
            "shapes": shapes,
            "annotations": labels,
            "hovermode": "x unified",
            "showlegend": len(data) > 1,
            "xaxis": {
                "title": {"text": "training step", "font": {"size": 12, "color": "#64748b"}},
                "gridcolor": "#e2e8f0",
                **({"range": span} if span else {}),
            },
            "yaxis": {
                "tickformat": ".0%" if curve.percent else "",
                "hoverformat": ".2%" if curve.percent else ".4f",
                "gridcolor": "#e2e8f0",
                "automargin": True,
            },
        },
    }


def _plain(name: str) -> str:
    """Plotly reads a little markup in texts; entities keep names what they are."""
    return html.escape(name, quote=False)
