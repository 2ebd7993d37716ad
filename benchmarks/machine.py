"""What is kept with every result: the machine, its measured limits, the sources' revision."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SCHEMA = 1


def facts() -> dict[str, Any]:
    """CPU model, cores, instruction set and system."""
    cpu: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                cpu.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    wanted = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")
    flags = cpu.get("flags", cpu.get("Features", "")).split()
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "allowed_cores": len(os.sched_getaffinity(0)),
        "instruction_set": [flag for flag in wanted if flag in flags],
        "last_level_cache": last_level_cache(),
        "system": platform.platform(),
    }


def last_level_cache() -> int | None:
    """Bytes of the largest cache of the first core, or None where the system does not say."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:], 1)
        sizes.append(int(text.rstrip("KM")) * unit)
    return max(sizes, default=None)


def revision() -> str:
    """What git calls the sources, "-dirty" if they were changed since."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def header(tool: str) -> dict[str, Any]:
    """The fields every result file begins with."""
    return {
        "schema": SCHEMA,
        "tool": tool,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "revision": revision(),
        "machine": facts(),
    }


def find_bench(given: str | None, python: str) -> str | None:
    """The binary dlcore-bench: as given, beside the dlcore of this Python, in build/, or on PATH."""
    if given is not None:
        if not os.access(given, os.X_OK):
            raise SystemExit(f"--bench {given} is not an executable file")
        return given
    code = "import dlcore, os; print(os.path.dirname(dlcore.__file__))"
    answer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    places = [Path(answer.stdout.strip()) / "bin" / "dlcore-bench"] if answer.stdout else []
    places += sorted((REPOSITORY / "build").glob("**/dlcore-bench"))
    for place in places:
        if os.access(place, os.X_OK) and place.is_file():
            return str(place)
    return shutil.which("dlcore-bench")


def limits(bench: str | None, threads: Sequence[int]) -> dict[int, dict[str, float]]:
    """FLOP/s and bytes/s the machine can do now, by number of threads; {} without dlcore-bench."""
    if bench is None:
        return {}
    counts = ",".join(map(str, threads))
    command = [bench, "--limits", "--threads", counts, "--json", "-"]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    measured: dict[int, dict[str, float]] = {}
    for limit in json.loads(answer)["limits"]:
        measured.setdefault(limit["threads"], {})[limit["name"]] = limit["rate"]
    return measured


class Load:
    """CPU seconds used up to now, by a process and by all, the host's own share included."""

    def __init__(self, pid: int) -> None:
        self.time = time.perf_counter()
        tick = os.sysconf("SC_CLK_TCK")
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        user, nice, system, _, _, interrupt, soft, steal = map(int, fields)
        self.all = (user + nice + system + interrupt + soft + steal) / tick
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        self.own = (int(after_name[11]) + int(after_name[12])) / tick

    def since(self, before: Load) -> tuple[float, float]:
        """CPUs that the process and that others used on average.

        The system counts in ticks: what the rounding of two of them explains is nobody's.
        """
        seconds, own = self.time - before.time, self.own - before.own
        others = self.all - before.all - own - 2 / os.sysconf("SC_CLK_TCK")
        return own / seconds, max(0.0, others) / seconds


def write(path: Path, result: dict[str, Any]) -> None:
    """Write beside and rename, so that a run that is killed leaves the last whole file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(path)
