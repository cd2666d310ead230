#!/usr/bin/env bash
# scripts/cuda_toolkit.sh: prints the folder of a CUDA 13 toolkit: the one whose nvcc is on PATH, or NVIDIA's own packages of
# PyPI (compiler, headers and run-time library; 300 MB), which it installs into build/cuda-toolkit where they are missing. Fails without
# a network.
set -euo pipefail
cd "$(dirname "$0")/.."

if nvcc=$(command -v nvcc); then
  dirname "$(dirname "$(readlink -f "$nvcc")")"
  exit
fi
venv=build/cuda-toolkit
if [[ ! -f $venv/complete ]]; then
  mkdir -p build
  python3 -m venv "$venv" >&2
  packages=()
  for part in nvcc crt runtime cccl; do packages+=("nvidia-cuda-$part==13.0.*"); done
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${packages[@]}" "nvidia-nvvm==13.0.*" >&2
  touch "$venv/complete"
fi
echo "$PWD"/$venv/lib/python3*/site-packages/nvidia/cu13
