#!/usr/bin/env bash
# ./run.sh [PROMPT [OPTION...]]: answers a prompt with the default model. The first time it installs the Debian packages
# that are missing, builds build/release/sala and downloads the model; after that it starts at once. The options are those
# of `sala run` (docs/cli.md), e.g. ./run.sh "Tell me a story." -n 300 --temp 0
set -euo pipefail
cd "$(dirname "$0")"

prompt=${1:-"Explain in three sentences how plants use sunlight."}
(($#)) && shift
(($#)) || set -- --temp 0.2 --top-p 0.9  # what the model's authors advise

scripts/packages.sh build fetch
log=build/run.log
mkdir -p build
options=()
[[ -f build/release/build.ninja ]] || { options=(-- -DSALA_TESTS=OFF); echo "Building build/release/sala" >&2; }
if ! scripts/build.sh release sala "${options[@]}" > "$log" 2>&1; then
  tail -n 40 "$log" >&2
  echo "The build failed; $log has all of it." >&2
  exit 1
fi
model=$(python3 scripts/default_model.py)
echo "> $prompt" >&2
exec build/release/sala run "$model" -p "$prompt" "$@"
