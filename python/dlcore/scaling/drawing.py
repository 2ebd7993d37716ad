"""How figures are drawn: matplotlib's SVG, made to live inside an HTML page.

Colours are CSS variables of the page, so one drawing serves light, dark and print; a curve is told
by its label, marker and dashes too. Texts stay texts, in the page's own font.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore.scaling.outlook import Outlook
from dlcore.scaling.summary import Curve, Summary

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
MARKERS = "osD^vPX*"
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.2, 1.5)))


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


FAMILIES = ("relu", "sigmoid", "logistic", "svm", "boosting", "linear-svm", "tanh", "gelu")


def color_of(family: str) -> str:
    name = "logistic" if family == "ridge" else family
    return LIGHT[FAMILIES.index(name) if name in FAMILIES else 7]


def marker_of(family: str) -> str:
    return MARKERS[LIGHT.index(color_of(family))]


@dataclass(frozen=True)
class Style:
    color: str
    marker: str
    dashes: Any
    width: float


def style_of(curve: Curve, among: Sequence[Curve]) -> Style:
    family = [c for c in among if c.learner.family == curve.learner.family]
    rank = family[::-1].index(curve)  # the largest network is drawn solid
    color = color_of(curve.learner.family)
    shift = rank if len(family) > 1 else 0
    marker = MARKERS[(LIGHT.index(color) + 3 * shift) % len(MARKERS)]
    return Style(color, marker, DASHES[rank % len(DASHES)], 1.9 - 0.25 * min(rank, 3))


@contextmanager
def new_figure(name: str, height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
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


def svg_of(figure: Figure, name: str, description: str) -> str:
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


def draw_line(
    axes: Axes, curve: Curve, style: Style, percent: bool
) -> tuple[float, float, str, str]:
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


def draw_band(axes: Axes, curve: Curve, style: Style, percent: bool) -> None:
    factor = 100 if percent else 1
    spans = [(p.estimate.low, p.estimate.high) for p in curve.points]
    if any(low is None for low, _ in spans):
        return
    # A lower end of 0 has no place on a log scale: the band then runs to far below the curve.
    floor = factor * max(1e-12, float(curve.value.min()) / 4)
    low = [max(floor, factor * float(a or 0)) for a, _ in spans]
    high = [factor * float(b or 0) for _, b in spans]
    axes.fill_between(curve.m, low, high, color=style.color, alpha=0.13, linewidth=0)


def draw_ahead(
    axes: Axes, curve: Curve, forecast: Outlook, style: Style, summary: Summary
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


def m_axis(axes: Axes, summary: Summary, end: float = 0.0) -> None:
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


def error_axis(axes: Axes, summary: Summary, *, log: bool = True) -> None:
    if log and all(np.all(np.asarray(line.get_ydata()) > 0) for line in axes.lines):
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    unit = " (%)" if summary.metric.percent else ""
    axes.set_ylabel(f"{summary.metric.label}{unit}")


def plain_log(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 1.0
    subs: tuple[float, ...] = (1.0, 2.0, 5.0) if decades < 3 else (1.0,)
    if decades < 0.8:
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:g}"


def end_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
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


def point_labels(axes: Axes, labels: Sequence[tuple[float, float, str, str]]) -> None:
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
