"""What a file of GPU evidence holds, and which sources it speaks of."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VERSION = 1
ROOT = Path(__file__).parents[2]

#: Sources whose change makes times and checks stale.
SOURCES = ("cuda", "cpp")
SUFFIXES = (".h", ".cpp", ".cu", ".cuh")

#: Every case's entry: what was run and what it must hold.
CASES = ("a", "b", "c", "d", "f", "e-relu", "e-sigmoid")


def source_hash() -> str:
    """Digest of all native sources but the emulation's."""
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and "emulated" not in path.parts:
                digest.update(str(path.relative_to(ROOT)).encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()


def is_stale(evidence: Mapping[str, Any]) -> bool:
    """Return whether the sources have changed since."""
    return bool(evidence["environment"]["sources"] != source_hash())


def problems(evidence: Mapping[str, Any]) -> list[str]:
    """Return what is missing or impossible, in sentences."""
    found = []
    if evidence.get("schema") != VERSION:
        found.append(f"schema needs to be {VERSION}, found {evidence.get('schema')!r}")
    for part in ("environment", "build"):
        if not isinstance(evidence.get(part), Mapping):
            found.append(f"{part} is missing")
    for key in ("date", "gpu_name", "revision", "sources", "versions"):
        if key not in evidence.get("environment", {}):
            found.append(f"environment has no {key}")
    for row in evidence.get("cases", []):
        name = row.get("case")
        if name not in CASES:
            found.append(f"case {name!r} is unknown")
            continue
        for key in ("work", "unit", "dlcore", "peers", "floor_seconds"):
            if key not in row:
                found.append(f"case {name} has no {key}")
        for who, result in {"dlcore": row.get("dlcore", {}), **row.get("peers", {})}.items():
            if "absent" in result:
                continue
            seconds = result.get("seconds")
            if not (isinstance(seconds, float) and math.isfinite(seconds) and seconds > 0):
                found.append(f"case {name}: {who} has no time")
            if not isinstance(result.get("agrees"), bool):
                found.append(f"case {name}: {who} was not compared")
    return found
