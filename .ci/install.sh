#!/usr/bin/env bash
# The README's command that installs and tests, up to its tests; then the tools of later stages.
set -euo pipefail

tests=" && pytest"
command=$(grep -E "^python3? -m venv .*pip install .*$tests\$" README.md | head -n 1)
if [[ -z $command ]]; then
  echo "README.md has no line that makes a virtual environment, installs and ends in '$tests'"
  exit 1
fi
echo "\$ ${command%"$tests"}"
eval "${command%"$tests"}"
# What the extra `dev` adds; '.[dev]' itself would compile everything a second time.
mapfile -t tools < <(python -c '
import tomllib
extra = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"]
print(*[line for line in extra if not line.startswith("dlcore")], sep="\n")')
echo "\$ pip install ${tools[*]}"
pip install --quiet "${tools[@]}"
pip list 2>/dev/null | grep -iE '^(dlcore|numpy|scipy|scikit-learn|pytest|hypothesis|ruff|mypy|clang-format) '
