"""Write the tables of speed in the documents from the results that are kept.

A document has a pair of comments for each table; what stands between them is written here and
nowhere else:

    <!-- benchmarks: training -->
    <!-- end -->

    python benchmarks/tables.py            # write
    python benchmarks/tables.py --check    # say which documents are stale; status 1
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from train import NETWORKS, TABLE

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results"
DOCUMENTS = (REPOSITORY / "README.md", REPOSITORY / "docs" / "speed.md")
BLOCK = re.compile(r"(<!-- benchmarks: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

LIBRARIES = {
    "torch-best": "PyTorch",
    "torch-eager": "PyTorch, eager",
    "jax": "JAX",
    "tensorflow": "TensorFlow",
    "sklearn": "scikit-learn",
    "numpy": "NumPy",
}
OPTIMIZERS = {"sgd": "SGD with momentum", "adam": "Adam"}

Case = dict[str, Any]


def load(name: str) -> dict[str, Any]:
    """A file of results, whose schema is the one that this script knows."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    if result["schema"] != 1:
        raise SystemExit(f"tables.py: {name}.json has schema {result['schema']}, not 1")
    return result


def rival(case: Case, name: str) -> dict[str, Any] | None:
    """What a rival reached with the most threads it was timed with."""
    timed = [r for r in case["rivals"] if r["name"] == name and "median" in r]
    return max(timed, key=lambda r: r["threads"], default=None)


def best_peer(case: Case) -> dict[str, Any] | None:
    """The rival that `ratio_to_best_peer` of the case is about."""
    if "best_peer" not in case:
        return None
    name, _, threads = case["best_peer"].partition("/")
    return next(r for r in case["rivals"] if (r["name"], str(r["threads"])) == (name, threads))


def title(case: Case) -> str:
    """What a case is, in words."""
    if case["kind"] == "elementwise":
        return f"{case['op']} {case['direction']}, {case['size']:,} numbers"
    sizes = "-".join(map(str, case["layers"])).replace("2048-2048-2048", "2048x3")
    if case["kind"] == "fleet":
        return f"{case['networks']} networks {sizes}, batch {case['batch']}"
    return f"{sizes}, batch {case['batch']}, {OPTIMIZERS[case['optimizer']]}"


def rate(case: Case, value: float) -> str:
    """Examples a second, or the time of one call."""
    if case["kind"] != "elementwise":
        digits = 0 if value >= 1e5 else 1 if value >= 1e4 else 2
        return f"{value / 1e3:,.{digits}f} k/s"
    for unit, size in (("ms", 1e-3), ("us", 1e-6)):
        if 1 / value >= size:
            return f"{1 / value / size:.3g} {unit}"
    return f"{1e9 / value:.0f} ns"


def percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}x"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown, the first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def caption(result: dict[str, Any], file: str, cases: Sequence[Case]) -> str:
    """Where, when and with what; the dates and revisions are those of the cases."""
    machine = result["machine"]
    versions = result["versions"]
    names = (("torch-best", "torch"), ("jax", "jax"), ("tensorflow", "tensorflow"))
    names += (("sklearn", "sklearn"), ("numpy", "numpy"))
    known = [f"{LIBRARIES[name]} {versions[name][key]}" for name, key in names if name in versions]
    days = sorted({case.get("date", result["date"])[:10] for case in cases})
    revisions = sorted({case.get("revision", result["revision"]) for case in cases})
    if not cases:
        return "\nNot measured.\n"
    return (
        f"\n{machine['cpu']}, {machine['allowed_cores']} cores, "
        f"{', '.join(machine['instruction_set'])}; {' and '.join(days)}; dlcore at "
        f"{' and '.join(revisions)}; {', '.join(known)}. From `benchmarks/results/{file}.json`.\n"
    )


# --- Tables -------------------------------------------------------------------------------------


def training() -> str:
    """The cases that goals are set for, at the most threads."""
    result = load("train")
    threads = max(case["threads"] for case in result["cases"])
    cases = [
        case
        for name in TABLE
        for case in result["cases"]
        if case["name"] == f"{name}/t{threads}" and rival(case, "dlcore")
    ]
    rows = []
    for case in cases:
        ours, best = rival(case, "dlcore"), best_peer(case)
        assert ours is not None
        eager = rival(case, "torch-eager")
        ratios = case.get("ratios", {})
        rows.append(
            [
                title(case),
                rate(case, ours["median"]),
                f"{LIBRARIES[best['name']]} {rate(case, best['median'])}" if best else "",
                times(case.get("ratio_to_best_peer")),
                times(ratios.get(f"torch-eager/{eager['threads']}")) if eager else "",
                percent(ours.get("share")),
            ]
        )
        if half := rival(case, "dlcore-bf16"):
            name = f"dlcore-bf16/{half['threads']}"
            rows.append(
                [
                    f'the same, `precision="bf16"` ({1 / ratios[name]:.2f}x float32)',
                    rate(case, half["median"]),
                    "",
                    times(case["ratio_to_best_peer"] / ratios[name]) if best else "",
                    times(ratios[f"torch-eager/{eager['threads']}"] / ratios[name])
                    if eager
                    else "",
                    percent(half.get("share")),
                ]
            )
    head = ["work", "dlcore", "best peer", "ratio", "to PyTorch eager", "share of the limit"]
    return table(head, rows) + caption(result, "train", cases)


