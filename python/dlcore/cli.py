"""The command ``dlcore``.

Exit status: 0, 1 if runs failed, 2 with one sentence if something asked for cannot be done, 130
after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from dlcore.scaling.study import Outcome, Study

# Commands with an argument parser of their own: module, what they do.
ELSEWHERE = {
    "forecast": ("dlcore.scaling.forecast", "fit and forecast curves and surfaces of your own"),
    "bench": ("dlcore.bench", "check and time this installation"),
}
LAB = ("scipy", "sklearn", "pandas", "matplotlib", "tqdm")


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence; argparse would print the usage too."""

    def error(self, message: str) -> NoReturn:
        _fail(self.prog, f"{message}; {self.prog} --help lists everything")


def _fail(command: str, sentence: str) -> NoReturn:
    print(f"{command}: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(2)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Without the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in ELSEWHERE and _has(ELSEWHERE[given[0]][0]):
        return int(importlib.import_module(ELSEWHERE[given[0]][0]).main(given[1:]))
    parser = _parser()
    options = parser.parse_args(given)
    if options.version:
        import dlcore

        print(f"dlcore {dlcore.info()['version']}")
        return 0
    if options.command is None:
        parser.print_help()
        return 0
    from dlcore.data import DataError

    try:
        return int(options.action(options))
    except DataError as error:
        _fail(f"dlcore {options.command}", str(error))
    except KeyboardInterrupt:
        print(f"dlcore {options.command}: interrupted", file=sys.stderr)
        _leave(130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="dlcore",
        description="Would more data, a larger network or more computation help, and by how much?",
    )
    parser.add_argument("--version", action="store_true", help="say the version and stop")
    commands = parser.add_subparsers(dest="command", metavar="command", parser_class=_Parser)
    _add_study(commands)
    predict = commands.add_parser("predict", help="apply a kept network to new data")
    predict.add_argument("--model", required=True, metavar="DIR", help="the study's folder 'model'")
    predict.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help=".csv, .tsv, .parquet, .npz, idx or a folder of images",
    )
    predict.add_argument("--out", metavar="FILE", help="CSV to write; default the terminal")
    predict.set_defaults(action=_predict)
    for name, (module, text) in ELSEWHERE.items():
        if _has(module):
            commands.add_parser(name, help=text, add_help=False)
    info = commands.add_parser("info", help="what this installation is and can use")
    info.set_defaults(action=_info)
    return parser


def _add_study(commands: Any) -> None:
    study = commands.add_parser(
        "study",
        help="learning curves of networks beside simpler learners, and what they advise",
        description="Train networks and simpler learners on growing parts of your data and report "
        "what more data, a larger network or a network at all would bring. Without options: "
        "scikit-learn's digits. Started again with the same settings it goes on where it stopped.",
    )
    data = study.add_argument_group("data")
    data.add_argument(
        "--data",
        default="digits",
        metavar="FILE_OR_NAME",
        help=".csv, .tsv, .parquet, .npz, a folder of images or of idx files, or digits (default), "
        "mnist, fashion-mnist",
    )
    data.add_argument("--data-dir", metavar="DIR", help="where a named set's files are")
    data.add_argument("--target", metavar="COLUMN", help="column to predict")
    data.add_argument("--test", metavar="FILE", help="held-out examples, like --data")
    data.add_argument(
        "--group", metavar="COLUMN", help="rows that belong together are held out together"
    )
    data.add_argument("--time", metavar="COLUMN", help="the latest rows are held out")
    data.add_argument(
        "--drop", metavar="COLUMNS", type=_names, default=(), help="columns to leave out"
    )
    data.add_argument(
        "--missing",
        choices=("error", "drop", "impute"),
        default="error",
        help="missing values: an error (default), row left out, filled in from the training rows",
    )
    data.add_argument(
        "--task",
        choices=("auto", "classification", "regression"),
        default="auto",
        help="default auto",
    )
    what = study.add_argument_group("what is run")
    what.add_argument(
        "--learners",
        metavar="LIST",
        type=_names,
        help="such as relu,sigmoid,logistic,svm (default), linear-svm, boosting, ridge, relu-64",
    )
    what.add_argument(
        "--sizes",
        metavar="LIST",
        type=_names,
        help="networks: units of the hidden layers, such as 8,32,128 (default) or 256x128",
    )
    what.add_argument("--m", metavar="LIST", type=_counts, help="numbers of training examples")
    what.add_argument(
        "--seeds", metavar="N", type=_positive, default=5, help="repetitions, default 5"
    )
    what.add_argument(
        "--metric",
        metavar="NAME",
        help="error (default), balanced_accuracy, log_loss; for quantities rmse (default), mae",
    )
    what.add_argument(
        "--margin", metavar="X", type=float, help="smallest difference of the metric that matters"
    )
    how = study.add_argument_group("how")
    how.add_argument("--out", metavar="DIR", help="default study-NAME, named after the data")
    how.add_argument("--dask", metavar="ADDRESS", help="make the runs on a Dask cluster")
    how.add_argument("--budget", metavar="SECONDS", type=float, help="start no run after so long")
    how.add_argument(
        "--budget-runs", metavar="N", type=_positive, help="make no more than so many runs"
    )
    how.add_argument(
        "--workers", metavar="N", type=_positive, help="runs at a time, default one per CPU"
    )
    how.add_argument("--quiet", action="store_true", help="no progress bar")
    study.set_defaults(action=_study)


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _positive(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"a whole number of at least 1 is needed, not {text!r}")
    return value


def _counts(text: str) -> tuple[int, ...]:
    return tuple(_positive(part) for part in _names(text))


