"""Run the stages of benchmarks/gpu_evidence.sh after its build, and keep what they show in one JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from benchmarks.gpu import cases, schema, table

import dlcore

ROOT = Path(__file__).parents[2]


def run(command: list[str], limit: float, **settings) -> tuple[int, str]:
    """Return a command's status and the end of what it printed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=limit, check=False, **settings
        )
    except subprocess.TimeoutExpired:
        return 124, f"longer than {limit:g} s"
    except FileNotFoundError:
        return 127, f"there is no {command[0]}"
    return done.returncode, (done.stdout + done.stderr)[-4000:]


def version_of(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment() -> dict[str, object]:
    """What machine, what versions, which sources."""
    fields = ("name", "driver_version", "clocks.max.sm", "memory.total", "power.limit")
    status, gpu = run(
        ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"], 20
    )
    _, revision = run(["git", "describe", "--always", "--dirty"], 20, cwd=ROOT)
    _, nvcc = run(["nvcc", "--version"], 20)
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "gpu": gpu.strip(),
        "gpu_name": gpu.split(",")[0].strip() if status == 0 else "no GPU",
        "cuda_status": dlcore.info()["cuda_status"],
        "nvcc": nvcc.strip().splitlines()[-1] if nvcc.strip() else "",
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {name: version_of(name) for name in ("numpy", "torch", "jax", "nvidia-cublas")},
        "revision": revision.strip(),
        "sources": schema.source_hash(),
    }


def ceilings(small: bool) -> dict[str, float | None]:
    """The denominators of this machine, this hour: copy bandwidth and the rate of a large product."""
    result: dict[str, float | None] = {"copy_bytes_per_second": None, "bf16_flops": None}
    try:
        import torch
    except ImportError:
        torch = None
    if torch is None or not torch.cuda.is_available():
        # dlcore's own copy: the identity reads and writes every element once.
        count = 10**5 if small else 10**8
        x = dlcore.device_array(np.random.default_rng(0).random(count, np.float32))
        out = dlcore.device_array(np.zeros(count, np.float32))
        seconds = cases.least(lambda: dlcore._cuda.activation_forward("identity", x, 0.0, out), 5)
        result["copy_bytes_per_second"] = 8 * count / seconds
        return result
    count = 10**8
    a = torch.randn(count, device="cuda")
    b = torch.empty_like(a)
    seconds = cases.torch_seconds(lambda: b.copy_(a), 20)
    result["copy_bytes_per_second"] = 8 * count / seconds
    # Random numbers: products of zeros take less power and run faster.
    n = 8192
    m, k = (torch.randn(n, n, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = cases.torch_seconds(lambda: m @ k, 20)
    result["bf16_flops"] = 2 * n**3 / seconds
    return result


def correctness(limit: float) -> dict[str, object]:
    """The property tests of the GPU, on this one."""
    begin = time.monotonic()
    parts = ("gpu", "gpu_fits", "gpu_arrays", "gpu_functional", "group", "population")
    files = [f"tests/test_{part}.py" for part in parts if (ROOT / f"tests/test_{part}.py").exists()]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    status, output = run(command, limit, cwd=ROOT, env={**os.environ, "CI": "1"})
    last = output.strip().splitlines()[-1] if output.strip() else ""
    return {
        "passed": status == 0,
        "summary": last,
        "seconds": round(time.monotonic() - begin, 1),
        "output": "" if status == 0 else output,
    }


def sanitizer(limit: float) -> dict[str, object]:
    """compute-sanitizer on toy shapes, where this machine lets it run."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"ran": False, "reason": "there is no compute-sanitizer"}
    toy = [sys.executable, "-m", "benchmarks.gpu.toy"]
    found: dict[str, object] = {"ran": True}
    for check in ("memcheck", "racecheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", *toy]
        status, output = run(command, limit / 2, cwd=ROOT)
        found[check] = {
            "status": {0: "clean", 9: "errors", 124: "too slow"}.get(status, "cannot run"),
            "output": "" if status == 0 else output[-1500:],
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="")
    parser.add_argument("--stages", default="environment,ceilings,correctness,sanitizer,timings")
    parser.add_argument("--emulate", action="store_true")
    parser.add_argument("--build-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    stages = arguments.stages.split(",")
    if not dlcore.info()["cuda"]:
        print(f"gpu_evidence: no GPU: {dlcore.info()['cuda_status']}")
        return 1
    if dlcore._cuda.emulated != arguments.emulate:
        print("gpu_evidence: --emulate is for an emulated build, and the other way round")
        return 1
    evidence: dict[str, object] = {
        "schema": schema.VERSION,
        "emulated": arguments.emulate,
        "environment": environment(),
        "build": {"seconds": arguments.build_seconds},
    }
    name = str(evidence["environment"]["gpu_name"]).lower().replace("nvidia", "").split()
    date = datetime.date.today().isoformat()
    default = ROOT / "benchmarks" / "results" / f"gpu-{'-'.join(name) or 'unknown'}-{date}.json"
    path = Path(arguments.out) if arguments.out else default
    path.parent.mkdir(parents=True, exist_ok=True)

    def keep(part: str, found: object) -> None:
        evidence[part] = found
        path.write_text(json.dumps(evidence, indent=1, allow_nan=False) + "\n")
        latest = found[-1] if isinstance(found, list) else found
        print(f"--- {part}: {json.dumps(latest)[:600]}", flush=True)

    keep("environment", evidence["environment"])
    limits: dict[str, float | None] = {}
    if "ceilings" in stages:
        limits = ceilings(arguments.emulate)
        keep("ceilings", limits)
    if "correctness" in stages:
        keep("correctness", correctness(240))
    if "sanitizer" in stages:
        keep("sanitizer", sanitizer(120))
    if "timings" in stages:
        rows: list[dict[str, object]] = []
        for row in cases.measure(arguments.emulate, limits, deadline=time.monotonic() + 240):
            rows.append(row)
            keep("cases", rows)
    problems = schema.problems(evidence)
    for problem in problems:
        print(f"gpu_evidence: {problem}")
    print(table.text(evidence))
    good = not problems and evidence.get("correctness", {"passed": True})["passed"]
    if arguments.emulate:
        path.unlink()  # times of an emulation mean nothing
    else:
        print(f"written to {path}")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
