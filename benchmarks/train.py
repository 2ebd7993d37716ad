"""Train the same networks with dlcore and with other libraries, and compare.

Every rival runs in a process and a virtual environment of its own. All start from the same weights
and take the same batches in the same order for a short fit; only who then has the same loss is
timed. Rounds of all rivals follow one another (A B C, B C A, ...), the processes whose turn it is
not are stopped, and every ratio is the median over rounds of two rates of the same round.

    python benchmarks/train.py --list
    python benchmarks/train.py --set table --json benchmarks/results/train.json --add
    python benchmarks/train.py --only '784-32-10/b32/.*t2' --rounds 7

benchmarks/README.md says what is measured and how long it takes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import machine
import numpy as np

PEERS = Path(__file__).resolve().parent / "peers"
FEATURES, CLASSES = 784, 10


@dataclass(frozen=True)
class Rival:
    script: str
    mode: str
    environment: str  # name of its virtual environment
    every_count: bool = False  # its threads are the process's: one for each count up to the case's
    tolerance: float = 3e-5  # largest relative difference of its losses; see below
    least_width: int = 0  # of the first hidden layer
    most_width: int = 1 << 30


# Losses after the short fit: libraries that do the same agree to 1e-7, here and there to some 1e-6
# (the order of sums differs, and training amplifies it); a learning rate that is wrong by one
# percent changes the loss by 5e-5 to 5e-3. bfloat16 has eight bits, and is for wide networks.
RIVALS = {
    "dlcore": Rival("dlcore_runner.py", "float32 products", "dlcore"),
    "dlcore-uint8": Rival("dlcore_runner.py", "uint8", "dlcore"),
    "dlcore-float32": Rival("dlcore_runner.py", "float32", "dlcore"),
    "dlcore-bf16": Rival("dlcore_runner.py", "bf16", "dlcore", tolerance=2e-2, least_width=512),
    "dlcore-statistics": Rival("dlcore_runner.py", "statistics", "dlcore"),
    "torch-eager": Rival("torch_runner.py", "eager", "torch"),
    "torch-best": Rival("torch_runner.py", "best", "torch"),
    "jax": Rival("jax_runner.py", "", "jax", every_count=True),
    "tensorflow": Rival("tensorflow_runner.py", "", "tensorflow", every_count=True),
    "sklearn": Rival("sklearn_runner.py", "", "sklearn", most_width=512),  # slower than all
    "numpy": Rival("numpy_runner.py", "", "sklearn"),
}
NOT_BY_DEFAULT = ("dlcore-uint8", "dlcore-float32", "dlcore-statistics", "numpy")
NOT_IN_FLEETS = ("dlcore-bf16", "dlcore-statistics", "tensorflow", "sklearn")
REQUIREMENTS = {
    "dlcore": [str(machine.REPOSITORY)],
    "torch": ["torch==2.13.0", "numpy"],
    "jax": ["jax[cpu]"],
    "tensorflow": ["tensorflow-cpu"],
    "sklearn": ["scikit-learn"],
}
# Largest relative error of an element-wise result: two orders above float32's resolution, as
# libraries round exp differently, and far below any wrong formula.
ELEMENT_TOLERANCE = 1e-5
# A turn in which other processes (or the host) used more of a CPU than this is taken again.
FOREIGN, REPEATS = 0.05, 2
# A round before or after which the limits differ by more from the usual ones is taken again.
TOLERATED = {"fma": 0.15, "streaming_copy": 0.3}
# After so many rounds, who is so many times slower than the fastest stays out of the others.
ROUNDS_OF_ALL, HOPELESS = 2, 1.5
# From this width of the first layer on, no library with fewer threads has been the fastest peer.
WIDE = 512

NETWORKS = ([784, 32, 10], [784, 128, 10], [784, 512, 512, 10], [784, 2048, 2048, 2048, 10])
TABLE = (
    "train/784-32-10/b32/sgd",
    "train/784-32-10/b128/sgd",
    "train/784-128-10/b32/sgd",
    "train/784-128-10/b128/sgd",
    "train/784-128-10/b128/adam",
    "train/784-512-512-10/b128/sgd",
    "train/784-2048-2048-2048-10/b128/adam",
    "train/784-2048-2048-2048-10/b1024/sgd",
    "fleet/64x784-32-10/b64/sgd",
    "relu/forward/10000000",
    "sigmoid/forward/10000000",
)


def flops_per_example(layers: Sequence[int]) -> int:
    """Of the products of a step: forward, weight gradient, and input gradient but of the first."""
    return sum(2 * k * n * (3 if i else 2) for i, (k, n) in enumerate(pairwise(layers)))


def learning_rate(layers: Sequence[int], optimizer: str) -> float:
    """Small enough that a rounding stays one in the check: it shrinks as networks get wider."""
    return 0.01 * min(1.0, 512 / layers[1]) if optimizer == "sgd" else 1e-3 * 32 / layers[1]


def all_cases(threads: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The grid, the fleet and the element-wise functions, for each number of threads."""
    for count in threads:
        for layers in NETWORKS:
            for batch in (32, 128, 1024):
                for optimizer in ("sgd", "adam"):
                    yield {
                        "kind": "train",
                        "name": f"train/{'-'.join(map(str, layers))}/b{batch}/{optimizer}/t{count}",
                        "layers": layers,
                        "batch": batch,
                        "optimizer": optimizer,
                        "learning_rate": learning_rate(layers, optimizer),
                        "threads": count,
                    }
        yield {
            "kind": "fleet",
            "name": f"fleet/64x784-32-10/b64/sgd/t{count}",
            "networks": 64,
            "layers": [784, 32, 10],
            "batch": 64,
            "optimizer": "sgd",
            "learning_rate": 0.01,
            "threads": count,
        }
        for op in ("relu", "sigmoid"):
            for direction in ("forward", "backward"):
                for size in (1_000, 100_000, 10_000_000):
                    yield {
                        "kind": "elementwise",
                        "name": f"{op}/{direction}/{size}/t{count}",
                        "op": op,
                        "direction": direction,
                        "size": size,
                        "threads": count,
                    }


