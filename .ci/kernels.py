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

    tensor = re.compile(r"HMMA\.1688\.F32\.TF32")
    uses = {}
    for text in re.split(r"(?=^\s*Function : )", dump("-sass"), flags=re.MULTILINE):
        name = re.match(r"\s*Function : (\S+)", text)
        if name and "train_population" in name[1]:
            uses.setdefault("TensorTiles" in name[1], []).append(len(tensor.findall(text)))
    print(f"tf32 tensor core instructions of the population kernels: {uses}")
    assert min(uses[True]) > 0, "the tensor core version has no such instruction"
    assert max(uses[False]) == 0, "the plain version has tensor core instructions"


main()