def grid() -> str:
    """Ratios to the best peer over networks, batches, optimizers and threads."""
    result = load("train")
    named = {case["name"]: case for case in result["cases"]}
    counts = sorted({case["threads"] for case in result["cases"]})
    rows, used = [], []
    for layers in NETWORKS:
        for optimizer in OPTIMIZERS:
            for batch in (32, 128, 1024):
                row = []
                for count in counts:
                    sizes = "-".join(map(str, layers))
                    case = named.get(f"train/{sizes}/b{batch}/{optimizer}/t{count}")
                    ours = rival(case, "dlcore") if case else None
                    best = best_peer(case) if case else None
                    if case is None or ours is None or best is None:
                        row += ["", ""]
                        continue
                    used.append(case)
                    row += [
                        f"{rate(case, ours['median'])} ({percent(ours.get('share'))})",
                        f"{times(case['ratio_to_best_peer'])} {LIBRARIES[best['name']]}",
                    ]
                if any(row):
                    short = title({**named_case(layers, batch, optimizer), "kind": "train"})
                    rows.append([short, *row])
    head = ["work"]
    for count in counts:
        head += [f"{count} thread{'s'[: count > 1]}", "to the best peer"]
    return table(head, rows) + caption(result, "train", used)


def named_case(layers: Sequence[int], batch: int, optimizer: str) -> Case:
    return {"layers": layers, "batch": batch, "optimizer": optimizer}


def functions() -> str:
    """Functions of arrays beside the best peer."""
    result = load("train")
    cases = [c for c in result["cases"] if c["kind"] == "elementwise" and rival(c, "dlcore")]
    rows = []
    for case in cases:
        ours, best = rival(case, "dlcore"), best_peer(case)
        assert ours is not None
        rows.append(
            [
                title(case),
                str(case["threads"]),
                rate(case, ours["median"]),
                f"{LIBRARIES[best['name']]} {rate(case, best['median'])}" if best else "",
                times(case.get("ratio_to_best_peer")),
                percent(ours.get("share")),
            ]
        )
    head = ["work", "threads", "dlcore", "best peer", "ratio", "share of a copy"]
    return table(head, rows) + caption(result, "train", cases)


def products() -> str:
    """Shares of the multiply-add peak, and ratios to a peer: kernels and layers by batch."""
    result = load("native-1-thread")
    kernels = {
        "dense_forward": "forward",
        "dense_input_gradient": "input gradient",
        "dense_weight_gradient": "weight gradient",
    }
    cells: dict[tuple[str, str], dict[int, str]] = {}
    for record in result["results"]:
        kernel, *rest = record["name"].split("/")
        if kernel in kernels and len(rest) == 2 and "share" in record:
            ratio = f" ({times(record['ratio'])})" if "ratio" in record else ""
            cell = percent(record["share"]) + ratio
            cells.setdefault((rest[0], kernel), {})[int(rest[1][1:])] = cell
    batches = sorted({batch for of_batch in cells.values() for batch in of_batch})
    peers = sorted({record["peer"] for record in result["results"] if "peer" in record})

    def order(key: tuple[str, str]) -> tuple[list[int], int]:
        return [int(size) for size in key[0].split("x")], list(kernels).index(key[1])

    rows = [
        [layer, kernels[kernel], *(cells[layer, kernel].get(b, "") for b in batches)]
        for layer, kernel in sorted(cells, key=order)
    ]
    peak = next(x["rate"] for x in result["limits"] if x["name"] == "fma" and x["threads"] == 1)
    machine = result["machine"]
    return (
        table(["layer", "product", *(f"batch {batch}" for batch in batches)], rows)
        + f"\n{machine['cpu']}, {result['kernels']}, one thread, peak {peak * 1e-9:.0f} GFLOP/s; "
        f"{result['date'][:10]}; dlcore at {'; '.join([result['revision'], *peers])}. "
        "From `benchmarks/results/native-1-thread.json`.\n"
    )


TABLES: dict[str, Callable[[], str]] = {
    "training": training,
    "grid": grid,
    "functions": functions,
    "products": products,
}


def written(text: str) -> str:
    """The document with its tables as the results have them."""

    def replace(block: re.Match[str]) -> str:
        if block[2] not in TABLES:
            raise SystemExit(f"tables.py knows {', '.join(TABLES)}, not {block[2]}")
        return f"{block[1]}\n{TABLES[block[2]]()}\n{block[3]}"

    return BLOCK.sub(replace, text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; 1 if a table is stale"
    )
    parser.add_argument("documents", nargs="*", type=Path, help="default README.md, docs/speed.md")
    options = parser.parse_args(arguments)
    stale = []
    for path in options.documents or DOCUMENTS:
        before = path.read_text(encoding="utf-8")
        after = written(before)
        if after != before:
            stale.append(path.name)
            if not options.check:
                path.write_text(after, encoding="utf-8")
    if options.check and stale:
        print(f"stale: {', '.join(stale)}; write them with python benchmarks/tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
