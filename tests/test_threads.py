"""The pool: how many threads, who may limit them, and what happens after a fork."""

import glob
import multiprocessing
import os
import select
import subprocess
import sys
import threading

import numpy as np
import pytest

import dlcore
from dlcore import _core

RNG = np.random.default_rng(0)
X = RNG.normal(size=(600, 200)).astype(np.float32)
Y = RNG.integers(0, 5, 600)


def trained(threads=None):
    network = dlcore.Network([dlcore.Dense(256), dlcore.ReLU(), dlcore.Dense(5)], (200,))
    network.fit(X, Y, epochs=2, batch_size=200, threads=threads)
    return dict(network.parameters)


def run(code, **environment):
    """Output of a fresh interpreter."""
    settings = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**settings, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ASK = "import dlcore; print(dlcore._core.default_threads())"


@pytest.mark.parametrize("name", ["DLCORE_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_limits_and_never_raises(name):
    assert run(ASK, **{name: "1"}) == "1"
    assert run(ASK, **{name: "100000"}) == run(ASK)
    assert run(ASK, **{name: "nonsense"}) == run(ASK)


def test_dlcores_own_variable_wins():
    own = run(ASK, DLCORE_NUM_THREADS="1", OMP_NUM_THREADS="2")
    assert own == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinity masks")
def test_affinity_limits():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); " + ASK
    assert run(code) == "1"


def test_threads_engage_and_are_obeyed_as_given():
    code = (
        "import dlcore, numpy as np\n"
        "x = np.ones((600, 200), np.float32); y = np.arange(600) % 5\n"
        "n = dlcore.Network([dlcore.Dense(256), dlcore.ReLU(), dlcore.Dense(5)], (200,))\n"
        "n.fit(x, y, epochs=1, batch_size=200, threads=1); print(dlcore._core.pool_threads())\n"
        "n.fit(x, y, epochs=1, batch_size=200, threads=5); print(dlcore._core.pool_threads())\n"
    )
    assert run(code).split() == ["0", "4"]


@pytest.mark.parametrize("first", ["dlcore", "threadpoolctl"])
def test_threadpoolctl_sees_and_limits(first):
    pytest.importorskip("threadpoolctl", minversion="3.2")
    second = {"dlcore": "threadpoolctl", "threadpoolctl": "dlcore"}[first]
    code = (
        f"import {first}, {second}\n"
        "ask = dlcore._core.default_threads\n"
        "before = ask()\n"
        "seen = [p for p in threadpoolctl.threadpool_info() if p['user_api'] == 'dlcore']\n"
        "assert len(seen) == 1 and seen[0]['num_threads'] == before, seen\n"
        "with threadpoolctl.threadpool_limits(1):\n"
        "    assert ask() == 1\n"
        "assert ask() == before\n"
    )
    run(code)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_forked_child_trains_with_a_new_pool():
    expected = trained(threads=3)
    assert _core.pool_threads() >= 2
    child = os.fork()
    if child == 0:
        status = 1
        try:
            assert _core.pool_threads() == 0
            same = trained(threads=3)
            assert _core.pool_threads() == 2
            status = 0 if all((same[k] == v).all() for k, v in expected.items()) else 2
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    again = trained(threads=3)
    assert all((again[k] == v).all() for k, v in expected.items())


def test_two_python_threads_train_at_once_with_the_same_bits():
    expected = trained(threads=2)
    results = [None] * 4

    def work(i):
        results[i] = trained(threads=2 + i % 2)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        assert all((result[k] == v).all() for k, v in expected.items())


# --- How many run at once -----------------------------------------------------------------------

CPUS = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
two_cpus = pytest.mark.skipif(
    len(CPUS) < 2 or not os.path.isdir("/proc/self/task"), reason="needs two CPUs and /proc"
)

# What every script below begins with; `work(**settings)` trains for about a second, with loops
# that are cut into tasks, and says when it begins.
WORK = f"""
import os, sys, time
os.sched_setaffinity(0, {set(CPUS)})
import numpy as np
import dlcore

def work(seconds=1.5, begin=True, **settings):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(512, 256)).astype(np.float32)
    y = rng.integers(0, 8, len(x))
    network = dlcore.Network([dlcore.Dense(512), dlcore.ReLU(), dlcore.Dense(8)], (256,))
    network.fit(x, y, epochs=1, batch_size=256, **settings)
    if begin:
        os.write(1, b"begin\\n")
    end = time.monotonic() + seconds
    network.fit(x, y, epochs=10**6, batch_size=256, on_epoch=lambda _: time.monotonic() < end,
                **settings)
    return dlcore._core.default_threads()
"""


def descendants(process):
    """The process and all that it and its children started."""
    found, new = set(), {process}
    while new:
        found |= new
        children = set()
        for parent in new:
            for task in glob.glob(f"/proc/{parent}/task/*/children"):
                try:
                    with open(task) as file:
                        children |= {int(number) for number in file.read().split()}
                except OSError:  # it has ended
                    pass
        new = children - found
    return found


def runnable(processes):
    """Threads of the processes that run or wait for a CPU."""
    count = 0
    for process in processes:
        for task in glob.glob(f"/proc/{process}/task/*/stat"):
            try:
                with open(task) as file:
                    count += file.read().rpartition(")")[2].split()[0] == "R"
            except OSError:
                pass
    return count


def running_threads(code, begins=1):
    """Counts of runnable threads while a script works, taken every few milliseconds."""
    settings = {name: value for name, value in os.environ.items() if "NUM_THREADS" not in name}
    counts, begun, shown = [], 0, b""
    with subprocess.Popen(
        [sys.executable, "-c", WORK + code], env=settings, stdout=subprocess.PIPE
    ) as child:
        # Until a worker is done: from then on fewer run.
        while b"end" not in shown and child.poll() is None:
            if select.select([child.stdout], [], [], 0.004)[0]:
                shown += os.read(child.stdout.fileno(), 1000)
                begun = shown.count(b"begin")
            elif begun >= begins:
                counts.append(runnable(descendants(child.pid)))
        child.stdout.read()
        assert child.wait(60) == 0
    # The pool's thread that helped the first worker needs a CPU once more to go to sleep, which it
    # may have to wait for on a machine with other work.
    counts = counts[len(counts) // 3 :]
    assert len(counts) >= 10, shown
    return np.array(counts)


def never_more_than_two(counts):
    """Whether two threads run; for moments, when one is woken as another goes to sleep, three."""
    return np.mean(counts > 2) <= 0.3


POOLS = {
    "one thread": "work()\nos.write(1, b'end')",
    "ThreadPoolExecutor": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    for done in [pool.submit(work) for _ in range(2)]:
        done.result()
        os.write(1, b"end")
""",
    "fleets": """
from concurrent.futures import ThreadPoolExecutor
def fleet(_):
    networks = [dlcore.Network([dlcore.Dense(64), dlcore.ReLU(), dlcore.Dense(8)], (256,))
                for _ in range(8)]
    x = np.ones((4096, 256), np.float32)
    os.write(1, b"begin\\n")
    dlcore.fit_many(networks, x, np.arange(len(x)) % 8, epochs=30, batch_size=32)
    os.write(1, b"end")
with ThreadPoolExecutor(2) as pool:
    list(pool.map(fleet, range(2)))
""",
    "joblib threading": """
from joblib import Parallel, delayed
Parallel(2, backend="threading")(delayed(work)() for _ in range(2))
os.write(1, b"end")
""",
    "joblib loky": """
from joblib import Parallel, delayed
counts = Parallel(2, backend="loky")(delayed(work)() for _ in range(2))
os.write(1, b"end")
assert sum(counts) == 2, counts
""",
    "Dask": """
from dask import config
from dask.distributed import Client, LocalCluster
config.set({"distributed.worker.daemon": False})
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False,
                      dashboard_address=None) as cluster, Client(cluster) as client:
        client.gather([client.submit(work, pure=False) for _ in range(2)])
        os.write(1, b"end")
""",
}


@two_cpus
@pytest.mark.parametrize("pool", POOLS)
def test_no_more_threads_run_than_there_are_cpus(pool):
    for module in {"joblib": ["joblib"], "Dask": ["distributed"]}.get(pool.split()[0], []):
        pytest.importorskip(module)
    counts = running_threads(POOLS[pool], begins=1 if pool == "one thread" else 2)
    assert never_more_than_two(counts), np.bincount(counts)
    assert np.mean(counts >= 2) >= 0.5, np.bincount(counts)  # and both CPUs are used


@two_cpus
def test_asked_for_threads_run_whatever_else_runs():
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    first = pool.submit(work, threads=3)
    second = pool.submit(work)
    first.result()
    os.write(1, b"end")
    assert dlcore._core.pool_threads() == 2
"""
    counts = running_threads(code, begins=2)
    assert np.mean(counts >= 3) >= 0.5, np.bincount(counts)
    assert not never_more_than_two(counts)


@two_cpus
def test_a_call_from_a_callback_has_the_threads_of_its_call():
    code = """
rng = np.random.default_rng(0)
x = rng.normal(size=(512, 256)).astype(np.float32)
other = dlcore.Network([dlcore.Dense(512), dlcore.ReLU(), dlcore.Dense(8)], (256,))
end = time.monotonic() + 1
def again(_):
    for _ in range(20):
        other.predict(x)
    return time.monotonic() < end
network = dlcore.Network([dlcore.Dense(8)], (256,))
os.write(1, b"begin")
network.fit(x, np.arange(512) % 8, epochs=10**6, on_epoch=again)
os.write(1, b"end")
"""
    counts = running_threads(code)
    assert never_more_than_two(counts), np.bincount(counts)
    assert np.mean(counts == 2) >= 0.4, np.bincount(counts)


# --- Quotas of control groups -------------------------------------------------------------------

V2 = {"proc/self/cgroup": "0::/user.slice/job\n"}
V1 = {"proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/user/job\n1:name=systemd:/other\n"}


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, 0),
        (V2, 0),
        ({**V2, "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n"}, 0),
        ({**V2, "sys/fs/cgroup/user.slice/job/cpu.max": "200000 100000\n"}, 2),
        ({**V2, "sys/fs/cgroup/user.slice/job/cpu.max": "150000 100000\n"}, 2),  # rounded up
        ({**V2, "sys/fs/cgroup/user.slice/job/cpu.max": "10000 100000\n"}, 1),
        (  # the least on the way up counts
            {
                **V2,
                "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
                "sys/fs/cgroup/user.slice/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/cpu.max": "800000 100000\n",
            },
            3,
        ),
        ({**V2, "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),  # a path of the host's
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/user/job/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/user/job/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "50000\n",
            },
            2,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu/user/job/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/user/job/cpu.cfs_period_us": "100000\n",
            },
            0,
        ),
        ({**V2, "sys/fs/cgroup/user.slice/job/cpu.max": "nonsense"}, 0),
        ({"proc/self/cgroup": "0:\n:\nnonsense\n4:cpu:relative\n"}, 0),
    ],
)
def test_quota_of_control_groups(files, cpus, tmp_path):
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert _core.cgroup_cpus(str(tmp_path)) == cpus


# --- Processes ----------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_multiprocessing_with_fork_after_use():
    expected = trained(threads=3)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        for result in pool.map(trained, [1, 2, 3, 4]):
            assert all((result[k] == v).all() for k, v in expected.items())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
def test_a_fork_while_another_thread_trains():
    """The child has neither the other thread nor its share of the CPUs."""
    going = threading.Event()
    stop = threading.Event()

    def train():
        network = dlcore.Network([dlcore.Dense(256), dlcore.ReLU(), dlcore.Dense(5)], (200,))
        network.fit(X, Y, epochs=10**6, batch_size=200, threads=2,
                    on_epoch=lambda _: going.set() or not stop.is_set())  # fmt: skip

    thread = threading.Thread(target=train)
    thread.start()
    try:
        assert going.wait(30)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                trained()
                status = 0 if _core.pool_threads() == _core.default_threads() - 1 else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()
