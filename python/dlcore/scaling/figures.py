"""The figures of a report: what each shows, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dlcore.scaling.drawing import (
    DASHES,
    FAINT,
    INK,
    MARKERS,
    PAPER,
    Drawing,
    color_of,
    draw_ahead,
    draw_band,
    draw_line,
    end_labels,
    error_axis,
    m_axis,
    marker_of,
    new_figure,
    plain_log,
    point_labels,
    style_of,
    svg_of,
)
from dlcore.scaling.learners import ACTIVATIONS
from dlcore.scaling.outlook import Outlook
from dlcore.scaling.summary import Advice, Curve, Summary


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
        if advice.best_network is not None and len(summary.sizes) > 1:
            family = curves[advice.best_network].learner.family
            if len(by_size[family]) > 1:
                found.append(_surface(summary, by_size[family]))
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
    with new_figure("data") as (figure, axes):
        labels = []
        for curve in shown:
            style = style_of(curve, shown)
            labels.append(draw_line(axes, curve, style, summary.metric.percent))
            draw_band(axes, curve, style, summary.metric.percent)
            if curve.learner.name in forecasts:
                end = draw_ahead(axes, curve, forecasts[curve.learner.name], style, summary)
                if end is not None:
                    ahead, labels[-1] = True, end
        m_axis(axes, summary, end=max(label[0] for label in labels))
        error_axis(axes, summary)
        end_labels(axes, labels)
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
        "data", "Error against labelled examples", svg_of(figure, "data", sentence), sentence
    )


def _network_curves(
    summary: Summary, family: str, group: Sequence[Curve], whole: Sequence[Curve]
) -> Drawing:
    kind = ACTIVATIONS[family][0]
    name = f"networks-{family}"
    with new_figure(name) as (figure, axes):
        labels = []
        for curve in group:
            m, value, _, color = draw_line(
                axes, curve, style_of(curve, group), summary.metric.percent
            )
            text = " x ".join(map(str, curve.learner.hidden))
            labels.append((m, value, f"{text} units" if curve is group[-1] else text, color))
        # One scale for the networks of every kind, so that their figures can be compared.
        values = np.concatenate([curve.value for curve in whole])
        factor = 100 if summary.metric.percent else 1
        if values.min() > 0:
            axes.set_ylim(factor * values.min() / 1.15, factor * values.max() * 1.15)
        m_axis(axes, summary)
        error_axis(axes, summary)
        end_labels(axes, labels)
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
    return Drawing(name, f"{kind} networks by size", svg_of(figure, name, sentence), sentence)


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
    with new_figure("steps", height=0.9 + 0.3 * len(steps)) as (figure, axes):
        margin = factor * advice.margin
        axes.axvspan(-margin, margin, color=FAINT, alpha=0.35, linewidth=0)
        axes.axvline(0, color=INK, linewidth=0.8)
        for row, taken in enumerate(reversed(steps)):
            words[taken.verdict].insert(0, summary.learners[taken.learner].label)
            color = color_of(summary.learners[taken.learner].family)
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
    return Drawing("steps", title, svg_of(figure, "steps", sentence), sentence)


def _size_curves(
    summary: Summary, advice: Advice, groups: Mapping[str, Sequence[Curve]]
) -> Drawing:
    largest = max((m for m in summary.sizes if m <= advice.m), default=advice.m)
    chosen = [m for m in summary.sizes if m <= largest][::-2][:3]
    parts = []
    with new_figure("sizes") as (figure, axes):
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
                    color=color_of(family),
                    linestyle=DASHES[rank],
                    marker=MARKERS[list(groups).index(family)],
                    markersize=4.5,
                    linewidth=1.8 - 0.3 * rank,
                )
                labels.append(
                    (count[-1], value[-1], f"{ACTIVATIONS[family][0]}, m = {m:,}", color_of(family))
                )
                if rank == 0:
                    low = int(np.argmin(value))
                    kind = ACTIVATIONS[family][0]
                    parts.append(f"the {kind} networks are best with {count[low]:,} parameters")
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        axes.set_xlabel("parameters")
        error_axis(axes, summary)
        end_labels(axes, labels)
    sentence = f"With {chosen[0]:,} examples " + " and ".join(parts) + "."
    return Drawing(
        "sizes", "Error against network size", svg_of(figure, "sizes", sentence), sentence
    )


def _surface(summary: Summary, group: Sequence[Curve]) -> Drawing:
    """The error of every size at every m, darker where it is higher."""
    from matplotlib.patches import Rectangle

    kind = ACTIVATIONS[group[0].learner.family][0]
    group = sorted(group, key=lambda curve: curve.points[0].parameters or 0)
    cells = [(row, p) for row, curve in enumerate(group) for p in curve.points]
    values = np.array([p.estimate.value for _, p in cells])
    # Errors span decades: shades follow their logarithms where there are any.
    scale = np.log(values) if (values > 0).all() else values
    shades = (scale - scale.min()) / (np.ptp(scale) or 1.0)
    column = {m: k for k, m in enumerate(summary.sizes)}
    name = "surface"
    with new_figure(name, height=1.1 + 0.36 * len(group)) as (figure, axes):
        for (row, point), shade in zip(cells, shades, strict=True):
            at = column[point.m]
            color = color_of(group[0].learner.family)
            axes.add_patch(
                Rectangle(
                    (at - 0.5, row - 0.5),
                    1,
                    1,
                    facecolor=color,
                    alpha=0.06 + 0.38 * float(shade),
                    edgecolor=PAPER,
                    linewidth=1,
                )
            )
            text = summary.number(point.estimate.value)
            axes.text(at, row, text, ha="center", va="center", fontsize=8.5)
        axes.set_xlim(-0.5, len(column) - 0.5)
        axes.set_ylim(-0.5, len(group) - 0.5)
        axes.set_xticks(range(len(column)), [f"{m:,}" for m in column])
        labels = [" x ".join(map(str, curve.learner.hidden)) for curve in group]
        axes.set_yticks(range(len(group)), labels)
        axes.tick_params(length=0)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_xlabel("labelled examples (m)")
        axes.set_ylabel("hidden units")
    low, high = cells[int(values.argmin())], cells[int(values.argmax())]
    unit = " in %" if summary.metric.percent else ""
    sentence = (
        f"Each cell is the {summary.metric.label}{unit} of a {kind} network, a mean over seeds: "
        f"lowest, {summary.amount(low[1].estimate.value)}, for {group[low[0]].learner.label} with "
        f"{low[1].m:,} examples; highest, {summary.amount(high[1].estimate.value)}, for "
        f"{group[high[0]].learner.label} with {high[1].m:,}."
    )
    return Drawing(
        name, f"{kind} networks: data and size together", svg_of(figure, name, sentence), sentence
    )


def _cost(summary: Summary, advice: Advice, curves: Mapping[str, Curve]) -> Drawing:
    places = []
    factor = 100 if summary.metric.percent else 1
    top = summary.top()
    with new_figure("cost") as (figure, axes):
        labels = []
        for name, curve in curves.items():
            point = next((p for p in curve.points if p.m == top.get(name)), None)
            if point is None:
                continue
            color = color_of(curve.learner.family)
            error = factor * point.estimate.value
            low, high = point.estimate.low, point.estimate.high
            if low is not None and high is not None:
                axes.plot(
                    [point.seconds] * 2, [factor * low, factor * high], color=color, alpha=0.4
                )
            axes.plot([point.seconds], [error], marker_of(curve.learner.family), color=color)
            labels.append((point.seconds, error, curve.learner.label, color))
            places.append((point.seconds, name))
        axes.set_xscale("log")
        plain_log(axes.xaxis)
        axes.set_xlabel("seconds of one run, tries included")
        error_axis(axes, summary, log=False)
        axes.margins(x=0.08)
        point_labels(axes, labels)
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
    return Drawing("cost", "Error against cost", svg_of(figure, "cost", sentence), sentence)


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


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _seconds(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.2g} ms"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
