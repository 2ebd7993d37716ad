#!/usr/bin/env bash
# Form and types: ruff, mypy --strict, the stubs against the compiled module, clang-format.
set -euo pipefail

ruff check .
ruff format --check python tests benchmarks
mypy
# Types that are in the stub alone, and pybind11's metaclass, are no differences.
stubtest_allowed=$(mktemp)
trap 'rm -f "$stubtest_allowed"' EXIT
{
  printf '%s\n' Array Network
  sed -nE 's/^class (\w+)\(TypedDict\):$/\1/p' python/dlcore/_core.pyi
} | sed 's/^/dlcore._core./' >"$stubtest_allowed"
python -m mypy.stubtest dlcore._core --ignore-missing-stub --allowlist "$stubtest_allowed"
git ls-files --cached --others --exclude-standard 'cpp/*' 'cuda/*' 'benchmarks/*' |
  grep -E '\.(cpp|h|cu|cuh)$' | xargs clang-format --dry-run -Werror
echo "clang-format: as .clang-format says"
