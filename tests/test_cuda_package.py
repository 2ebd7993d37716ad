"""The GPU engines as installed: what they need to be loaded, and what is said where that is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import struct
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import dlcore
from dlcore import _device

ROOT = Path(__file__).parents[1]
PACKAGE = Path(dlcore.__file__).parent
BUILT = sorted(PACKAGE.glob("_cuda.*.so"))
built = pytest.mark.skipif(not BUILT, reason="this build has no CUDA engine")
real = pytest.mark.skipif(
    not BUILT or _device._extension()[0].emulated, reason="needs a build by nvcc"
)
emulated = pytest.mark.skipif(
    not BUILT or not _device._extension()[0].emulated, reason="needs the emulation"
)
without_gpu = pytest.mark.skipif(dlcore.info()["cuda"], reason="there is a GPU")


def in_fresh_process(code: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, **environment},
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def needed_libraries(path: Path) -> list[str]:
    """DT_NEEDED of a 64-bit little-endian ELF file."""
    data = path.read_bytes()
    assert data[:6] == b"\x7fELF\x02\x01"
    table, entry, count = (
        struct.unpack_from("<Q", data, 40)[0],
        *struct.unpack_from("<HH", data, 58),
    )
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
    dynamic = next(s for s in sections if s[1] == 6)
    strings = sections[dynamic[6]][4]
    names = []
    for at in range(dynamic[4], dynamic[4] + dynamic[5], 16):
        tag, value = struct.unpack_from("<QQ", data, at)
        if tag == 1:
            begin = strings + value
            names.append(data[begin : data.index(b"\0", begin)].decode())
    return names


def test_import_leaves_the_engines_alone() -> None:
    code = "import sys, dlcore; print('dlcore._cuda' in sys.modules)"
    assert in_fresh_process(code) == "False"


@emulated
def test_asking_for_gpus_starts_none() -> None:
    """CUDA takes memory of a GPU on which it runs, and one may be another process's alone."""
    code = (
        "import dlcore; print(dlcore.info()['cuda']); from dlcore import _cuda; "
        "print(_cuda.emulated_counts()['started']); "
        "network = dlcore.Network([dlcore.Dense(1)], 2, device='cuda'); "
        "print(_cuda.emulated_counts()['started'])"
    )
    said = in_fresh_process(code, DLCORE_EMULATED_DEVICES="3")
    assert said.split() == ["True", "0", "1"]


@emulated
@pytest.mark.parametrize("used", ["cuda:0", "cuda:1", "cuda:2"])
def test_only_the_gpu_that_is_used_is_started(used: str) -> None:
    """Nor does what ends start one: memory, streams and events are freed where they are."""
    code = f"""
import threading
import numpy as np
import dlcore
from dlcore import _cuda

def work():
    x = np.ones((40, 3), np.float32)
    network = dlcore.Network([dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(2)], 3, device="{used}")
    network.fit(x, np.arange(40) % 2, epochs=2, batch_size=8, validation_data=(x, np.zeros(40, int)))
    network.predict(x)
    network.loss_and_gradients(x, np.arange(40) % 2)
    fleet = [dlcore.Network([dlcore.Dense(width), dlcore.Dense(2)], 3) for width in range(1, 9)]
    dlcore.fit_many(fleet, x, np.arange(40) % 2, device="{used}", epochs=1)
    array = dlcore.device_array(x, "{used}")
    class Foreign:
        __cuda_array_interface__ = array.__cuda_array_interface__
    assert network.predict(array).device == "{used}"
    assert dlcore.functional.relu(array).device == "{used}"
    assert dlcore.device_array(Foreign()).device == "{used}"
    return network, array

print(_cuda.emulated_current_device() if dlcore.info()["cuda"] else "")
kept = work()
threading.Thread(target=work).start()
threading.Thread(target=kept[0].predict, args=(kept[1],)).start()
del kept
print(_cuda.emulated_counts()["started"], _cuda.emulated_current_device())
"""
    said = in_fresh_process(code, DLCORE_EMULATED_DEVICES="3")
    assert said.split() == ["0", "1", "0"]


@emulated
def test_a_gpu_too_old_is_left_out_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLCORE_EMULATED_DEVICES", "3")
    old = dlcore.device_array(np.ones(3, np.float32), "cuda:2")
    monkeypatch.setenv("DLCORE_EMULATED_OLD_DEVICES", "02")
    why = "cannot be used: the GPU emulated old GPU is of compute capability 7.5, and dlcore needs 8.0"
    status = dlcore.info()["cuda_status"]
    assert status.startswith(f"emulated GPU; cuda:0 {why}; cuda:2 {why}; driver for CUDA")
    assert dlcore.info()["cuda"] is True
    for device in ("cuda", "cuda:2"):
        expected = f'device="{device}" {why}; use cuda:1'
        with pytest.raises(RuntimeError) as error:
            dlcore.Network([dlcore.Dense(1)], 2, device=device)
        assert str(error.value) == f"Network: {expected}"
        with pytest.raises(RuntimeError) as error:
            dlcore.device_array(np.ones(3), device)
        assert str(error.value) == f"device_array: {expected}"
    with pytest.raises(RuntimeError, match=r'"cuda:3" does not exist; there are 3 GPUs, counted'):
        dlcore.Network([dlcore.Dense(1)], 2, device="cuda:3")
    for protocol in ("__cuda_array_interface__", "__dlpack__"):
        names = (protocol, "__dlpack_device__") if protocol == "__dlpack__" else (protocol,)
        given = SimpleNamespace(**{name: getattr(old, name) for name in names})
        with pytest.raises(RuntimeError) as error:
            dlcore.functional.relu(given)
        assert str(error.value) == f"relu: x lies on cuda:2, which {why}; use cuda:1"

    network = dlcore.Network([dlcore.Dense(2)], 2, device="cuda:1")
    x = dlcore.device_array(np.ones((4, 2), np.float32), "cuda:1")
    network.fit(x, [0, 1, 0, 1], epochs=1)
    assert network.predict(x).device == dlcore.functional.relu(x).device == "cuda:1"

    monkeypatch.setenv("DLCORE_EMULATED_OLD_DEVICES", "012")
    assert dlcore.info()["cuda"] is False
    assert dlcore.info()["cuda_status"] == "; ".join(f"cuda:{i} {why}" for i in range(3))
    with pytest.raises(
        RuntimeError, match=r'^Network: device="cuda:1" is not available: cuda:0 ca'
    ):
        dlcore.Network([dlcore.Dense(1)], 2, device="cuda:1")


