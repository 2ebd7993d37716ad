"""What a study shows: the table in the terminal, the HTML report, the numbers as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlcore.scaling import figures
from dlcore.scaling.drawing import Drawing
from dlcore.scaling.learners import ACTIVATIONS
from dlcore.scaling.outlook import Exchange, Outlook, exchange, outlooks
from dlcore.scaling.page import page
from dlcore.scaling.store import write_atomically
from dlcore.scaling.summary import Advice, Summary, cell

if TYPE_CHECKING:
    from dlcore.scaling.study import Study


def text_table(summary: Summary, width: int = 100) -> str:
    """Errors of every learner at every m, for a terminal.

    Parameters
    ----------
    summary : Summary
        The finished runs.
    width : int, default 100
        Columns of the terminal; the smallest m are left out where they do not fit.

    Returns
    -------
    str
    """
    curves = summary.curves()
    if not curves:
        return "no finished run yet"
    first = max(len(curve.learner.label) for curve in curves.values())
    cells = {
        (name, point.m): cell(point.estimate, summary.metric.percent)
        for name, curve in curves.items()
        for point in curve.points
    }
    wide = max(len(text) for text in cells.values())
    wide = max(wide, *(len(f"{m:,}") for m in summary.sizes))
    room = max(1, (width - first - 2) // (wide + 2))
    sizes = summary.sizes[-room:]
    unit = ", %" if summary.metric.percent else ""
    lines = [
        f"{summary.metric.label}{unit} (mean \N{PLUS-MINUS SIGN} half of the 95 % interval) by m"
    ]
    lines.append(" " * first + "".join(f"  {m:>{wide},}" for m in sizes))
    for name, curve in curves.items():
        row = "".join(f"  {cells.get((name, m), '-'):>{wide}}" for m in sizes)
        lines.append(f"{curve.learner.label:<{first}}{row}")
    return "\n".join(lines)


@dataclass(frozen=True)
class Findings:
    """Everything a report shows, worked out once.

    Attributes
    ----------
    study : Study
    summary : Summary
    advice : Advice
    forecasts : dict of str to Outlook
    exchange : Exchange or None
    drawings : tuple of Drawing
    left : int
        Runs that are still to be made.
    """

    study: Study
    summary: Summary
    advice: Advice
    forecasts: dict[str, Outlook]
    exchange: Exchange | None
    drawings: tuple[Drawing, ...]
    left: int

    @classmethod
    def of(cls, study: Study) -> Findings:
        """Work it out.

        Parameters
        ----------
        study : Study
            With at least one finished run.

        Returns
        -------
        Findings
        """
        summary = study.summary()
        advice = summary.advice(study.margin)
        curves = summary.curves()
        names = figures.one_per_family(summary, curves)
        forecasts = outlooks(summary, curves, dict.fromkeys([*names, advice.best]))
        drawings = tuple(figures.drawings(summary, advice, forecasts))
        left = len(study.runs) - len(study.store.finished(study.runs))
        either = exchange(summary, curves, advice.best_network)
        return cls(study, summary, advice, forecasts, either, drawings, left)

    def ahead(self) -> str:
        """What twice the data is forecast to bring, and whether a network gains more by size."""
        summary, parts = self.summary, []
        forecast = self.forecasts.get(self.advice.best)
        label = summary.learners[self.advice.best].label
        if forecast is not None and forecast.points[0].span is None:
            parts.append(
                f"what {forecast.points[0].m:,} examples would bring is undetermined: "
                + ("; ".join(forecast.reasons) or "the runs do not tell")
            )
        elif forecast is not None and forecast.points[0].span is not None:
            value, low, high = forecast.points[0].span
            unit = " %" if summary.metric.percent else ""
            parts.append(
                f"with {forecast.points[0].m:,} examples {label} is forecast at "
                f"{summary.amount(value)} (90 % interval {summary.number(low)} to "
                f"{summary.number(high)}{unit})"
            )
        if self.exchange is not None:
            told = {
                "more_data": "gain more by twice the examples than by twice the parameters",
                "larger_network": "gain more by twice the parameters than by twice the examples",
                "at_floor": "would gain little by either more examples or more parameters",
                "undecided": "may gain more by examples or by parameters: undecided",
            }[self.exchange.answer]
            parts.append(f"{ACTIVATIONS[self.exchange.family][0]} networks {told}")
        text = "; ".join(parts)
        return f"{text[:1].upper()}{text[1:]}." if text else ""


def write_report(findings: Findings, path: Path, figures_to: Path | None = None) -> Path:
    """Write the report, and beside it the same numbers as ``.csv`` and ``.json``.

    Parameters
    ----------
    findings : Findings
        What it shows.
    path : Path
        The HTML file.
    figures_to : Path, optional
        Folder in which every figure is written as an SVG file of its own.

    Returns
    -------
    Path
        The HTML file.
    """
    write_atomically(path, page(findings))
    write_atomically(path.with_suffix(".csv"), curves_csv(findings.summary))
    content = json.dumps(numbers(findings), indent=1, allow_nan=False)
    write_atomically(path.with_suffix(".json"), content)
    if figures_to is not None:
        figures_to.mkdir(parents=True, exist_ok=True)
        for drawing in findings.drawings:
            write_atomically(figures_to / f"{drawing.name}.svg", drawing.file())
    return path


def numbers(findings: Findings) -> dict[str, Any]:
    """All numbers of a report, ready for JSON.

    Parameters
    ----------
    findings : Findings
        What the report shows.

    Returns
    -------
    dict
    """
    study = findings.study
    return {
        **findings.summary.to_dict(findings.advice),
        "complete": not findings.left,
        "ahead": findings.ahead(),
        "forecasts": {name: asdict(forecast) for name, forecast in findings.forecasts.items()},
        "data_or_size": None if findings.exchange is None else asdict(findings.exchange),
        "runs": [
            {
                "key": result.run.key(),
                "learner": result.run.learner,
                "m": result.run.m,
                "seed": result.run.seed,
                "score": result.score,
                "validation": result.validation,
                **result.facts,
            }
            for result in study.store.results(study.runs)
        ],
    }


def curves_csv(summary: Summary) -> str:
    """One line per learner and m: error, standard error, interval, seeds, cost."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["learner", "m", "error", "se", "low", "high", "seeds", "seconds", "parameters", "flops"]
    )
    for name, curve in summary.curves().items():
        for p in curve.points:
            e = p.estimate
            writer.writerow(
                [
                    *(name, p.m, e.value, _blank(e.error), _blank(e.low), _blank(e.high), e.seeds),
                    *(f"{p.seconds:.4g}", _blank(p.parameters), _blank(p.flops)),
                ]
            )
    return out.getvalue()


def _blank(value: Any) -> Any:
    return "" if value is None else value
