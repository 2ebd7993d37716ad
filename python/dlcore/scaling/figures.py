"""The figures of a report: matplotlib's SVG, made to live inside an HTML page.

Colours are CSS variables of the page, so one drawing serves light, dark and print; a curve is told
by its label, marker and dashes too. Texts stay texts, in the page's own font.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore.scaling.learners import ACTIVATIONS
from dlcore.scaling.outlook import Outlook
from dlcore.scaling.summary import Advice, Curve, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Hues after Okabe and Ito, darkened for white paper and lightened for dark screens.
LIGHT = ("#0063a6", "#c04a00", "#007a59", "#a33f7a", "#6b6b6b", "#806600", "#3b4cc0", "#7a4a21")
DARK = ("#62b5f2", "#ff8f57", "#45d0a4", "#f29ccc", "#b9b9b9", "#e5c84c", "#9aa5ff", "#d3a27a")
INK, FAINT, PAPER = "#1a1c1f", "#c9ced6", "#fefefe"
_VARIABLES = {
    **{color: f"var(--series-{k})" for k, color in enumerate(LIGHT)},
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    PAPER: "var(--paper)",
}
COLORS = {
    scheme: "".join(f"--series-{k}:{color};" for k, color in enumerate(series)) + rest
    for scheme, series, rest in (
        ("light", LIGHT, f"--ink:{INK};--faint:{FAINT};--paper:{PAPER};"),
        ("dark", DARK, "--ink:#e8eaed;--faint:#434a54;--paper:#14171b;"),
    )
}
FONT = '--font:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;'
_FILE_STYLE = (
    f":root{{{COLORS['light']}{FONT}background:var(--paper);}}"
    f"@media (prefers-color-scheme:dark){{:root{{{COLORS['dark']}}}}}"
)
# Narrow on purpose: on a phone's 360 pixels the 9 point texts are still 9 pixels high.
WIDTH, HEIGHT = 4.7, 3.5
_MARKERS = "osD^vPX*"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)))


@dataclass(frozen=True)
class Drawing:
    """One figure of a report.

    Attributes
    ----------
    name : str
        Short, for file names.
    title : str
        Its heading.
    svg : str
        The drawing, ready to be put into HTML.
    sentence : str
        What it shows.
    """

    name: str
    title: str
    svg: str
    sentence: str

    def file(self) -> str:
        """The drawing as an SVG file of its own, with colours for light and dark."""
        head, rest = self.svg.split(">", 1)
        space = ' xmlns="http://www.w3.org/2000/svg" width="600"'
        return f"{head}{space}><style>{_FILE_STYLE}</style>{rest}\n"


def drawings(
    summary: Summary, advice: Advice, forecasts: Mapping[str, Outlook] | None = None
) -> list[Drawing]:
    """All figures that the finished runs allow.

    Parameters
    ----------
    summary : Summary
        The runs.
    advice : Advice
        What they say.
    forecasts : mapping of str to Outlook, optional
        Forecasts of learners, drawn where they are determined.

    Returns
    -------
    list of Drawing
    """
    curves = summary.curves()
    found = []
    if len(summary.sizes) > 1:
        found.append(_data_curves(summary, advice, curves, forecasts or {}))
        families = _networks_by_family(curves)
        if sum(map(len, families.values())) > 1:
            whole = [curve for group in families.values() for curve in group]
            found += [
                _network_curves(summary, family, group, whole) for family, group in families.items()
            ]
    if advice.steps and any(step.gain.low is not None for step in advice.steps.values()):
        found.append(_last_steps(summary, advice))
    by_size = _networks_by_family(curves)
    if any(len(group) > 1 for group in by_size.values()):
        found.append(_size_curves(summary, advice, by_size))
    found.append(_cost(summary, advice, curves))
    return found


# --------------------------------------------------------------------------------------------------
# Figures


def _data_curves(
    summary: Summary,
    advice: Advice,
    curves: Mapping[str, Curve],
    forecasts: Mapping[str, Outlook],
) -> Drawing:
    shown = [curves[name] for name in one_per_family(summary, curves)]
    ahead = False
    with _figure("data") as (figure, axes):
        labels = []
        for curve in shown:
            style = _style(curve, shown)
            labels.append(_line(axes, curve, style, summary.metric.percent))
            _band(axes, curve, style, summary.metric.percent)
            if curve.learner.name in forecasts:
                end = _ahead(axes, curve, forecasts[curve.learner.name], style, summary)
                if end is not None:
                    ahead, labels[-1] = True, end
        _m_axis(axes, summary, end=max(label[0] for label in labels))
        _error_axis(axes, summary)
        _end_labels(axes, labels)
    first, last = summary.sizes[0], summary.sizes[-1]
    best = curves[advice.best]
    names = ", ".join(curve.learner.label for curve in shown if curve.learner.is_network)
    sentence = (
        f"From {first:,} to {last:,} labelled examples, {best.learner.label} goes from "
        f"{summary.amount(best.points[0].estimate.value)} to "
        f"{summary.amount(best.points[-1].estimate.value)} {summary.metric.label}"
    )
    sentence += f"; guessing would give {summary.amount(advice.guess)}."
    if names:
        sentence += f" Of the networks, the best size of each kind is drawn ({names})."
    sentence += " Bands are 95 % intervals over seeds and held-out examples."
    if ahead:
        sentence += " Dotted lines are forecasts with 90 % intervals."
    return Drawing(
        "data", "Error against labelled examples", _svg(figure, "data", sentence), sentence
    )


def _network_curves(
    summary: Summary, family: str, group: Sequence[Curve], whole: Sequence[Curve]
) -> Drawing:
    kind = ACTIVATIONS[family][0]
    name = f"networks-{family}"
    with _figure(name) as (figure, axes):
        labels = []
        for curve in group:
            m, value, _, color = _line(axes, curve, _style(curve, group), summary.metric.percent)
            text = " x ".join(map(str, curve.learner.hidden))
            labels.append((m, value, f"{text} units" if curve is group[-1] else text, color))
        # One scale for the networks of every kind, so that their figures can be compared.
        values = np.concatenate([curve.value for curve in whole])
        factor = 100 if summary.metric.percent else 1
        if values.min() > 0:
            axes.set_ylim(factor * values.min() / 1.15, factor * values.max() * 1.15)
        _m_axis(axes, summary)
        _error_axis(axes, summary)
        _end_labels(axes, labels)
    small, large = group[0], group[-1]
    sentence = f"{small.learner.label} against labelled examples."
    if len(group) > 1:
        m = large.points[-1].m
        gain = summary.difference((small.learner.name, small.points[-1].m), (large.learner.name, m))
        word = "lower" if gain.value >= 0 else "higher"
        sentence = (
            f"With {m:,} examples the error of the largest {kind} network is "
            f"{summary.change(gain.value)} {word} than that of the smallest ({summary.span(gain)})."
        )
    return Drawing(name, f"{kind} networks by size", _svg(figure, name, sentence), sentence)


def _last_steps(summary: Summary, advice: Advice) -> Drawing:
    # Only learners that took the same step: one that stops at a smaller m took another.
    step = max(advice.steps.values(), key=lambda step: step.m_to)
    steps = [
        other
        for other in advice.steps.values()
        if other.gain.low is not None and (other.m_from, other.m_to) == (step.m_from, step.m_to)
    ]
    factor = 100 if summary.metric.percent else 1
    words: dict[str, list[str]] = {v: [] for v in ("helped", "flat", "hurt", "undecided")}
    with _figure("steps", height=0.9 + 0.3 * len(steps)) as (figure, axes):
        margin = factor * advice.margin
        axes.axvspan(-margin, margin, color=FAINT, alpha=0.35, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, taken in enumerate(reversed(steps)):
            words[taken.verdict].insert(0, summary.learners[taken.learner].label)
            color = _color(summary.learners[taken.learner].family)
            low, high = taken.gain.low, taken.gain.high
            assert low is not None and high is not None
            axes.plot([factor * low, factor * high], [row, row], color=color, linewidth=2)
            axes.plot([factor * taken.gain.value], [row], "o", color=color, markersize=6)
        axes.set_yticks(range(len(steps)))
        axes.set_yticklabels([summary.learners[s.learner].label for s in reversed(steps)])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.6, len(steps) - 0.4)
        unit = " (points)" if summary.metric.percent else ""
        axes.set_xlabel(f"fall of the {summary.metric.label}{unit}")
        axes.grid(visible=False, axis="y")
    doubling = abs(step.m_to / step.m_from - 2) < 0.05
    what = "The last doubling" if doubling else "The last step"
    told = [
        f"helped {_names(words['helped'])}" if words["helped"] else "",
        f"made no difference that matters to {_names(words['flat'])}" if words["flat"] else "",
        f"hurt {_names(words['hurt'])}" if words["hurt"] else "",
        f"is undecided for {_names(words['undecided'])}" if words["undecided"] else "",
    ]
    sentence = (
        f"{what} of the data, {step.m_from:,} to {step.m_to:,} examples, "
        + ", ".join(part for part in told if part)
        + ". Lines are 95 % intervals, the grey band is "
        + f"{summary.change(advice.margin)} either way."
    )
    title = "What the last doubling of data gave" if doubling else "What the last step in data gave"
    return Drawing("steps", title, _svg(figure, "steps", sentence), sentence)


def _size_curves(
    summary: Summary, advice: Advice, groups: Mapping[str, Sequence[Curve]]
) -> Drawing:
    largest = max((m for m in summary.sizes if m <= advice.m), default=advice.m)
    chosen = [m for m in summary.sizes if m <= largest][::-2][:3]
    parts = []
    with _figure("sizes") as (figure, axes):
        labels = []
        for family, group in groups.items():
            for rank, m in enumerate(chosen):
                points = [
                    (p.parameters, p.estimate)
                    for curve in group
                    for p in curve.points
                    if p.m == m and p.parameters
                ]
                if len(points) < 2:
                    continue
                points.sort(key=lambda pair: pair[0] or 0)
                factor = 100 if summary.metric.percent else 1
                count = [p[0] for p in points]
                value = [factor * p[1].value for p in points]
                axes.plot(
                    count,
                    value,
                    color=_color(family),
                    linestyle=_DASHES[rank],
                    marker=_MARKERS[list(groups).index(family)],
                    markersize=4.5,
                    linewidth=1.8 - 0.3 * rank,
                )
                labels.append(
                    (count[-1], value[-1], f"{ACTIVATIONS[family][0]}, m = {m:,}", _color(family))
                )
                if rank == 0:
                    low = int(np.argmin(value))
                    kind = ACTIVATIONS[family][0]
                    parts.append(f"the {kind} networks are best with {count[low]:,} parameters")
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.set_xlabel("parameters")
        _error_axis(axes, summary)
        _end_labels(axes, labels)
    sentence = f"With {chosen[0]:,} examples " + " and ".join(parts) + "."
    return Drawing("sizes", "Error against network size", _svg(figure, "sizes", sentence), sentence)


def _cost(summary: Summary, advice: Advice, curves: Mapping[str, Curve]) -> Drawing:
    places = []
    factor = 100 if summary.metric.percent else 1
    top = summary.top()
    with _figure("cost") as (figure, axes):
        labels = []
        for name, curve in curves.items():
            point = next((p for p in curve.points if p.m == top.get(name)), None)
            if point is None:
                continue
            color = _color(curve.learner.family)
            error = factor * point.estimate.value
            low, high = point.estimate.low, point.estimate.high
            if low is not None and high is not None:
                axes.plot(
                    [point.seconds] * 2, [factor * low, factor * high], color=color, alpha=0.4
                )
            axes.plot([point.seconds], [error], _marker(curve.learner.family), color=color)
            labels.append((point.seconds, error, curve.learner.label, color))
            places.append((point.seconds, name))
        axes.set_xscale("log")
        _plain_log(axes.xaxis)
        axes.set_xlabel("seconds of one run, tries included")
        _error_axis(axes, summary, log=False)
        axes.margins(x=0.08)
        _point_labels(axes, labels)
    places.sort()
    cheapest, dearest = places[0], places[-1]
    sentence = (
        f"At the largest m, one run with its tries takes {_seconds(cheapest[0])} for "
        f"{summary.learners[cheapest[1]].label} and {_seconds(dearest[0])} for "
        f"{summary.learners[dearest[1]].label}, on one core."
    )
    if len(places) == 1:
        sentence = (
            f"One run of {summary.learners[cheapest[1]].label} with its tries takes "
            f"{_seconds(cheapest[0])} on one core."
        )
    return Drawing("cost", "Error against cost", _svg(figure, "cost", sentence), sentence)


# --------------------------------------------------------------------------------------------------
# Which curves, in which style


def one_per_family(summary: Summary, curves: Mapping[str, Curve]) -> list[str]:
    """Every other learner, and of each kind of network the size that is best at the end."""
    top = summary.top()

    def at_top(curve: Curve) -> float:
        m = top.get(curve.learner.name)
        return next((p.estimate.value for p in curve.points if p.m == m), np.inf)

    shown = [name for name, curve in curves.items() if not curve.learner.is_network]
    for group in _networks_by_family(curves).values():
        shown.append(min(group, key=at_top).learner.name)
    return shown


def _networks_by_family(curves: Mapping[str, Curve]) -> dict[str, list[Curve]]:
    groups: dict[str, list[Curve]] = {}
    for curve in curves.values():
        if curve.learner.is_network:
            groups.setdefault(curve.learner.family, []).append(curve)
    return groups


_FAMILIES = ("relu", "sigmoid", "logistic", "svm", "boosting", "linear-svm", "tanh", "gelu")


def _color(family: str) -> str:
    name = "logistic" if family == "ridge" else family
    return LIGHT[_FAMILIES.index(name) if name in _FAMILIES else 7]


def _marker(family: str) -> str:
    return _MARKERS[LIGHT.index(_color(family))]


@dataclass(frozen=True)
class _Style:
    color: str
    marker: str
    dashes: Any
    width: float


def _style(curve: Curve, among: Sequence[Curve]) -> _Style:
    family = [c for c in among if c.learner.family == curve.learner.family]
    rank = family[::-1].index(curve)  # the largest network is drawn solid
    color = _color(curve.learner.family)
    shift = rank if len(family) > 1 else 0
    marker = _MARKERS[(LIGHT.index(color) + 3 * shift) % len(_MARKERS)]
    return _Style(color, marker, _DASHES[rank % len(_DASHES)], 1.9 - 0.25 * min(rank, 3))


# --------------------------------------------------------------------------------------------------
# Drawing


@contextmanager
def _figure(name: str, height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    # Not pyplot: a figure made here must not appear in the caller's notebook or need a display.
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.labelsize": 9,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "text.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.5,
        "axes.axisbelow": True,
        "lines.markersize": 5,
        "text.parse_math": False,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.subplots()
        _render(figure)


def _render(figure: Figure) -> None:
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    figure._dlcore_svg = out.getvalue()  # type: ignore[attr-defined]


def _svg(figure: Figure, name: str, description: str) -> str:
    """Make matplotlib's file a part of a page: no header, own ids, the page's colours."""
    text: str = figure._dlcore_svg  # type: ignore[attr-defined]
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = text.replace("url(#", f"url(#{name}-")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, variable)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--font)", text)
    text = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    head = (
        f'<svg {box.group()} role="img" aria-label="{html.escape(description, quote=True)}" '
        'preserveAspectRatio="xMidYMid meet">'
    )
    return head + text[text.index(">") + 1 :].strip()


def _line(axes: Axes, curve: Curve, style: _Style, percent: bool) -> tuple[float, float, str, str]:
    factor = 100 if percent else 1
    m, value = curve.m, factor * curve.value
    axes.plot(
        m,
        value,
        color=style.color,
        marker=style.marker,
        linestyle=style.dashes,
        linewidth=style.width,
        markersize=4.5,
        markeredgewidth=0,
    )
    return float(m[-1]), float(value[-1]), curve.learner.label, style.color


def _band(axes: Axes, curve: Curve, style: _Style, percent: bool) -> None:
    factor = 100 if percent else 1
    spans = [(p.estimate.low, p.estimate.high) for p in curve.points]
    if any(low is None for low, _ in spans):
        return
    # A lower end of 0 has no place on a log scale: the band then runs to far below the curve.
    floor = factor * max(1e-12, float(curve.value.min()) / 4)
    low = [max(floor, factor * float(a or 0)) for a, _ in spans]
    high = [factor * float(b or 0) for _, b in spans]
    axes.fill_between(curve.m, low, high, color=style.color, alpha=0.13, linewidth=0)


def _ahead(
    axes: Axes, curve: Curve, forecast: Outlook, style: _Style, summary: Summary
) -> tuple[float, float, str, str] | None:
    """Continue a curve by what is forecast; its new end, or None where nothing is."""
    factor = 100 if summary.metric.percent else 1
    last = curve.points[-1]
    m, value, low, high = [last.m], *([factor * last.estimate.value] for _ in range(3))
    for point in forecast.points:
        if point.span is None:
            break
        m.append(point.m)
        for part, found in zip((value, low, high), point.span, strict=True):
            part.append(factor * found)
    if len(m) == 1:
        return None
    axes.plot(m, value, color=style.color, linestyle=":", linewidth=1.6)
    floor = factor * float(curve.value.min()) / 4
    low = [max(found, floor) for found in low]
    axes.fill_between(m, low, high, color=style.color, alpha=0.13, linewidth=0)
    return m[-1], value[-1], curve.learner.label, style.color


def _m_axis(axes: Axes, summary: Summary, end: float = 0.0) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    sizes: list[float] = list(summary.sizes)
    if end > sizes[-1]:
        sizes.append(end)
    # A label needs room: keep every size that is far enough from the one kept before, from the top.
    kept: list[float] = []
    reach = np.log(sizes[-1] / sizes[0]) / 6.5
    for m in reversed(sizes):
        if not kept or np.log(kept[-1] / m) >= reach:
            kept.append(m)
    axes.xaxis.set_major_locator(FixedLocator(kept))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("labelled examples (m)")


def _error_axis(axes: Axes, summary: Summary, *, log: bool = True) -> None:
    if log and all(np.all(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_yscale("log")
        _plain_log(axes.yaxis)
    unit = " (%)" if summary.metric.percent else ""
    axes.set_ylabel(f"{summary.metric.label}{unit}")


def _plain_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 1.0
    subs = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def _end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names at the ends of lines, moved apart where they would overlap."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # places the axes, so that distances are known
    positions = [float(axes.transData.transform((x, y))[1]) for x, y, _, _ in labels]
    gap = 11.5 * figure.dpi / 72
    placed = _apart(positions, gap)
    right = max((x for x, _, _, _ in labels), default=1.0)
    for (_, y, text, color), wanted, place in zip(labels, positions, placed, strict=True):
        axes.annotate(
            text,
            (right, y),
            xytext=(8, (place - wanted) * 72 / figure.dpi),
            textcoords="offset points",
            color=color,
            va="center",
            annotation_clip=False,
        )


def _apart(positions: Sequence[float], gap: float) -> list[float]:
    """Nearest places in the same order that keep a distance (pool adjacent violators)."""
    order = np.argsort(positions, kind="stable")
    blocks: list[list[float]] = []  # mean of (position - rank * gap), members
    for rank, k in enumerate(order):
        blocks.append([positions[k] - rank * gap, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, count = blocks.pop()
            blocks[-1][0] = (blocks[-1][0] * blocks[-1][1] + mean * count) / (blocks[-1][1] + count)
            blocks[-1][1] += count
    places = [mean for mean, count in blocks for _ in range(int(count))]
    found = [0.0] * len(positions)
    for rank, k in enumerate(order):
        found[k] = places[rank] + rank * gap
    return found


def _point_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
    """Write names beside points, where no other name or point is."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    scale = figure.dpi / 72
    points = [axes.transData.transform((x, y)) for x, y, _, _ in labels]
    taken = [(px - 4 * scale, py - 4 * scale, px + 4 * scale, py + 4 * scale) for px, py in points]
    frame = axes.get_window_extent()
    middle = (frame.x0 + frame.x1) / 2
    for (x, y, text, color), (px, py) in zip(labels, points, strict=True):
        wide, high = _width(text) * scale, 10 * scale
        choices = [
            (offset, left)
            for offset in (0, 11, -11, 22, -22, 33, -33, 44, -44, 55, -55)
            for left in ((True, False) if px > middle else (False, True))
        ]
        for offset, left in choices:
            start = px - wide - 7 * scale if left else px + 7 * scale
            low = py + offset * scale - high / 2
            box = (start, low, start + wide, low + high)
            inside = frame.x0 <= start and start + wide <= frame.x1
            if inside and not any(_overlap(box, other) for other in taken):
                break
        taken.append(box)
        axes.annotate(
            text,
            (x, y),
            xytext=(-7 if left else 7, offset),
            textcoords="offset points",
            color=color,
            va="center",
            ha="right" if left else "left",
            annotation_clip=False,
        ).set_in_layout(False)


def _width(text: str) -> float:
    """Points that a label is wide; the page's own font is narrower than this one."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=9).get_extents().width)


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
