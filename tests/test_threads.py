"""The pool: how many threads, who may limit them, and what happens after a fork."""

import os
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
    return network.parameters


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