def _study(options: argparse.Namespace) -> int:
    missing = [name for name in LAB if not _has(name)]
    if missing:
        names = ", ".join("scikit-learn" if name == "sklearn" else name for name in missing)
        _fail(
            "dlcore study",
            f"{names} {'is' if len(missing) == 1 else 'are'} not installed; install dlcore with "
            "its lab extra, in a checkout: pip install '.[lab]', or from a wheel file: pip install "
            "'FILE.whl[lab]'",
        )
    if options.budget is not None and not options.budget > 0:
        _fail("dlcore study", f"--budget needs seconds above 0, not {options.budget:g}")
    from dlcore.data import DataError, load
    from dlcore.scaling.learners import DEFAULT_SIZES
    from dlcore.scaling.study import Study

    data = load(
        options.data,
        data_dir=options.data_dir,
        target=options.target,
        test=options.test,
        missing=options.missing,
        task=options.task,
        drop=options.drop,
        group=options.group,
        time=options.time,
    )
    folder = Path(options.out or f"study-{data.name}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--out {folder} cannot be made: {error.strerror}") from None
    study = Study(
        data,
        sizes=options.sizes or DEFAULT_SIZES,
        learners=options.learners,
        seeds=options.seeds,
        m=options.m,
        metric=options.metric,
        margin=options.margin,
        store=folder / "study.db",
    )
    shape = " x ".join(map(str, data.x.shape[1:]))
    what = f"with {shape} columns" if data.columns else f"of shape {shape}"
    print(
        f"{data.name}: {len(data.y):,} examples {what}; held out: {study.split.how}\n"
        f"{len(study.learners)} learners, m = {', '.join(f'{m:,}' for m in study.m)}, "
        f"{len(study.seeds)} seeds: {len(study.runs):,} runs",
        flush=True,
    )
    for note in data.notes:
        print(f"note: {note}", flush=True)
    with _executor(options.dask) as executor:
        outcome = study.run(
            executor,
            options.budget,
            budget_runs=options.budget_runs,
            workers=options.workers,
            progress=not options.quiet,
        )
    try:
        _tell(study, outcome, folder)
    except BaseException:
        if outcome.stopped != "interrupted":
            raise
        traceback.print_exc()
    if outcome.stopped == "interrupted":
        _leave(130)
    return 1 if outcome.failed or outcome.stopped == "workers" else 0


def _tell(study: Study, outcome: Outcome, folder: Path) -> None:
    """Print what a study found, write its report and keep its best network."""
    from dlcore.scaling.predict import keep_best_network
    from dlcore.scaling.report import write_report

    found = f", {outcome.found:,} found in {folder / 'study.db'}" if outcome.found else ""
    print(f"{outcome.made:,} runs made in {outcome.seconds:.0f} s{found}")
    for sentence in outcome.failed[:5]:
        print(f"dlcore study: failed: {sentence}", file=sys.stderr)
    if outcome.left:
        why = {
            "budget": "the budget is spent",
            "interrupted": "interrupted",
            "failures": f"{len(outcome.failed)} failed",
            "workers": "the workers died",
        }[outcome.stopped]
        are = "run is" if outcome.left == 1 else "runs are"
        print(f"{outcome.left:,} {are} left ({why}); the same command goes on with the rest")
    if not outcome.made + outcome.found:
        if outcome.stopped == "budget":
            print("no run was finished within the budget; give it more seconds")
        return
    print("\n" + study.table(shutil.get_terminal_size((100, 24)).columns))
    findings = study.findings()
    print("\n" + "\n".join(filter(None, (findings.advice.sentence, findings.ahead()))) + "\n")
    report = write_report(findings, folder / "report.html", folder / "figures")
    print(
        f"{report}  (the same numbers: {report.stem}.csv, .json; the figures: figures)", flush=True
    )
    if outcome.stopped != "interrupted":
        kept = keep_best_network(study, folder / "model")
        if kept is not None:
            print(f"{kept}  (best network: dlcore predict --model {kept} --data FILE)")


@contextlib.contextmanager
def _executor(address: str | None) -> Iterator[Any]:
    """The executor of a Dask cluster, or None."""
    if address is None:
        yield None
        return
    from dlcore.data import DataError

    if not _has("distributed"):
        raise DataError("--dask needs Dask distributed; install it: pip install distributed")
    distributed = importlib.import_module("distributed")
    try:
        client = distributed.Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise DataError(f"--dask {address}: no scheduler answers there ({error})") from None
    with client:
        yield client.get_executor()


def _leave(status: int) -> NoReturn:
    """Leave at once: a learner of scikit-learn may still be training in a thread."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if threading.active_count() > 1:
        os._exit(status)
    raise SystemExit(status)


def _predict(options: argparse.Namespace) -> int:
    from dlcore.data import DataError
    from dlcore.scaling.predict import names_of, predict, write_predictions

    known = options.data.endswith(".npz") or "idx3" in options.data or Path(options.data).is_dir()
    if not known and not _has("pandas"):
        _fail(
            "dlcore predict",
            "pandas is not installed, which reads tables; install dlcore with its lab extra, in a "
            "checkout: pip install '.[lab]'",
        )
    prediction, preprocessing, filled = predict(options.model, options.data)
    if filled:
        print(
            f"dlcore predict: {filled} missing values were filled in from the training data",
            file=sys.stderr,
        )
    if options.out is None:
        write_predictions(sys.stdout, prediction, preprocessing, names_of(options.data))
        return 0
    try:
        with open(options.out, "w", encoding="utf-8", newline="") as file:
            write_predictions(file, prediction, preprocessing, names_of(options.data))
    except OSError as error:
        raise DataError(f"--out {options.out} cannot be written: {error.strerror}") from None
    return 0


def _info(options: argparse.Namespace) -> int:
    import dlcore

    print(dlcore.info())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
