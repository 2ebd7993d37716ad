"""The report's page: one static HTML file, readable on a phone, in the dark and in print.

Inline SVG, no script, nothing fetched. Every text that comes from data passes through
:func:`html.escape`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from dlcore.scaling.baselines import LONGEST, RESTART
from dlcore.scaling.drawing import Drawing
from dlcore.scaling.estimates import LEVEL
from dlcore.scaling.learners import ACTIVATIONS, LEARNING_RATES, TRAINING
from dlcore.scaling.outlook import FACTORS, Exchange, Outlook
from dlcore.scaling.style import style_sheet
from dlcore.scaling.summary import Advice, Summary, cell
from dlcore.scaling.work import machine

if TYPE_CHECKING:
    from dlcore.scaling.report import Findings
    from dlcore.scaling.study import Study

# What a run may note, in words; the codes are what the JSON file and the store hold.
NOTES = {
    "not_converged": "The solver stopped at its limit of iterations",
    "at_epoch_limit": "A try with the chosen learning rate still improved at its longest length",
    "at_grid_edge": "The chosen setting is mostly the smallest or largest of those tried",
    "class_missing": "The subset lacks a class, which could not be predicted then",
    "one_class": "The subset has one class only, which is then always predicted",
}


def page(findings: Findings) -> str:
    """The whole HTML file.

    Parameters
    ----------
    findings : Findings
        What it shows.

    Returns
    -------
    str
    """
    title = f"{findings.summary.data.name}: would more data or a larger network help?"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>\n{style_sheet()}</style>\n</head>\n<body>\n"
        f"{_body(findings)}</body>\n</html>\n"
    )


def fragment(findings: Findings) -> str:
    """The page's content for a notebook's cell, with its style kept to itself.

    Parameters
    ----------
    findings : Findings
        What it shows.

    Returns
    -------
    str
    """
    style = style_sheet(".dlcore-report")
    return f'<style>{style}</style><div class="dlcore-report">{_body(findings)}</div>'


def _body(findings: Findings) -> str:
    study, summary, advice = findings.study, findings.summary, findings.advice
    shapes = "".join(_figure(drawing) for drawing in findings.drawings)
    return (
        f"<header><p class='kicker'>dlcore study of {escape(summary.data.name)}</p>\n"
        "<h1>Would more data, or a larger network, help?</h1>\n"
        f"<p class='answer'>{escape(advice.sentence)}</p>"
        f"{_paragraph(findings.ahead(), 'ahead')}</header>\n<main>\n"
        f"{_unfinished(findings)}{_cards(findings)}"
        f"<section class='figures' aria-label='Figures'>{shapes}</section>\n"
        f"{_error_table(summary, advice)}{_forecast_table(summary, findings.forecasts)}"
        f"{_learner_table(summary)}{_health_table(summary)}{_notes(study, summary)}"
        f"{_method(study, summary, advice)}</main>\n"
    )


def _paragraph(text: str, kind: str) -> str:
    return f"<p class='{kind}'>{escape(text)}</p>" if text else ""


def _unfinished(findings: Findings) -> str:
    left, count = findings.left, len(findings.study.runs)
    if not left:
        return ""
    return (
        f"<p class='notice' role='note'>Not complete: {left:,} of {count:,} runs are "
        "still to be made. Started again with the same settings, the study goes on where it "
        "stopped.</p>\n"
    )


def _cards(findings: Findings) -> str:
    summary, advice, forecasts = findings.summary, findings.advice, findings.forecasts
    best = summary.learners[advice.best].label
    found = advice.estimate
    interval = "one seed, no interval"
    if found.low is not None and found.high is not None:
        low, high = (100 * v if summary.metric.percent else v for v in (found.low, found.high))
        unit = " %" if summary.metric.percent else ""
        interval = f"95 % interval {low:.2g} to {high:.2g}{unit}"
    cards = [
        (
            "Best now",
            best,
            f"{summary.amount(found.value)} {summary.metric.label} at m = {advice.m:,}; {interval}",
        )
    ]
    step = advice.steps.get(advice.best)
    if step is not None:
        word = {
            "helped": "It still helped",
            "flat": "It no longer mattered",
            "hurt": "It hurt",
            "undecided": "Undecided",
        }[step.verdict]
        sign = "\N{MINUS SIGN}" if step.gain.value >= 0 else "+"
        fall = summary.change(step.gain.value)
        cards.append(
            (
                f"More data: {step.m_from:,} to {step.m_to:,}",
                word,
                f"error of {best} {sign}{fall}; {summary.span(step.gain)}",
            )
        )
    if advice.network and advice.network_gain is not None:
        word = {
            "worth it": "Worth it",
            "better": "Better, about as much as matters",
            "not worth it": "Not worth it",
            "undecided": "Undecided",
        }[advice.network]
        network = summary.label_at_top(advice.best_network or "")
        other = summary.label_at_top(advice.best_other or "")
        span = summary.span(advice.network_gain)
        cards.append(
            (
                "A network?",
                word,
                f"{network} gains {_plus(summary, advice.network_gain.value)} on {other}; {span}",
            )
        )
    if advice.best in forecasts:
        cards.append(_forecast_card(summary, forecasts[advice.best]))
    if findings.exchange is not None:
        cards.append(_exchange_card(findings.exchange))
    ladder = "simplest first: linear models, trees, SVM, then networks by size"
    cards.append(
        (
            "Simplest that suffices",
            summary.learners[advice.simplest].label,
            f"shown to be within {summary.change(advice.margin)} of the best (5 % risk); {ladder}",
        )
    )
    inside = "".join(
        f"<div class='card'><p class='what'>{escape(what)}</p><p class='word'>{escape(word)}</p>"
        f"<p class='detail'>{escape(detail)}</p></div>"
        for what, word, detail in cards
    )
    return f"<section class='cards' aria-label='The answer in short'>{inside}</section>\n"


def _forecast_card(summary: Summary, forecast: Outlook) -> tuple[str, str, str]:
    point = forecast.points[0]
    what = f"More data: {point.m:,}"
    if point.span is None:
        return what, "No forecast", "; ".join(forecast.reasons) or "the data do not tell"
    value, (low, high) = summary.amount(point.span[0]), map(summary.number, point.span[1:])
    held = f"such intervals held {100 * forecast.coverage:.0f} % of the curves they were checked on"
    label = summary.learners[forecast.learner].label
    unit = " %" if summary.metric.percent else ""
    return what, f"{value} forecast", f"{label}; 90 % interval {low} to {high}{unit} ({held})"


def _exchange_card(found: Exchange) -> tuple[str, str, str]:
    word = {
        "more_data": "More data",
        "larger_network": "A larger network",
        "at_floor": "Neither",
        "undecided": "Undecided",
    }[found.answer]
    kind = ACTIVATIONS[found.family][0]
    data = found.probability >= 0.5
    sure = found.probability if data else 1 - found.probability
    detail = (
        f"{kind} networks at m = {found.m:,}, {found.parameters:,} parameters: doubling the "
        f"{'examples' if data else 'parameters'} gains more than doubling the "
        f"{'parameters' if data else 'examples'}, probability {min(sure, 0.99):.2f}"
    )
    return "Data or size, for a network", word, "; ".join([detail, *found.reasons])


def _forecast_table(summary: Summary, forecasts: Mapping[str, Outlook]) -> str:
    if not forecasts:
        return ""
    unit = " %" if summary.metric.percent else ""
    head = ["learner", *(f"m x {factor}" for factor in FACTORS), "what makes it doubtful"]
    rows = []
    for name, forecast in forecasts.items():
        cells = [summary.learners[name].label]
        for point in forecast.points:
            if point.span is None:
                cells.append("undetermined")
            else:
                value, low, high = map(summary.number, point.span)
                cells.append(f"{value}{unit} ({low} to {high}) at {point.m:,}")
        rows.append(([*cells, "; ".join(forecast.reasons) or "\N{EM DASH}"], ""))
    held = 100 * next(iter(forecasts.values())).coverage
    text = (
        "Forecasts of the error on the same held-out examples, with 90 % intervals; such "
        f"intervals held {held:.0f} % of the later points of curves that had no part in their "
        "calibration. Where a number would mislead there is none."
    )
    return _table("What more data would bring", text, head, rows, wrap=True)


def _plus(summary: Summary, value: float) -> str:
    return ("" if value >= 0 else "\N{MINUS SIGN}") + summary.change(value)


def _figure(drawing: Drawing) -> str:
    return (
        f"<figure><h2>{escape(drawing.title)}</h2>{drawing.svg}"
        f"<figcaption>{escape(drawing.sentence)}</figcaption></figure>\n"
    )


def _error_table(summary: Summary, advice: Advice) -> str:
    curves = summary.curves()
    unit = " (%)" if summary.metric.percent else ""
    head = ["learner", *(f"{m:,}" for m in summary.sizes)]
    rows = []
    for name, curve in curves.items():
        by_m = {p.m: p.estimate for p in curve.points}
        cells = [
            cell(by_m[m], summary.metric.percent) if m in by_m else "\N{EM DASH}"
            for m in summary.sizes
        ]
        rows.append(([curve.learner.label, *cells], "best" if name == advice.best else ""))
    text = (
        f"{summary.metric.label.capitalize()}{unit} at every number of labelled examples: mean "
        "over seeds \N{PLUS-MINUS SIGN} half of its 95 % interval."
    )
    return _table("Every learner", text, head, rows)


def _learner_table(summary: Summary) -> str:
    top = summary.top()
    rows = []
    for name, curve in summary.curves().items():
        point = next((p for p in curve.points if p.m == top.get(name)), None)
        if point is None:
            continue
        results = list(summary.results[name, point.m].values())
        values = Counter(result.facts["value"] for result in results)
        chosen = ", ".join(
            f"{v:g}" + (f" ({c}x)" if c > 1 else "") for v, c in values.most_common()
        )
        epochs = [r.facts["epochs"] for r in results if r.facts["epochs"] is not None]
        rows.append(
            (
                [
                    curve.learner.label,
                    f"{point.m:,}",
                    f"{curve.learner.setting}: {chosen}",
                    f"{min(epochs)}-{max(epochs)}" if epochs else "\N{EM DASH}",
                    "\N{EM DASH}" if point.parameters is None else f"{point.parameters:,}",
                    "\N{EM DASH}" if point.flops is None else _engineering(point.flops),
                    _short(point.train_seconds),
                    _short(point.seconds),
                ],
                "",
            )
        )
    head = [
        *("learner", "m", "chosen setting (by seeds)", "epochs", "parameters", "FLOPs"),
        *("training, s", "run with tries, s"),
    ]
    text = (
        "Each learner at its largest m; seconds are medians on one core, FLOPs those of the last "
        "training."
    )
    return _table("Settings and cost", text, head, rows)


def _health_table(summary: Summary) -> str:
    top = summary.top()
    rows = []
    for name, m in top.items():
        layers = [r.facts.get("layers") for r in summary.results[name, m].values()]
        seen = [found for found in layers if found]
        for k in range(len(seen[0]) if seen else 0):
            last = k == len(seen[0]) - 1
            place = "output" if last else f"hidden {k + 1}" if len(seen[0]) > 2 else "hidden"
            against = [
                found[k]["gradient_norm"] / found[-1]["gradient_norm"]
                for found in seen
                if found[k]["gradient_norm"] is not None and found[-1]["gradient_norm"]
            ]
            rows.append(
                (
                    [
                        summary.learners[name].label if k == 0 else "",
                        place,
                        _median([found[k]["gradient_norm"] for found in seen]),
                        f"{np.median(against):.2g}" if against else "\N{EM DASH}",
                        _median([found[k]["update_ratio"] for found in seen]),
                        _median([found[k]["dead"] for found in seen], percent=True),
                        _median([found[k]["saturated"] for found in seen], percent=True),
                    ],
                    "",
                )
            )
    if not rows:
        return ""
    head = [
        *("network", "layer", "gradient", "of the output's", "update / weight"),
        *("dead units", "saturated units"),
    ]
    text = (
        "Each network at its largest m, medians over seeds, layer by layer: norm of the gradient "
        "in the first epoch, the same as a multiple of the output layer's (far below 1, gradients "
        "vanish on their way), and the size of an update beside that of the weights; hidden units "
        "that never answer, or answer at the end of their range, in the last epoch."
    )
    return _table("Gradient health", text, head, rows)


def _median(values: Sequence[float | None], *, percent: bool = False) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "\N{EM DASH}"
    return f"{100 * np.median(known):.2g} %" if percent else f"{np.median(known):.2g}"


def _short(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 10 else f"{seconds:,.0f}"


def _engineering(value: float) -> str:
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {unit}"
    return f"{value:g}"


def _table(
    title: str,
    text: str,
    head: Sequence[str],
    rows: Iterable[tuple[Sequence[str], str]],
    *,
    wrap: bool = False,
) -> str:
    out = [
        f"<section><h2>{escape(title)}</h2><p>{escape(text)}</p>",
        f"<div class='scroll'><table{' class=wrap' if wrap else ''}><thead><tr>",
    ]
    out += [f"<th scope='col'>{escape(cell)}</th>" for cell in head]
    out.append("</tr></thead><tbody>")
    for cells, kind in rows:
        mark = f" class='{kind}'" if kind else ""
        out.append(f"<tr{mark}><th scope='row'>{escape(cells[0])}</th>")
        out += [f"<td>{escape(cell)}</td>" for cell in cells[1:]]
        out.append("</tr>")
    out.append("</tbody></table></div></section>\n")
    return "".join(out)


def _noted(summary: Summary, name: str, code: str) -> str:
    """In how many runs of a learner, and at which m, something was noted."""
    cells = {m: found for (k, m), found in sorted(summary.results.items()) if k == name}
    runs = sum(len(found) for found in cells.values())
    where = {
        m: sum(code in result.facts["notes"] for result in found.values())
        for m, found in cells.items()
    }
    count = sum(where.values())
    # A choice at the grid's edge now and then is chance; most of the time it is the grid.
    if not count or (code == "at_grid_edge" and count <= runs / 2):
        return ""
    at = [f"{m:,}" for m, found in where.items() if found]
    place = "" if len(at) == len(where) else f", m = {', '.join(at)}"
    return f"{summary.learners[name].label} ({count} of {runs} runs{place})"


def _notes(study: Study, summary: Summary) -> str:
    lines = [*summary.data.notes]
    for learner in summary.learners.values():
        if learner.limit is not None and any(m > learner.limit for m in study.m):
            lines.append(
                f"{learner.label} is run up to m = {learner.limit:,} only, because its cost grows "
                "faster than m."
            )
    for code, words in NOTES.items():
        noted = [text for name in summary.learners if (text := _noted(summary, name, code))]
        if noted:
            lines.append(f"{words}: {'; '.join(noted)}.")
    if study.outcome is not None:
        lines += [f"Failed: {text}." for text in study.outcome.failed]
    if len(study.seeds) == 1:
        lines.append("With a single seed no interval can be given; use --seeds 5.")
    if len(study.seeds) == 2:
        lines.append("Two seeds say little of how seeds differ: the intervals are wide.")
    inside = "".join(f"<li>{escape(line)}</li>" for line in lines) or "<li>None.</li>"
    return f"<section><h2>Warnings</h2><ul>{inside}</ul></section>\n"


def _solvers(summary: Summary) -> list[str]:
    if "logistic" not in summary.learners:
        return []
    return [
        (
            f"Logistic regression: at most {LONGEST} iterations; where these take more than about a "
            f"second the solver begins anew every {RESTART}, from where it is."
        )
    ]


def _method(study: Study, summary: Summary, advice: Advice) -> str:
    data, split = summary.data, summary.split
    where = machine()
    several = any(len(cell) > 1 for cell in summary.results.values())
    prepared = (
        "Pixels are multiplied by a constant."
        if data.scale is not None
        else "Every number column is brought to mean 0 and deviation 1, text columns become 0/1 "
        "columns; means, deviations and categories come from the rows of each training alone."
    )
    if not data.classes:
        prepared += " The target is brought to mean 0 and deviation 1 for training."
    rates = ", ".join(f"{rate:g}" for rate in sorted(LEARNING_RATES))
    shape = " x ".join(map(str, data.x.shape[1:]))
    predicts = f"{len(data.classes)} classes" if data.classes else "predicting a quantity"
    lines = [
        f"Data: {data.name}, {len(data.y):,} examples of shape {shape}, {predicts}.",
        f"Held out: {split.how}; the same for every learner, used once per run, after all choices.",
        (
            "m counts every label a learner sees, those it tunes and stops on included. "
            f"{len(study.seeds)} seeds; each draws its own subsets, the smaller inside the larger"
            + (", every class in proportion." if data.classes else ".")
        ),
        (
            "Tuning: every learner tries four values of its one setting (networks the learning "
            f"rates {rates}, the same for every size and activation; the others their penalty or "
            "rate), judged on a fifth of the m labels, or on up to five folds where a fifth is "
            "fewer than 50 labels; then it is trained once with the best value on all m."
        ),
        *_solvers(summary),
        (
            "Networks: dense layers, Adam, batches of {batch_size}, tries of at most {steps:,} "
            "steps or {epochs} epochs, whichever is longer, at a constant learning rate; they stop "
            "after {patience_steps} steps (at least {patience_epochs} epochs) without a lower "
            "validation loss. The last training, which has no labels left to stop by, takes twice "
            "the epochs of the best try while its learning rate falls to zero along a cosine."
        ).format(**TRAINING),
        prepared,
        (
            f"Intervals ({100 * LEVEL:.0f} %) add the chance of the seeds and of the held-out "
            "examples; learners are compared on the same seeds and examples; several comparisons "
            f"with the best by Holm's procedure. Differences below {summary.change(advice.margin)} "
            "count as none that matters."
        ),
    ]
    if max(study.m) == len(split.pool) and several:
        lines.append(
            f"At m = {max(study.m):,} all seeds have the same examples, so the interval there does "
            "not hold the chance of having drawn these."
        )
    lines.append(
        f"Machine: {where['system']} {where['processor']}, Python {where['python']}, NumPy "
        f"{where['numpy']}, dlcore {where['dlcore']} ({where['kernels']}); one core per run; same "
        "seed, same bits. FLOPs count products, three times the forward pass."
    )
    inside = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<section><h2>How it was done</h2><ul>{inside}</ul></section>\n"
