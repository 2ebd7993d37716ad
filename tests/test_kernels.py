"""Which kernels run, who chooses them, and that they give the same bits every time."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

import dlcore
from cases import CASES, DTYPES, Draw
from dlcore import _core, functional

AVAILABLE = _core.available_kernels()
THREADS = (1, 2, 3, 7)


def run(code, **environment):
    """Run Python in a fresh process; environment variables of None are removed."""
    variables = {**os.environ, **environment}
    variables = {name: value for name, value in variables.items() if value is not None}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=False
    )


def test_the_plain_loops_are_always_there():
    assert AVAILABLE[-1] == "reference"
    assert set(AVAILABLE) <= {"reference", "avx2", "avx512", "neon"}
    assert len(set(AVAILABLE)) == len(AVAILABLE)


def test_the_kernels_of_this_cpu_are_there():
    """What the operating system says of the CPU, against what the core found."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = set(file.read().split())
    except OSError:
        pytest.skip("this system does not say what its CPU can do")
    assert ("avx2" in AVAILABLE) == ({"avx2", "fma", "f16c"} <= flags)
    assert ("avx512" in AVAILABLE) == (
        {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx2", "fma"} <= flags
    )


@pytest.mark.parametrize("name", AVAILABLE)
def test_set_kernels(name):
    _core.set_kernels(name)
    assert _core.kernels() == name
    assert name in str(dlcore.info())


def test_the_best_kernels_come_first():
    _core.set_kernels("")
    assert _core.kernels() == AVAILABLE[0]


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_environment_chooses(name):
    code = "from dlcore import _core; print(_core.kernels())"
    result = run(code, DLCORE_KERNELS=name)
    assert result.stdout.strip() == name, result.stderr


def test_without_the_environment_the_best_run():
    result = run("from dlcore import _core; print(_core.kernels())", DLCORE_KERNELS=None)
    assert result.stdout.strip() == AVAILABLE[0], result.stderr


def test_an_unknown_name_is_one_sentence():
    known = ", ".join(AVAILABLE)
    _core.set_kernels("reference")
    with pytest.raises(ValueError) as caught:
        _core.set_kernels("avx9")
    sentence = f"avx9 is not available on this CPU; choose one of {known}"
    assert str(caught.value).endswith(sentence)
    assert _core.kernels() == "reference"
    code = "import numpy, dlcore; dlcore.functional.relu(numpy.ones(3))"
    result = run(code, DLCORE_KERNELS="avx9")
    assert result.returncode != 0
    assert f"DLCORE_KERNELS=avx9 is not available on this CPU; choose one of {known}" in (
        result.stderr
    )


def test_forcing_changes_what_runs():
    """float32 sums in another order: some bit of a long product must differ between two widths."""
    if len(AVAILABLE) < 2:
        pytest.skip("this CPU has the plain loops only")
    draw = Draw(0)
    x, weight = draw.values(32, 513), draw.values(31, 513)
    results = set()
    for name in AVAILABLE:
        _core.set_kernels(name)
        results.add(functional.dense(x, weight).tobytes())
    assert len(results) >= 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_twice_the_same_bits(case, dtype, kernels):
    """Elsewhere in memory too: no result may depend on where its arguments lie."""
    sizes = {1: (1037,), 2: (37, 133), 3: (37, 45, 133)}[len(case.small[-1])]
    results = []
    for offset in (0, 0, 1, 5):
        arguments = case.arguments(Draw(3, dtype, "normal", offset), *sizes)
        result = case.run(*arguments)
        result = result if isinstance(result, tuple) else (result,)
        results.append([np.asarray(r).tobytes() for r in result])
    assert all(r == results[0] for r in results)


def digest(array):
    """Short for the bits of an array."""
    return hashlib.sha256(array.tobytes()).hexdigest()


@pytest.fixture
def threads():
    """Limits the threads of single operations, which never use more than this process may."""
    yield _core.set_threads
    _core.set_threads(0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("dense_forward", (257, 256, 300)),
        ("dense_backward", (257, 256, 300)),
        ("dense_backward", (2050, 10, 129)),  # narrow: cut over the features
        ("sigmoid_forward", (200_003,)),
        ("gelu_backward", (200_003,)),
        ("softmax", (700, 129)),
        ("cross_entropy_forward", (700, 129)),
        ("mse_backward", (700, 129)),
        ("dropout_forward", (700, 129)),
    ],
)
def test_operations_at_any_number_of_threads(name, sizes, dtype, threads):
    case = next(case for case in CASES if case.name == name)
    arguments = case.arguments(Draw(1, dtype), *sizes)
    results, most = [], _core.default_threads()
    for count in (*THREADS, 1):
        threads(count)
        assert _core.default_threads() == min(count, most)
        result = case.run(*arguments)
        result = result if isinstance(result, tuple) else (result,)
        results.append([np.asarray(r).tobytes() for r in result])
    assert all(r == results[0] for r in results)


def training_run(dtype, threads, clip_norm=None):
    """Bits of a run of which every part is large enough to be cut into several tasks.

    Arrays as digests, whose difference a failing test can print.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 256)).astype(dtype)
    y = rng.integers(0, 130, 300)
    network = dlcore.Network(
        [
            dlcore.Dense(256),
            dlcore.ReLU(),
            dlcore.Dropout(0.2),
            dlcore.Residual([dlcore.Dense(256), dlcore.SiLU()]),
            dlcore.Tanh(),
            dlcore.Dense(130),
        ],
        (256,),
        seed=1,
        dtype=dtype,
    )
    history = network.fit(
        x,
        y,
        optimizer=dlcore.Adam(1e-3),
        epochs=1,
        batch_size=128,
        seed=3,
        threads=threads,
        clip_norm=clip_norm,
        sample_weight=rng.random(300),
        validation_data=(x, y),
    )
    evaluated = network.evaluate(x, y, threads=threads)
    loss, gradients = network.loss_and_gradients(x, y, threads=threads)
    return [
        *(digest(p) for p in network.parameters.values()),
        *(digest(g) for g in gradients.values()),
        digest(network.predict(x, threads=threads)),
        history.loss,
        history.val_loss,
        evaluated,
        loss,
    ]


@pytest.mark.parametrize("clip_norm", [None, 0.01])
@pytest.mark.parametrize("dtype", DTYPES)
def test_training_at_any_number_of_threads(dtype, clip_norm):
    """The same bits at 1, 2, 3 and 7 threads, and again."""
    first = training_run(dtype, 1, clip_norm)
    for threads in (*THREADS[1:], 1):
        assert training_run(dtype, threads, clip_norm) == first, f"{threads} threads"
        # Beside the calling thread; as many as were asked for, whatever this machine has.
        assert _core.pool_threads() >= threads - 1


def test_training_on_every_implementation(kernels):
    """How work is cut does not depend on the kernels, so two numbers of threads will do."""
    assert training_run("float32", 1) == training_run("float32", 3)
