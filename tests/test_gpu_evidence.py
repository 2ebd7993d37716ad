"""Files of GPU evidence: what they hold, whether they speak of these sources, and their table."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.gpu import schema, table

FILES = sorted((ROOT / "benchmarks" / "results").glob("gpu-*.json"))


def example() -> dict:
    own = {"seconds": 1e-5, "agrees": True, "engine": "graph", "precision": "tf32"}
    peers = {
        "torch graph": {"seconds": 4e-5, "agrees": True},
        "torch eager": {"seconds": 1e-6, "agrees": False},  # wrong, so its time is nothing
        "jax scan": {"absent": "jax is not installed"},
    }
    return {
        "schema": schema.VERSION,
        "environment": {
            "date": "2026-01-01T00:00:00+00:00",
            "gpu_name": "NVIDIA X",
            "revision": "abc",
            "sources": schema.source_hash(),
            "versions": {},
        },
        "build": {"seconds": 60.0},
        "correctness": {"summary": "3 passed", "passed": True},
        "cases": [
            {
                "case": "a",
                "work": "784-128-10, batch 128, tf32",
                "unit": "a step",
                "floor_seconds": 1e-6,
                "dlcore": own,
                "peers": peers,
            }
        ],
    }


def test_the_table_counts_what_agrees() -> None:
    shown = table.text(example())
    row = "784-128-10, batch 128, tf32 | 10 us a step (graph, tf32) | 10 % | torch graph 40 us | 4.00x"
    assert row in shown
    assert "checks: 3 passed" in shown


def test_problems_are_named() -> None:
    good = example()
    assert schema.problems(good) == []
    assert not schema.is_stale(good)
    bad = example()
    bad["environment"]["sources"] = "another"
    assert schema.is_stale(bad)
    del bad["environment"]["gpu_name"]
    bad["cases"][0]["dlcore"] = {"seconds": float("nan")}
    bad["cases"].append({"case": "z"})
    said = "; ".join(schema.problems(bad))
    for part in ("no gpu_name", "dlcore has no time", "dlcore was not compared", "case 'z'"):
        assert part in said


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_evidence_is_whole_and_of_these_sources(path: Path) -> None:
    evidence = json.loads(path.read_text())
    assert schema.problems(evidence) == []
    assert not evidence["emulated"]
    if schema.is_stale(evidence):
        pytest.skip(
            f"{path.name} is stale: the native sources have changed since; run gpu_evidence.sh"
        )


def test_the_readme_shows_figures_of_a_file_alone() -> None:
    """Between its marks the README holds the newest file's table, or nothing while there is none."""
    text = (ROOT / "docs" / "cuda.md").read_text()
    begin, end = "<!-- gpu evidence begins -->", "<!-- gpu evidence ends -->"
    shown = text[text.index(begin) + len(begin) : text.index(end)].strip()
    if FILES:
        assert shown == table.text(json.loads(FILES[-1].read_text()))
    else:
        assert "not been run on a GPU" in shown
