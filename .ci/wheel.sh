#!/usr/bin/env bash
# The wheel: small, whole, in need of NumPy alone, and usable with nothing else installed.
set -euo pipefail

folder=build/ci/wheel
rm -rf "$folder"
pip wheel --quiet --no-deps --wheel-dir "$folder" -C cmake.define.DLCORE_WERROR=ON .
wheel=$(echo "$folder"/dlcore-*.whl)

python - "$wheel" <<'PYTHON'
import os
import sys
import zipfile
from email import message_from_bytes

path = sys.argv[1]
size = os.path.getsize(path)
print(f"{os.path.basename(path)}: {size / 1e6:.2f} MB")
assert size <= 5_000_000, "the wheel is above 5 MB"
with zipfile.ZipFile(path) as wheel:
    names = wheel.namelist()
    (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    requires = message_from_bytes(wheel.read(metadata)).get_all("Requires-Dist") or []
needed = [line for line in requires if "extra ==" not in line]
print(f"needs {', '.join(needed)}")
assert len(needed) == 1 and needed[0].startswith("numpy"), "the wheel needs more than NumPy"
for part in ("dlcore/__init__.py", "dlcore/py.typed", "dlcore/_core.pyi"):
    assert part in names, f"{part} is missing"
strange = [name for name in names if not name.startswith("dlcore")]
assert not strange, f"the wheel holds more than the package: {strange}"
PYTHON

bare=build/ci/bare
rm -rf "$bare"
python3 -m venv "$bare"
"$bare/bin/pip" install --quiet "$wheel"
"$bare/bin/pip" list 2>/dev/null
# From a folder without the sources, and with whatever warns as an error.
cd "$bare"
bin/python -W error - <<'PYTHON'
import numpy as np

import dlcore

x = np.random.default_rng(0).normal(size=(400, 4))
network = dlcore.Network([dlcore.Dense(16), dlcore.ReLU(), dlcore.Dense(2)], input_shape=(4,))
network.fit(x, (x[:, 0] > x[:, 1]).astype(int), epochs=20, batch_size=20)
accuracy = network.evaluate(x, (x[:, 0] > x[:, 1]).astype(int))["accuracy"]
assert accuracy > 0.9, accuracy
print(dlcore.info())
PYTHON
