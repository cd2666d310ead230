#!/usr/bin/env bash
# scripts/venv.sh PACKAGE...: makes build/venv, which sees the system's Python packages, and installs these PyPI packages
# into it where they are missing. Fails without a network; callers decide whether that matters.
set -euo pipefail
cd "$(dirname "$0")/.."

python=build/venv/bin/python
if ! "$python" -c 'import pip' 2> /dev/null; then
  rm -rf build/venv
  mkdir -p build
  system=/usr/bin/python3
  [[ -x $system ]] || system=python3
  "$system" -m venv --system-site-packages build/venv
fi
missing=()
for package in "$@"; do
  "$python" -c "import importlib.metadata, sys; importlib.metadata.version(sys.argv[1])" "$package" 2> /dev/null ||
    missing+=("$package")
done
((${#missing[@]} == 0)) || "$python" -m pip install --quiet --disable-pip-version-check "${missing[@]}"
