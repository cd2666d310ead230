#!/usr/bin/env bash
# ./run.sh: a small hybrid reads a text of 100,000 tokens, looks for the sentence hidden in it, and says how
# long that took and how little memory. The first time it installs the Debian packages that are missing, builds build/release/sala and
# downloads the text.
#   ./run.sh --tokens 32000              a shorter text; --seed N: the same text, place and sentence again
#   ./run.sh --million                   a text of a million tokens: 6 minutes on two cores, 1.1 GB
#   ./run.sh --chat [PROMPT [OPTION...]] answers a prompt with SmolLM2-135M-Instruct, which it downloads. The options are
#                                        those of `sala run` (docs/cli.md), e.g. --chat "Tell me a story." -n 300 --temp 0
set -euo pipefail
cd "$(dirname "$0")"

case "${1-}" in
  "" | --million | --tokens | --seed | --chat) ;;
  *) echo "usage: ./run.sh [--million | --tokens N] [--seed N], or ./run.sh --chat [PROMPT [OPTION...]]" >&2; exit 2 ;;
esac

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

if [[ ${1-} != --chat ]]; then
  scripts/venv.sh
  build/venv/bin/python scripts/texts.py build/text
  exec python3 scripts/needle.py "$@"
fi
shift
prompt=${1:-"Explain in three sentences how plants use sunlight."}
(($#)) && shift
(($#)) || set -- --temp 0.2 --top-p 0.9  # what the model's authors advise
model=$(python3 scripts/default_model.py)
echo "> $prompt" >&2
exec build/release/sala run "$model" -p "$prompt" "$@"