def chosen_cases(options: argparse.Namespace) -> list[dict[str, Any]]:
    cases = list(all_cases(options.threads))
    wanted = {
        "all": lambda c: True,
        "grid": lambda c: c["kind"] == "train",
        "fleet": lambda c: c["kind"] == "fleet",
        "elementwise": lambda c: c["kind"] == "elementwise",
        "table": lambda c: (
            c["name"].rpartition("/")[0] in TABLE and c["threads"] == max(options.threads)
        ),
    }[options.set]
    cases = [c for c in cases if wanted(c) and re.search(options.only, c["name"])]
    if not cases:
        raise SystemExit(f"train.py: --only {options.only} matches no case of --set {options.set}")
    return cases


def size_case(case: dict[str, Any], options: argparse.Namespace, available: int) -> None:
    """How many examples an epoch has, so that it lasts about as long as asked for."""
    if case["kind"] == "elementwise":
        return
    batch = case["batch"]
    if available < batch:
        raise SystemExit(f"train.py: {case['name']} needs {batch} examples, there are {available}")
    if case["kind"] == "fleet":
        examples = min(5_952, available)
    else:
        # What a core does of fp32 is some 1e11 operations a second; small networks take all.
        operations = options.seconds * 1e11 * case["threads"]
        wanted = operations / flops_per_example(case["layers"])
        examples = int(min(available, max(4 * batch, wanted)))
    # Whole batches: a library that compiles for one shape would compile twice.
    case["examples"] = max(1, examples // batch) * batch
    case["turn_seconds"] = options.seconds / 4


def ways_of(file: str) -> dict[str, dict[str, tuple[str, dict[str, str]]]]:
    """What each rival chose in an earlier run, and its versions: by case, by its name and threads."""
    earlier = json.loads(Path(file).read_text())
    return {
        case["name"]: {
            f"{rival['name']}/{rival['threads']}": (
                rival["variant"],
                earlier["versions"][rival["name"]],
            )
            for rival in case["rivals"]
            if "variant" in rival
        }
        for case in earlier["cases"]
    }


# --- Data -----------------------------------------------------------------------------------------


def make_data(folder: Path, given: str | None, examples: int) -> int:
    """Write x.npy (n, 784) uint8 and y.npy: Fashion-MNIST if its folder is given, else made up."""
    if given is not None:
        x = read_idx(Path(given), "train-images-idx3-ubyte").reshape(-1, FEATURES)[:examples]
        y = read_idx(Path(given), "train-labels-idx1-ubyte")[:examples]
    else:
        # A pattern for each class, dimmed and covered with noise: learnable, but not at once.
        rng = np.random.default_rng(0)
        patterns = rng.integers(0, 256, (CLASSES, FEATURES))
        y = rng.integers(0, CLASSES, examples)
        noise = rng.integers(0, 256, (examples, FEATURES), dtype=np.uint8)
        x = (patterns[y] // 4 + noise // 4 * 3).astype(np.uint8)
    np.save(folder / "x.npy", np.ascontiguousarray(x, np.uint8))
    np.save(folder / "y.npy", y.astype(np.int64))
    return len(x)


def read_idx(folder: Path, name: str) -> np.ndarray:
    """An array of an idx file, packed or not."""
    import gzip

    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise SystemExit(f"train.py: --data {folder} has no {name}.gz")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def write_start(case: dict[str, Any], folder: Path, steps: int) -> None:
    """The weights all start from, N(0, 2 / in), and the orders of two epochs of the check."""
    rng = np.random.default_rng(1)
    networks = (case["networks"],) if case["kind"] == "fleet" else ()
    arrays: dict[str, np.ndarray] = {}
    for i, (k, n) in enumerate(pairwise(case["layers"])):
        weight = rng.standard_normal((*networks, n, k)) * np.sqrt(2 / k)
        arrays[f"w{i}"] = weight.astype(np.float32)
        arrays[f"b{i}"] = rng.uniform(-0.05, 0.05, (*networks, n)).astype(np.float32)
    count = min(case["examples"], steps * case["batch"])
    epochs = [
        np.stack([rng.permutation(count) for _ in range(*networks)])
        if networks
        else rng.permutation(count)
        for _ in range(2)
    ]
    np.savez(folder / "start.npz", orders=np.stack(epochs), **arrays)


# --- Processes ------------------------------------------------------------------------------------


@dataclass
class Process:
    """A rival with a number of threads, on as many CPUs; stopped while it is not its turn."""

    name: str
    threads: int
    child: subprocess.Popen[str]
    versions: dict[str, str] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)  # CPUs that it used during its turns
    foreign: list[float] = field(default_factory=list)  # and that others used
    record: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def start(cls, name: str, threads: int, python: str) -> Process:
        rival = RIVALS[name]
        count = str(threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "JAX_PLATFORMS": "cpu",
        }
        if threads == 1:
            flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
            environment["XLA_FLAGS"] = flags
        command = [python, str(PEERS / rival.script), "--threads", count, "--mode", rival.mode]
        cpus = sorted(os.sched_getaffinity(0))[:threads]
        child = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cpus)), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        process = cls(name, threads, child)
        process.versions = process.ask(do="versions")["versions"]
        return process

    def ask(self, **request: Any) -> dict[str, Any]:
        """Let it run for one request."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        os.kill(self.child.pid, signal.SIGCONT)
        try:
            self.child.stdin.write(json.dumps(request) + "\n")
            self.child.stdin.flush()
            line = self.child.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"{self.name} died with status {self.child.wait()}")
        os.kill(self.child.pid, signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def take_turn(self) -> None:
        """Time it once; again where other processes took part of the machine meanwhile."""
        turns = []
        for _ in range(1 + REPEATS):
            before = machine.Load(self.child.pid)
            answer = self.ask(do="time")
            own, foreign = machine.Load(self.child.pid).since(before)
            if "seconds" not in answer:
                raise RuntimeError(f"{self.name}: {answer}")
            turns.append((foreign, own, answer["work"] / answer["seconds"]))
            if foreign <= FOREIGN:
                break
        foreign, own, rate = min(turns)
        self.rates.append(rate)
        self.foreign.append(foreign)
        self.own.append(own)

    def stop(self) -> None:
        if self.child.poll() is None:
            os.kill(self.child.pid, signal.SIGCONT)
            self.child.kill()
        self.child.wait()


def make_environments(options: argparse.Namespace) -> dict[str, str]:
    """A Python for each environment the peers need: given, or made with pip."""
    given = dict(pair.partition("=")[::2] for pair in options.python)
    pythons: dict[str, str] = {}
    for name in dict.fromkeys(RIVALS[peer].environment for peer in options.peers):
        if name in given:
            pythons[name] = given[name]
            continue
        folder = Path(options.venvs) / name
        python = folder / "bin" / "python"
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
                subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
            elif name == "dlcore":  # its sources may have changed
                subprocess.run([*pip, *REQUIREMENTS[name]], check=True)
            pythons[name] = str(python)
        except subprocess.CalledProcessError:
            shutil.rmtree(folder, ignore_errors=True)
            print(f"{name} cannot be installed here and is left out", file=sys.stderr)
    return pythons


# --- Measurement ----------------------------------------------------------------------------------


def check(
    process: Process, case: dict[str, Any], reference: list[float] | None
) -> tuple[str, list[float] | None]:
    """Prepare the case; why its times are not accepted, if they are not, and its losses."""
    label = f"{process.name}/{process.threads}"
    way, versions = case.get("ways", {}).get(label, (None, {}))
    if versions != process.versions:
        way = None
    shown = {key: value for key, value in case.items() if key != "ways"}
    answer = process.ask(do="prepare", case={**shown, "way": way})
    if "variant" in answer:
        process.record |= {"variant": answer["variant"], "trials": answer["trials"]}
        answer = process.ask(do="check")
    for reason in ("unsupported", "error"):
        if isinstance(answer.get(reason), str):
            return answer[reason], None
    if case["kind"] == "elementwise":
        process.record |= answer
        wrong = not answer["error"] <= ELEMENT_TOLERANCE
        return f"its result is wrong by {answer['error']:.1e}" if wrong else "", None
    losses = answer["losses"]
    mean = process.record["loss"] = statistics.fmean(losses)
    if reference is None:
        return "" if np.isfinite(losses).all() else f"its loss is {mean}", losses
    difference = float(np.max(np.abs(np.array(losses) / np.array(reference) - 1)))
    process.record["loss_difference"] = difference
    if not difference <= RIVALS[process.name].tolerance:
        return f"its loss is {mean:.6f}, not {statistics.fmean(reference):.6f}", losses
    return "", losses


def measure(
    case: dict[str, Any], processes: list[Process], bench: str | None, rounds: int
) -> dict[str, Any]:
    """Check all rivals against the first, then time who agrees with it in turn."""
    reference: list[float] | None = None
    accepted = []
    for process in processes:
        process.rates, process.own, process.foreign = [], [], []
        process.record = {"name": process.name, "threads": process.threads}
        why, losses = check(process, case, reference)
        if why:
            process.record["refused"] = why
            continue
        accepted.append(process)
        reference = losses if reference is None else reference
    count = case["threads"]
    limits = [machine.limits(bench, [count]).get(count, {})]
    while limits[0] and len(LIMITS.setdefault(count, [])) < 5:
        LIMITS[count].append(machine.limits(bench, [count])[count])
    staying, spoiled = list(accepted), 0
    while accepted and len(limits) <= rounds:
        first = len(limits) % len(staying)
        for process in staying[first:] + staying[:first]:
            process.take_turn()
        limits.append(machine.limits(bench, [count]).get(count, {}))
        if other_machine(limits[-2:], count) and spoiled < rounds:
            spoiled += 1
            for process in staying:
                process.rates.pop(), process.own.pop(), process.foreign.pop()
            limits.pop(-2)
        elif len(limits) == 1 + ROUNDS_OF_ALL:
            least = max(statistics.median(process.rates) for process in staying) / HOPELESS
            staying = [p for p in staying if statistics.median(p.rates) > least]
    result = dict(case)
    result["date"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    result["spoiled_rounds"] = spoiled
    # The median over the rounds of each.
    result["limits"] = limits = {
        name: statistics.median(each[name] for each in limits) for name in limits[0]
    }
    for key in ("folder", "data", "ways"):
        result.pop(key, None)
    result["rivals"] = [summary(p, case, limits) for p in processes]
    result |= compare(accepted)
    return result


# What dlcore-bench measured in this run, by number of threads.
LIMITS: dict[int, list[dict[str, float]]] = {}


def other_machine(limits: list[dict[str, float]], threads: int) -> bool:
    """Whether the machine was not the usual one of this run, before a round or after.

    A virtual machine changes: its CPUs may share a real core with others for seconds, and then do
    half the work, or lie apart from each other, and then have twice the bandwidth but share data
    slowly. No count of CPU time shows either.
    """
    seen = LIMITS.setdefault(threads, [])
    seen += limits[-1:]
    for name, tolerance in TOLERATED.items():
        if not all(limits) or len(seen) < 3:
            return False
        usual = statistics.median(each[name] for each in seen)
        if any(abs(each[name] / usual - 1) > tolerance for each in limits):
            return True
    return False


def summary(process: Process, case: dict[str, Any], limits: dict[str, float]) -> dict[str, Any]:
    record = dict(process.record)
    if not process.rates:
        return record
    rate = statistics.median(process.rates)
    record["rates"] = [float(f"{r:.5g}") for r in process.rates]
    record["cpus"] = [round(cpus, 2) for cpus in process.own]
    record["foreign"] = [round(cpus, 3) for cpus in process.foreign]
    record["median"] = rate
    record["spread"] = (max(process.rates) - min(process.rates)) / rate
    if case["kind"] == "elementwise":
        record["gigabytes_per_second"] = rate * case["size"] * elements(case) * 1e-9
        if case["size"] >= 10_000_000 and limits:
            best = max(limits["copy"], limits["streaming_copy"])
            record["share"] = record["gigabytes_per_second"] * 1e9 / best
    elif limits:
        record["share"] = rate * flops_per_example(case["layers"]) / limits["fma"]
    return record


def elements(case: dict[str, Any]) -> int:
    """Bytes an element moves: x read and y written; backward reads dy and y."""
    return 8 if case["direction"] == "forward" else 12


def compare(accepted: list[Process]) -> dict[str, Any]:
    """Ratios of the first rival to the others, round by round, and to the best of them."""
    if not accepted or not accepted[0].name.startswith("dlcore"):
        return {}
    ours = accepted[0]
    ratios: dict[str, float] = {}
    for other in accepted[1:]:
        each = [a / b for a, b in zip(ours.rates, other.rates, strict=False)]
        ratios[f"{other.name}/{other.threads}"] = statistics.median(each)
    peers = {name: ratio for name, ratio in ratios.items() if not name.startswith("dlcore")}
    if not peers:
        return {"ratios": ratios}
    best = min(peers, key=lambda name: peers[name])
    return {"ratios": ratios, "best_peer": best, "ratio_to_best_peer": peers[best]}


def show(result: dict[str, Any]) -> None:
    unit = "calls/s" if result["kind"] == "elementwise" else "samples/s"
    print(
        f"\n{result['name']}" + (f", {result['examples']} examples" if "examples" in result else "")
    )
    for record in result["rivals"]:
        label = f"  {record['name']} ({record['threads']} thread{'s'[: record['threads'] > 1]})"
        if "refused" in record:
            print(f"{label:34} not timed: {record['refused']}")
            continue
        ratio = result.get("ratios", {}).get(f"{record['name']}/{record['threads']}")
        print(
            f"{label:34}{record['median']:14,.0f} {unit}  spread {100 * record['spread']:5.1f} %"
            + (f"  share {100 * record['share']:5.1f} %" if "share" in record else "")
            + (f"  dlcore is {ratio:5.2f}x" if ratio is not None else "")
            + (f"  [{record['variant']}]" if record["variant"] not in ("only", "out") else "")
            + (f"  {record['max_ulp']:.2f} ulp" if "max_ulp" in record else "")
            + ("  (others were running)" if max(record["foreign"]) > FOREIGN else "")
        )
    if result["spoiled_rounds"]:
        print(
            f"  {result['spoiled_rounds']} rounds taken again, as the machine was slower than before"
        )
    if "best_peer" in result:
        print(
            f"  best peer: {result['best_peer']}, dlcore {result['ratio_to_best_peer']:.2f}x",
            flush=True,
        )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sets = ("table", "grid", "fleet", "elementwise", "all")
    parser.add_argument("--set", choices=sets, default="all", help="which cases, default all")
    parser.add_argument("--only", default="", metavar="REGEX", help="only cases with such names")
    parser.add_argument("--list", action="store_true", help="names of the cases, and stop")
    parser.add_argument(
        "--peers",
        default=",".join(name for name in RIVALS if name not in NOT_BY_DEFAULT),
        metavar="LIST",
        help=f"who takes part, dlcore first: {', '.join(RIVALS)}; default without "
        f"{', '.join(NOT_BY_DEFAULT)}; numpy joins where functions of arrays are compared",
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--threads", default=f"1,{cores}" if cores > 1 else "1", metavar="LIST", help="such as 1,2"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each rival, default 5")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="length of a fast rival's epoch, default 1"
    )
    parser.add_argument("--examples", type=int, default=60_000, help="in the data, default 60000")
    parser.add_argument("--data", metavar="DIR", help="folder of Fashion-MNIST; default made up")
    venvs = machine.REPOSITORY / "build" / "benchmarks"
    parser.add_argument("--venvs", default=str(venvs), metavar="DIR", help="virtual environments")
    parser.add_argument(
        "--python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="use this Python for dlcore, torch, jax, tensorflow or sklearn",
    )
    parser.add_argument("--bench", metavar="FILE", help="dlcore-bench, for the machine's limits")
    parser.add_argument("--json", metavar="FILE", help="where results are kept")
    parser.add_argument(
        "--add", action="store_true", help="keep the cases that the file has and this run does not"
    )
    parser.add_argument(
        "--ways",
        metavar="FILE",
        help="results of an earlier run on this machine: each rival of the same version takes the "
        "way to work that was its fastest there instead of trying all again",
    )
    options = parser.parse_args(arguments)
    options.peers = [name for name in options.peers.split(",") if name]
    unknown = [name for name in options.peers if name not in RIVALS]
    if unknown or not options.peers:
        parser.error(f"--peers knows {', '.join(RIVALS)}, not {', '.join(unknown)}")
    try:
        options.threads = sorted({int(text) for text in options.threads.split(",")})
    except ValueError:
        parser.error(f"--threads needs counts such as 1,2, not {options.threads}")
    if options.threads[0] < 1 or options.threads[-1] > cores:
        parser.error(f"--threads needs counts from 1 to the {cores} allowed CPUs")
    if options.rounds < 1 or options.seconds <= 0 or options.examples < 64:
        parser.error("--rounds and --seconds must be positive, --examples at least 64")
    return options


def rivals_of(case: dict[str, Any], options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Names and thread counts that take part in a case."""
    names = list(options.peers)
    if case["kind"] == "elementwise":
        # Data are arrays here: one kind of dlcore, and NumPy itself.
        without = ("torch-eager", "sklearn")
        names = [n for n in names if n not in without and not n.startswith("dlcore-")]
        if "sklearn" in options.peers and "numpy" not in names:
            names.append("numpy")
    elif case["kind"] == "fleet":
        names = [n for n in names if n not in NOT_IN_FLEETS]
    for name in names:
        least, most = RIVALS[name].least_width, RIVALS[name].most_width
        if "layers" in case and not least <= case["layers"][1] <= most:
            continue
        counts = {case["threads"]}
        if RIVALS[name].every_count and not ("layers" in case and case["layers"][1] >= WIDE):
            counts |= {count for count in options.threads if count < case["threads"]}
        for count in sorted(counts, reverse=True):
            yield name, count


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    cases = chosen_cases(options)
    if options.list:
        print("\n".join(case["name"] for case in cases))
        return 0
    pythons = make_environments(options)
    options.peers = [p for p in options.peers if RIVALS[p].environment in pythons]
    bench = machine.find_bench(options.bench, pythons.get("dlcore", sys.executable))
    if bench is None:
        print("dlcore-bench was not found: shares of the machine's limits are left out")
    result: dict[str, Any] = machine.header("benchmarks/train.py")
    tolerances = {name: RIVALS[name].tolerance for name in options.peers}
    result |= {"tolerances": tolerances, "rounds": options.rounds, "versions": {}, "cases": []}
    # So that the processes, which may be stopped, do not outlive this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    result["data"] = "Fashion-MNIST" if options.data else "made up, learnable, 784 bytes"
    kept: list[dict[str, Any]] = []
    if options.add and options.json and Path(options.json).exists():
        earlier = json.loads(Path(options.json).read_text())
        again = {case["name"] for case in cases}
        kept = [case for case in earlier["cases"] if case["name"] not in again]
        result["versions"] = earlier["versions"]
    order = {case["name"]: i for i, case in enumerate(all_cases(options.threads))}
    ways = ways_of(options.ways) if options.ways else {}
    running: dict[tuple[str, int], Process] = {}
    refused = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        available = make_data(folder, options.data, options.examples)
        try:
            for case in cases:
                size_case(case, options, available)
                case |= {"folder": temporary, "data": temporary}
                case["ways"] = ways.get(case["name"], {})
                if case["kind"] != "elementwise":
                    write_start(case, folder, steps=8 if case["layers"][1] <= WIDE else 3)
                processes = []
                for key in rivals_of(case, options):
                    if key not in running:
                        python = pythons.get(RIVALS[key[0]].environment)
                        if python is None:
                            continue
                        running[key] = Process.start(*key, python)
                        result["versions"][key[0]] = running[key].versions
                    processes.append(running[key])
                measured = measure(case, processes, bench, options.rounds)
                refused += sum("its " in r.get("refused", "") for r in measured["rivals"])
                measured["revision"] = result["revision"]
                kept.append(measured)
                kept.sort(key=lambda case: order.get(case["name"], len(order)))
                result["cases"] = kept
                show(measured)
                if options.json:
                    machine.write(Path(options.json), result)
        finally:
            for process in running.values():
                process.stop()
    if refused:
        print(f"\n{refused} times were not accepted because a result differs")
    return 1 if refused else 0


if __name__ == "__main__":
    raise SystemExit(main())