@built
def test_nothing_of_cuda_is_linked() -> None:
    allowed = (
        "libc.",
        "libm.",
        "libstdc++.",
        "libgcc_s.",
        "ld-linux",
        "libdl.",
        "libpthread.",
        "librt.",
    )
    names = needed_libraries(BUILT[0])
    assert names
    assert [name for name in names if not name.startswith(allowed)] == []


@without_gpu
def test_a_missing_gpu_is_one_sentence() -> None:
    status = dlcore.info()["cuda_status"]
    assert status
    with pytest.raises(RuntimeError) as error:
        dlcore.Network([dlcore.Dense(1)], 2, device="cuda")
    expected = f'Network: device="cuda" is not available: {status}; use device="cpu"'
    assert str(error.value) == expected
    network = dlcore.Network([dlcore.Dense(1)], 2)
    with pytest.raises(RuntimeError, match="is not available"):
        network.to("cuda")
    with pytest.raises(RuntimeError, match="is not available"):
        dlcore.fit_many([network], np.zeros((2, 2)), np.zeros(2), device="cuda")
    with pytest.raises(RuntimeError, match="is not available"):
        dlcore.device_array(np.zeros(2, np.float32))
    assert network.device == "cpu"


@real
def test_without_a_library_the_reason_names_what_was_tried() -> None:
    code = "from dlcore import _cuda; print(_cuda.open_cublaslt('/nowhere/libcublasLt.so.13'))"
    said = in_fresh_process(code, DLCORE_CUBLASLT="")
    if "True" not in said:  # a system that has the library answers with it
        assert "/nowhere/libcublasLt.so.13" in said
        assert "no cuBLASLt" in said
    said = in_fresh_process(code, DLCORE_CUBLASLT="/elsewhere/libcublasLt.so")
    assert "DLCORE_CUBLASLT cannot be used: /elsewhere/libcublasLt.so" in said
    # A library that is another one.
    said = in_fresh_process(code, DLCORE_CUBLASLT=str(BUILT[0]))
    assert "lacks a function of cuBLASLt" in said


@built
def test_a_folder_of_its_own_will_do(tmp_path: Path) -> None:
    """As `pip install --target` leaves it, beside no other package."""
    shutil.copytree(PACKAGE, tmp_path / "dlcore", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import dlcore; print(dlcore.__file__); print(dlcore.info()['cuda_status'])"
    place, status = in_fresh_process(code, PYTHONPATH=str(tmp_path)).splitlines()
    assert Path(place).parent == tmp_path / "dlcore"
    assert status == dlcore.info()["cuda_status"]


def test_a_build_without_the_engine_says_so(tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__", "_cuda*.so")
    shutil.copytree(PACKAGE, tmp_path / "dlcore", ignore=ignored)
    code = "import dlcore; print(dlcore.info()['cuda'], dlcore.info()['cuda_status'])"
    said = in_fresh_process(code, PYTHONPATH=str(tmp_path))
    assert said == "False this build of dlcore has no CUDA engine"
    (tmp_path / "dlcore" / "_cuda.py").write_text("raise ImportError('broken')\n")
    said = in_fresh_process(code, PYTHONPATH=str(tmp_path))
    assert said == "False dlcore._cuda cannot be loaded: broken"


def test_the_extra_names_the_libraries() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [line.split(">")[0] for line in extras["optional-dependencies"]["cuda13"]]
    assert names == ["nvidia-cublas", "cupy-cuda13x"]


def nvidia_headers() -> list[str] | None:
    """Folders of cuBLASLt's header and of the toolkit's, or nothing."""
    spec = None
    if importlib.util.find_spec("nvidia") is not None:
        spec = importlib.util.find_spec("nvidia.cu13")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    candidates = [os.path.join(place, "include") for place in places]
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        candidates.append(os.path.join(os.path.dirname(os.path.realpath(nvcc)), "..", "include"))
    candidates += [os.environ.get("DLCORE_CUDA_HEADERS", ""), "/usr/local/cuda/include"]
    found = []
    for header in ("cublasLt.h", "cuda_runtime_api.h"):
        place = next((c for c in candidates if os.path.exists(os.path.join(c, header))), None)
        if place is None:
            return None
        found.append(place)
    return found


@pytest.mark.skipif(nvidia_headers() is None, reason="needs cuBLASLt's header and the toolkit's")
def test_declarations_are_those_of_nvidias_header() -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a compiler")
    source = ROOT / "tests" / "cuda_host" / "lt_api_check.cpp"
    folders = [str(ROOT / "cuda"), str(ROOT / "cpp"), *(nvidia_headers() or ())]
    includes = [f"-I{folder}" for folder in folders]
    run = subprocess.run(
        [compiler, "-std=c++20", "-fsyntax-only", *includes, str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
