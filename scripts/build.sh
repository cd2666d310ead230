#!/usr/bin/env bash
# scripts/build.sh PRESET TARGET... [-- CMAKE_OPTION...]: configures build/PRESET (once, or when options are given) and
# builds the targets there ("all" for everything), with ccache where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

preset=$1
shift
targets=()
while (($#)) && [[ $1 != -- ]]; do
  targets+=("$1")
  shift
done
(($#)) && shift

if command -v ccache > /dev/null; then
  export CMAKE_CXX_COMPILER_LAUNCHER=ccache CMAKE_C_COMPILER_LAUNCHER=ccache
  # What one checkout compiled serves the others: paths count from the checkout's root.
  export CCACHE_BASEDIR=$PWD CCACHE_NOHASHDIR=1
fi
if [[ ! -f build/$preset/build.ninja ]] || (($#)); then
  cmake --preset "$preset" "$@"
fi
exec cmake --build "build/$preset" --parallel "$(nproc)" --target "${targets[@]}"
