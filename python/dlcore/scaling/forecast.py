"""`dlcore forecast`: fit curves or a loss surface from CSV files, and say what they promise."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dlcore.scaling.compute import OptimalSplit
from dlcore.scaling.curves import UNITS, WARNINGS, Forecast, LearningCurve
from dlcore.scaling.decisions import Choice, Crossing, Plateau, Requirement, cheapest
from dlcore.scaling.fits import LOSSES, CurveFit, fit
from dlcore.scaling.surface import LossSurface, fit_surface

PROGRAM = "dlcore forecast"
FACTORS = (2, 4, 8)  # of the largest x, where nothing else is asked
DESCRIPTION = """
Fit a learning curve of your own and forecast it, with intervals whose coverage was measured. A curve's
CSV has a header and the columns x (or m, parameters, compute, steps), y (or error, loss) and, if known,
se. Several files, the cheapest learner first, are compared. A file with parameters, examples and loss is
a surface: it is fitted as E + A / N^alpha + B / D^beta, and the best split of a computation is given.
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _fail(f"{message}; {PROGRAM} --help lists everything")


def _fail(sentence: str) -> NoReturn:
    print(f"{PROGRAM}: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dlcore forecast``.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the command's name; default those of the process.

    Returns
    -------
    int
        0; 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        With status 2 and one sentence if something asked for cannot be done.
    """
    options = _parser().parse_args(arguments)
    try:
        surfaces = [LossSurface.is_surface(path) for path in options.files]
        if any(surfaces) and len(surfaces) > 1:
            raise ValueError(
                f"a surface, {options.files[surfaces.index(True)]}, is forecast alone; "
                f"found {len(surfaces)} files"
            )
        answer = _surface(options) if surfaces[0] else _curves(options)
        text = json.dumps(answer["json"], indent=1, allow_nan=False)
        print(text if options.json else answer["text"])
        sys.stdout.flush()
    except ValueError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=PROGRAM, description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="CURVE.csv", help="curves, or one surface")
    parser.add_argument(
        "--target-error", type=float, metavar="E", help="how much x, or computation, this takes"
    )
    parser.add_argument(
        "--at",
        nargs="+",
        metavar="X",
        help="where to forecast; default 2, 4 and 8 times the largest x. For a surface N,D",
    )
    parser.add_argument(
        "--interval", type=float, default=0.9, metavar="SHARE", help="coverage; default 0.9"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    how = parser.add_argument_group("how it is fitted")
    how.add_argument(
        "--form", metavar="NAME", help="one form; default auto, or chinchilla for a surface"
    )
    how.add_argument("--loss", choices=LOSSES, default="huber", help="of log residuals")
    curve = parser.add_argument_group("curves")
    curve.add_argument(
        "--bounds", metavar="LOW,HIGH", help="possible errors; default 0,1 for error rates, else 0,"
    )
    curve.add_argument(
        "--relative-gain",
        type=float,
        metavar="G",
        help="the least relative fall per doubling that matters; default 0.02",
    )
    curve.add_argument(
        "--delta", type=float, metavar="E", help="error that does not matter; default 0.01"
    )
    surface = parser.add_argument_group("surfaces")
    surface.add_argument("--compute", type=float, metavar="C", help="FLOPs to split")
    surface.add_argument(
        "--flops-per-example-parameter", type=float, metavar="K", help="of C = K N D; default 6"
    )
    surface.add_argument("--now", metavar="N,D", help="where you are; default the best run")
    surface.add_argument(
        "--cost-example",
        type=float,
        metavar="PRICE",
        help="of one more example; with --cost-parameter",
    )
    surface.add_argument(
        "--cost-parameter", type=float, metavar="PRICE", help="of one more parameter"
    )
    return parser


def _numbers(option: str, text: str, count: int) -> list[float]:
    """Comma-separated numbers; empty is NaN."""
    try:
        values = [float(part) if part.strip() else math.nan for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        need = "a number" if count == 1 else f"{count} numbers and a comma between, as N,D"
        raise ValueError(f"{option} needs {need}, found {text!r}")
    return values


def _refuse(options: argparse.Namespace, names: Sequence[str], what: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for {what}; {options.files[0]} is none"
            )


def amount(x: float) -> str:
    """A number of examples, parameters, steps or FLOPs."""
    return f"{x:,.0f}" if 1 <= x < 1e7 else f"{x:.3g}"


def _said(codes: Sequence[str]) -> list[str]:
    """Lines of a list of warnings."""
    return ["warnings"] * bool(codes) + [f"  {code}: {WARNINGS[code]}" for code in codes]


# Curves


def _curves(options: argparse.Namespace) -> dict[str, Any]:
    _refuse(
        options,
        ("compute", "flops_per_example_parameter", "now", "cost_example", "cost_parameter"),
        "surfaces",
    )
    bounds: tuple[float | None, float | None] | None = None
    if options.bounds is not None:
        low, high = _numbers("--bounds", options.bounds, 2)
        bounds = (None if math.isnan(low) else low, None if math.isnan(high) else high)
    gain = 0.02 if options.relative_gain is None else options.relative_gain
    delta = 0.01 if options.delta is None else options.delta
    at = [_numbers("--at", text, 1)[0] for text in options.at or ()]
    lines, found, fits = [], [], {}
    for path in options.files:
        name = Path(path).stem
        if name in fits:
            raise ValueError(f"{path}: another file has the name {name} already")
        curve = LearningCurve.from_csv(path, bounds)
        fitted = fits[name] = fit(curve, options.form or "auto", options.loss)
        where = at or [factor * float(curve.x[-1]) for factor in FACTORS]
        forecast = fitted.predict(where, options.interval)
        plateau = fitted.plateau(gain)
        need = None
        if options.target_error is not None:
            need = fitted.required(options.target_error, options.interval)
        lines += _curve_lines(path, fitted, forecast, plateau, need)
        found.append(
            {
                "file": str(path),
                "points": len(curve),
                "kind": curve.kind,
                "form": fitted.form,
                "weights": fitted.weights,
                "parameters": fitted.parameters,
                "interval": options.interval,
                "coverage": forecast.coverage,
                "forecast": [
                    dict(zip(("x", "value", "low", "high", "status"), row, strict=True))
                    for row in forecast
                ],
                "plateau": vars(plateau),
                "required": None if need is None else vars(need),
                "status": forecast.status,
                "warnings": list(forecast.warnings),
            }
        )
    answer: dict[str, Any] = {"curves": found}
    if len(fits) > 1:
        lines.append(f"which of {', '.join(fits)} (the cheapest first; {delta:g} does not matter)")
        answer["crossings"], answer["cheapest"] = [], []
        names = list(fits)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                meeting = fits[one].crossing(fits[other], options.interval)
                lines.append("  " + _crossing_line(one, other, meeting, fits[one].curve.kind))
                answer["crossings"].append({"first": one, "second": other, **vars(meeting)})
        now = min(float(part.curve.x[-1]) for part in fits.values())
        for x in (now, *(at or [FACTORS[1] * now])):
            choice = cheapest(fits, x, delta, options.interval)
            lines.append("  " + _choice_line(choice))
            answer["cheapest"].append(vars(choice))
    return {"json": answer, "text": "\n".join(lines)}


def _curve_lines(
    path: str,
    fitted: CurveFit,
    forecast: Forecast,
    plateau: Plateau,
    need: Requirement | None,
) -> list[str]:
    curve, unit = fitted.curve, UNITS[fitted.curve.kind]
    shares = sorted(fitted.weights.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {share:.2f}" for name, share in shares if share >= 0.005)
    if fitted.alone:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in fitted.parameters.items())
    lines = [
        (
            f"{path}: {len(curve)} points, {amount(curve.x[0])} to {amount(curve.x[-1])} {unit}, "
            f"error {curve.y[0]:.4g} to {curve.y[-1]:.4g}"
        ),
        f"{fitted.form}: {shown}",
        f"{unit:>20s}  {'error':>12s}  {100 * forecast.interval:g} % interval",
    ]
    for x, value, low, high, status in forecast:
        shown = f"{value:.4g}" if status == "ok" else "undetermined"
        lines.append(f"{amount(x):>20s}  {shown:>12s}  {low:.4g} to {high:.4g}")
    lines.append(
        f"Such intervals held {100 * forecast.coverage:.0f} % of the measurements on curves kept out of "
        "their calibration."
    )
    lines.append(f"plateau: {plateau}")
    if need is not None:
        lines.append(f"for an error of {need.target:g}: {need}")
    codes = (*forecast.warnings, *(() if need is None else need.warnings))
    return [*lines, *_said(tuple(dict.fromkeys(codes))), ""]


def _crossing_line(one: str, other: str, meeting: Crossing, kind: str) -> str:
    if meeting.exists is None:
        return f"{one} and {other}: undetermined whether they cross"
    names = {"first": one, "second": other}
    if not meeting.exists or meeting.value is None:
        return f"{one} and {other} do not cross as far as can be forecast; {names[meeting.better_after]} is better"
    low = "?" if meeting.low is None else amount(meeting.low)
    high = "?" if meeting.high is None else amount(meeting.high)
    return (
        f"{one} and {other} cross at {amount(meeting.value)} {UNITS[kind]} ({low} to {high}): "
        f"{names[meeting.better_before]} is better before, {names[meeting.better_after]} after"
    )


def _choice_line(choice: Choice) -> str:
    text = f"at {amount(choice.x)}: best {choice.best}"
    if choice.status != "ok":
        return f"{text}; undetermined which is the cheapest within {choice.delta:g} of it"
    return f"{text}, cheapest within {choice.delta:g} of it {choice.cheapest}"


# Surfaces


def _surface(options: argparse.Namespace) -> dict[str, Any]:
    _refuse(options, ("bounds", "relative_gain", "delta"), "curves")
    path = options.files[0]
    k = 6.0
    if options.flops_per_example_parameter is not None:
        k = options.flops_per_example_parameter
        if not (math.isfinite(k) and k > 0):
            raise ValueError(f"--flops-per-example-parameter needs a positive number, found {k}")
    surface = LossSurface.from_csv(path, k)
    fitted = fit_surface(surface, options.form or "chinchilla", options.loss)
    used = k * surface.parameters * surface.examples
    compute = 10 * float(used.max()) if options.compute is None else options.compute
    split = fitted.optimal(compute, k, options.interval)
    best = int(surface.loss.argmin())
    size, data = float(surface.parameters[best]), float(surface.examples[best])
    if options.now is not None:
        size, data = _numbers("--now", options.now, 2)
    prices = (options.cost_example, options.cost_parameter)
    if (prices[0] is None) != (prices[1] is None):
        raise ValueError("--cost-example and --cost-parameter need each other")
    if prices[0] is None:
        prices = (1 / data, 1 / size)
    advice = fitted.advise(data, size, *prices)
    places = [_numbers("--at", text, 2) for text in options.at or ()]
    need = None
    if options.target_error is not None:
        need = fitted.required(options.target_error, k, options.interval)
    errors = fitted.standard_errors
    lines = [
        f"{path}: {surface!r}, loss {surface.loss.max():.4g} to {surface.loss.min():.4g}",
        f"{fitted.form}: "
        + ", ".join(f"{n} {v:.4g} (s.e. {errors[n]:.2g})" for n, v in fitted.parameters.items()),
    ]
    rows = []
    if places:
        sizes, datas = zip(*places, strict=True)
        forecast = fitted.predict(sizes, datas, options.interval)
        for row in zip(
            forecast.parameters.tolist(),
            forecast.examples.tolist(),
            forecast.value.tolist(),
            forecast.low.tolist(),
            forecast.high.tolist(),
            forecast.statuses,
            strict=True,
        ):
            rows.append(
                dict(
                    zip(
                        ("parameters", "examples", "value", "low", "high", "status"),
                        row,
                        strict=True,
                    )
                )
            )
            shown = f"{row[2]:.4g}" if row[5] == "ok" else "undetermined"
            lines.append(
                f"at {amount(row[0])} parameters and {amount(row[1])} examples: loss {shown} "
                f"({row[3]:.4g} to {row[4]:.4g})"
            )
    lines += _split_lines(split, options.interval)
    costs = "where twice the data cost what twice the size costs"
    if options.cost_example is not None:
        costs = f"at {prices[0]:.3g} an example and {prices[1]:.3g} a parameter"
    lines += [
        f"from {amount(size)} parameters and {amount(data)} examples, {costs}:",
        f"  {advice.explain()}",
        (
            f"  a unit of cost gains {advice.gain_data:.3g} in examples, {advice.gain_parameters:.3g} "
            "in parameters"
        ),
        (
            f"  the run that would tell most: {amount(advice.next_run[1])} parameters, "
            f"{amount(advice.next_run[0])} examples"
        ),
    ]
    if need is not None:
        lines.append(f"for a loss of {need.target:g}: {need}")
    codes = [*fitted.warnings, *split.warnings, *advice.warnings]
    codes += [] if need is None else need.warnings
    lines += _said(tuple(dict.fromkeys(codes)))
    answer = {
        "file": str(path),
        "runs": len(surface),
        "form": fitted.form,
        "parameters": fitted.parameters,
        "standard_errors": errors,
        "interval": options.interval,
        "forecast": rows,
        "split": {**vars(split), "ratio": split.ratio},
        "advice": {"answer": advice.answer, "status": advice.status, **vars(advice)},
        "required": None if need is None else vars(need),
        "status": fitted.status,
        "warnings": list(dict.fromkeys(codes)),
    }
    return {"json": answer, "text": "\n".join(lines)}


def _split_lines(split: OptimalSplit, interval: float) -> list[str]:
    share = f"{100 * interval:g} %"

    def between(pair: tuple[float, float]) -> str:
        return f"{amount(pair[0])} to {amount(pair[1])}"

    head = f"{split.compute:.3g} FLOPs are best spent on"
    if split.status != "ok":
        head = f"undetermined how {split.compute:.3g} FLOPs are best spent; as fitted, on"
    return [
        (
            f"{head} {amount(split.parameters)} parameters "
            f"({share}: {between(split.parameters_interval)})"
        ),
        (
            f"  and {amount(split.examples)} examples ({between(split.examples_interval)}): loss "
            f"{split.loss:.4g} ({split.loss_interval[0]:.4g} to {split.loss_interval[1]:.4g}); N* ~ C^"
            f"{split.exponent:.3f} ({split.exponent_interval[0]:.3f} to {split.exponent_interval[1]:.3f})"
        ),
        (
            f"  isoFLOP parabolas of the same range would be off by {100 * split.isoflop_bias:+.1f} % in "
            "examples, noise apart"
        ),
    ]
