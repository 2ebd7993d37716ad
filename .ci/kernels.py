"""What the compiler made of the GPU kernels: kernels.py MODULE TOOLS.

TOOLS is where the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm are installed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

#: Registers a thread of a kernel may have; blocks of 256 threads then run beside each other as the
#: second number says.
BUDGETS = {"train_population": (255, 1)}
OTHERS = (80, 3)
TARGETS = {"sm_80", "sm_90"}
#: What the population kernels multiply by, by a part of their names.
TENSOR_CORES = {
    "PlainTiles": None,
    "Tf32": "HMMA.1688.F32.TF32",
    "Bfloat16": "HMMA.16816.F32.BF16",
}
#: Kernels that only count elements, by a part of their names: they call nothing, as nvcc's divisions
#: of 64 bits are called.
WITHOUT_CALLS = ("3AddE", "convert_kernel")


def main() -> None:
    module, tools = Path(sys.argv[1]), Path(sys.argv[2])
    programs = {p.name: p for p in tools.rglob("bin/*") if p.is_file()}
    cuobjdump, folder = programs["cuobjdump"], programs["nvdisasm"].parent
    cuobjdump.chmod(0o755)
    programs["nvdisasm"].chmod(0o755)
    # cuobjdump looks for the disassembler on the path.
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}

    def dump(*options: str) -> str:
        command = [str(cuobjdump), *options, str(module)]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout

    names = re.findall(r"^\s*(?:PTX|ELF) file +\d+: (\S+)", dump("-lelf", "-lptx"), re.MULTILINE)
    compiled = {target for name in names for target in re.findall(r"sm_\d+a?", name)}
    assert compiled >= TARGETS, f"targets {sorted(compiled)} lack some of {sorted(TARGETS)}"
    assert any(name.endswith(".ptx") for name in names), "there is no PTX for later GPUs"

    usage = dump("-res-usage")
    found = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", usage)
    assert len(found) >= 20, f"only {len(found)} kernels found"
    most = 0
    for name, registers, stack, local in found:
        budget, _ = next((b for part, b in BUDGETS.items() if part in name), OTHERS)
        assert int(stack) == int(local) == 0, f"{name} spills: {stack} and {local} bytes"
        assert int(registers) <= budget, f"{name} takes {registers} registers, more than {budget}"
        if budget == OTHERS[0]:
            most = max(most, int(registers))
    print(f"{len(found)} kernels for {', '.join(sorted(compiled))}; none spills")
    print(f"largest number of registers outside of populations: {most}")

    without_calls = 0
    programs_of: dict[str, list[str]] = {tiles: [] for tiles in TENSOR_CORES}
    for target in sorted(compiled):
        sass = dump("-sass", "-arch", target)
        for text in re.split(r"(?=^\s*Function : )", sass, flags=re.MULTILINE):
            name = re.match(r"\s*Function : (\S+)", text)
            if name and any(part in name[1] for part in WITHOUT_CALLS):
                assert "CALL" not in text, f"{name[1]} for {target} divides"
                without_calls += 1
            if not name or "train_population" not in name[1]:
                continue
            if "in_clusters" in name[1]:
                has_clusters = int(target[3:5]) >= 90
                assert ("UCGABAR" in text) == has_clusters, f"{name[1]} for {target}: its barriers"
                if not has_clusters:
                    continue
            (tiles,) = (tiles for tiles in TENSOR_CORES if tiles in name[1])
            programs_of[tiles].append(text)
    for tiles, instruction in TENSOR_CORES.items():
        found_for = len(programs_of[tiles])
        assert found_for == 3, f"{found_for} population kernels with {tiles}, not 3"
        for program in programs_of[tiles]:
            used = set(re.findall(r"\bHMMA\.[\w.]+", program))
            wanted = {instruction} if instruction else set()
            assert used == wanted, f"the population kernel with {tiles} has {used}, not {wanted}"
    assert without_calls == 8, f"{without_calls} kernels that only count elements, not 8"
    print("kernels that only count elements divide nothing")
    print("population kernels have the tensor core instructions they are meant to have, no others")


main()
