"""The table of a file of GPU evidence, for people and for the README: from the file alone."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

HEADER = ("work", "dlcore", "share of the floor", "best peer", "ratio")


def rows(evidence: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each case: only results that agree count."""
    found = []
    for case in evidence.get("cases", []):
        own = case["dlcore"]
        peers = {
            name: peer
            for name, peer in case["peers"].items()
            if "absent" not in peer and peer["agrees"]
        }
        shown, ratio, best = "-", "-", "-"
        if "absent" not in own:
            shown = f"{1e6 * own['seconds']:.4g} us {case['unit']} ({own['engine']}, {own['precision']})"
        if peers and "absent" not in own:
            name, peer = min(peers.items(), key=lambda item: item[1]["seconds"])
            best = f"{name} {1e6 * peer['seconds']:.4g} us"
            ratio = f"{peer['seconds'] / own['seconds']:.2f}x"
        share = "-"
        if case["floor_seconds"] and "absent" not in own:
            share = f"{100 * case['floor_seconds'] / own['seconds']:.0f} %"
        found.append((case["work"], shown, share, best, ratio))
    return found


def text(evidence: Mapping[str, Any]) -> str:
    """Return a table in Markdown, with the machine and the checks above it."""
    where = evidence["environment"]
    lines = [f"{where['gpu_name']}, {where['date'][:10]}, revision {where['revision']}"]
    if "correctness" in evidence:
        lines.append(f"checks: {evidence['correctness']['summary']}")
    lines += ["", f"| {' | '.join(HEADER)} |", f"|{'---|' * len(HEADER)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows(evidence)]
    return "\n".join(lines)


if __name__ == "__main__":
    import json
    from pathlib import Path

    print(text(json.loads(Path(sys.argv[1]).read_text())))
