"""Kill a study at random instants, start it again each time, and compare with one left in peace.

    python benchmarks/study/kill.py --json benchmarks/results/study-kill.json
    python benchmarks/study/kill.py -- --data fashion-mnist --data-dir DIR --seeds 1 \
        --m 8867,30000 --sizes 32,128 --learners relu,logistic,svm

What follows ``--`` goes to ``dlcore study``. Rows, advice and the kept network have to be the same,
to the bit. The work that a kill cost is measured from the inside: the child writes down when a run
was begun, when something of it was written to the disk, and when it was committed; what a worker
did after the last of these is lost. The sum over the workers is printed. The exit status is 1 where
anything differs or a kill cost more than two seconds.
"""

from __future__ import annotations

import argparse
import json
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

MOST = 2.0  # seconds of work that a kill may cost

# The child: `dlcore study` with a diary. Times are those of a clock that all processes share.
CHILD = """
import os, sys, time
from dlcore import cli, files
from dlcore.scaling import runs, store, workers

diary = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def note(what, key, moment):
    os.write(diary, f"{what} {key[:24]} {moment}\\n".encode())

def noting_write(path, *arguments, write=files.write):
    moment = time.monotonic()
    write(path, *arguments)
    note("kept", os.path.basename(path).partition("-")[0], moment)

def noting_execute(work, chunk, execute=runs.execute):
    for run in chunk:
        note("begun", run.key(), time.monotonic())
    return execute(work, chunk)

def noting_add(self, results, add=store.Store.add):
    results = list(results)
    add(self, results)
    for result in results:
        note("committed", result.run.key(), time.monotonic())

files.write = noting_write
workers.execute = noting_execute
store.Store.add = noting_add
sys.exit(cli.main(sys.argv[2:]))
"""


def start(folder: Path, diary: Path, options: Sequence[str]) -> subprocess.Popen[bytes]:
    command = ["study", *options, "--out", str(folder), "--quiet"]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(diary), *command], stdout=subprocess.DEVNULL
    )


def lost(diary: Path, killed: float) -> list[float]:
    """Seconds of work that were lost by each run that was under way."""
    last: dict[str, float] = {}
    if not diary.exists():
        return []
    for line in diary.read_text().splitlines():
        what, key, moment = line.split()
        if what == "committed":
            last.pop(key, None)
        elif what == "begun" or key in last:
            last[key] = float(moment)
    return sorted((killed - moment for moment in last.values()), reverse=True)


def rows(folder: Path) -> dict[str, Any]:
    """What has to be the same: all of a row but when, where and how fast it was made."""
    path = folder / "study.db"
    if not path.exists():
        return {}
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)
    try:
        query = "SELECT key, score, validation, contributions, facts, finished FROM runs"
        found = list(connection.execute(query))
    except sqlite3.OperationalError:
        return {}
    finally:
        connection.close()
    kept = {}
    for key, score, validation, contributions, text, finished in found:
        facts = json.loads(text)
        for name in ("seconds", "train_seconds", "machine"):
            facts.pop(name)
        kept[key] = (score, validation, contributions, facts, finished)
    return kept


def same(one: Path, other: Path) -> dict[str, bool]:
    first, second = rows(one), rows(other)
    advice = [json.loads((p / "report.json").read_text())["advice"] for p in (one, other)]
    network = [(p / "model" / "network.safetensors").read_bytes() for p in (one, other)]
    return {
        "rows": {k: v[:4] for k, v in first.items()} == {k: v[:4] for k, v in second.items()},
        "advice": advice[0] == advice[1],
        "network": network[0] == network[1],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="draws the instants")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("options", nargs="*", help="of dlcore study, after --")
    given = parser.parse_args()
    random = Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, killed = Path(place) / "whole", Path(place) / "killed"
        begun = time.monotonic()
        if start(whole, Path(place) / "whole.diary", given.options).wait() != 0:
            return 1
        seconds = time.monotonic() - begun
        events = (Path(place) / "whole.diary").read_text().splitlines()
        awake = min(float(line.split()[2]) for line in events) - begun
        print(f"{len(rows(whole))} runs in {seconds:.1f} s, of which {awake:.1f} s to start")
        kills = []
        for number in range(given.kills):
            diary = Path(place) / f"{number}.diary"
            before = rows(killed)
            process = start(killed, diary, given.options)
            # In mean three quarters of an equal share of the work, so that all kills find some.
            share = 0.75 * (seconds - awake) / given.kills
            instant = awake + random.uniform(0, 2 * share)
            if number % 7 == 6:  # now and then before the first run has begun
                instant = random.uniform(0, awake)
            try:
                process.wait(instant)
                print("the study was done before all kills")
                break
            except subprocess.TimeoutExpired:
                moment = time.monotonic()
                process.send_signal(signal.SIGKILL)
                process.wait()
            after = rows(killed)
            again = sum(after[key] != before[key] for key in before)
            found = lost(diary, moment)
            kills.append(
                {
                    "lost_seconds": [round(value, 3) for value in found],
                    "sum": round(sum(found), 3),
                    "runs_before": len(before),
                    "runs_after": len(after),
                    "made_again": again,
                }
            )
            print(
                f"kill {number + 1:2}: {len(after):4} runs done; lost {sum(found):.2f} s of work"
                f" in {len(found)} runs under way"
            )
        finished = start(killed, Path(place) / "last.diary", given.options).wait()
        equal = same(whole, killed)
        left_over = [path.name for path in killed.glob("*.unfinished*")]
    most = max((kill["sum"] for kill in kills), default=0.0)
    again = sum(kill["made_again"] for kill in kills)
    print(f"same rows {equal['rows']}, advice {equal['advice']}, kept network {equal['network']}")
    print(f"committed runs made again: {again}; most lost by a kill: {most:.2f} s")
    if given.json:
        content = {
            **machine.header("benchmarks/study/kill.py"),
            "options": given.options,
            "seconds_undisturbed": round(seconds, 1),
            "kills": kills,
            "most_lost_seconds": most,
            "same": equal,
        }
        machine.write(Path(given.json), content)
    good = finished == 0 and all(equal.values()) and not again and not left_over and most <= MOST
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
