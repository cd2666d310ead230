#!/usr/bin/env bash
# ./test.sh: builds build/release and runs every test: units, the program against the reference, text oracles, bad input.
# ./test.sh --all: also clang 19 with thread-safety analysis and the sanitizers, 10 s of each fuzz target, the format, nvcc.
# The last line counts: N passed, N failed, N skipped. Exit status 1 if anything failed.
set -uo pipefail
cd "$(dirname "$0")"

all=no
case "${1-}" in
  "") ;;
  --all) all=yes ;;
  *) echo "usage: ./test.sh [--all]" >&2; exit 2 ;;
esac

results=build/results  # one JUnit file for each ctest run, and steps.tsv: name, passed or failed or skipped
rm -rf "$results"
mkdir -p "$results"
started=$SECONDS

# step NAME COMMAND...: runs a command that passes or fails as a whole.
step() {
  local name=$1 begin=$SECONDS outcome=passed
  shift
  "$@" > "$results/$name.log" 2>&1 || outcome=failed
  if [[ $outcome == failed ]]; then
    echo "--- $name: the end of $results/$name.log"
    tail -n 60 "$results/$name.log"
  fi
  printf '%s\t%s\n' "$name" "$outcome" >> "$results/steps.tsv"
  printf '%-28s %s (%d s)\n' "$name" "$outcome" $((SECONDS - begin))
  [[ $outcome == passed ]]
}

# skip NAME WHY
skip() {
  printf '%s\tskipped\n' "$1" >> "$results/steps.tsv"
  printf '%-28s skipped: %s\n' "$1" "$2"
}

# tests PRESET CTEST_OPTION...: runs the tests of a build.
tests() {
  local preset=$1 begin=$SECONDS
  shift
  ctest --test-dir "build/$preset" --output-junit "$PWD/$results/$preset.xml" --output-on-failure --parallel "$(nproc)" \
    "$@" > "$results/$preset-tests.log" 2>&1
  local status=$?
  if ((status)); then
    grep -vE '^ *[0-9]+/[0-9]+ Test +#.*(Passed|Skipped)|^ +Start |% tests passed' "$results/$preset-tests.log" | tail -n 200
  fi
  # ctest that could not run at all leaves no file to count.
  [[ -s $results/$preset.xml ]] || printf '%s\tfailed\n' "$preset-tests" >> "$results/steps.tsv"
  printf '%-28s %s (%d s)\n' "$preset-tests" "$(grep -oE '^[0-9]+% tests passed.*' "$results/$preset-tests.log")" \
    $((SECONDS - begin))
}

groups=(build test)
[[ $all == yes ]] && groups+=(all)
scripts/packages.sh "${groups[@]}" || exit 1
# The oracles of the text tests; without a network those tests say that they are skipped.
scripts/venv.sh tokenizers sentencepiece jinja2 jsonschema rfc3339-validator > "$results/venv.log" 2>&1 || tail -n 2 "$results/venv.log"
# Clients of the server.
[[ $all == yes ]] && { scripts/venv.sh openai anthropic schemathesis locust >> "$results/venv.log" 2>&1 || tail -n 2 "$results/venv.log"; }
# The default model, for the tests with a real one.
python3 scripts/default_model.py > "$results/model.log" 2>&1 || tail -n 1 "$results/model.log"

# sala-halo is built and tested where libtorch is installed (scripts/packages.sh halo).
halo=OFF
[[ $(dpkg-query -W -f='${db:Status-Status}' libtorch-dev 2> /dev/null) == installed ]] && halo=ON

if step release-build scripts/build.sh release all -- -DSALA_TESTS=ON -DSALA_HALO=$halo; then
  tests release
fi

fuzz() {
  local target=$1 corpus=fuzz/corpus/${1#fuzz_} scratch
  scratch=$(mktemp -d)
  mkdir -p "$corpus"
  # The scratch folder comes first: what is found goes there, the kept corpus stays as it is.
  ASAN_OPTIONS=detect_leaks=0 "build/asan/fuzz/$target" -max_total_time=10 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$PWD/$results/$target-" "$scratch" "$corpus"
  local status=$?
  rm -rf "$scratch"
  return $status
}

format() {
  local files
  mapfile -t files < <(git ls-files '*.cc' '*.cu' '*.h')
  clang-format-19 --dry-run -Werror "${files[@]}"
}

# Cases of true size, the scalar baseline, large ones of emulated CUDA kernels, some of the pages and heads, the engine with weights
# other than f32: minutes under a sanitizer, and the same lines as their siblings.
large='long_|released|rounded128|rounded33_int|CudaModel|CudaAhead.(Every|AConv|One|StepsWith)|CudaMemory.Of(Texts|Strangers|TheFirst)|MatmulRowsCuda|MatmulWarpgroups'
large+='|OnCudaLists|OnCudaCodes|SelectOnCuda|IsTheProductOfTheRoundedActivations|cpu_baseline'
large+='|/page20_|/head48_|RoundsAsThePaperDoes|Modes/[A-Za-z]*[.][A-Za-z]*/(BF16|Q4_1|Q8_0|bf16|int8)_'

if [[ $all == yes ]]; then
  step format format
  if step asan-build scripts/build.sh asan all -- -DSALA_TESTS=ON; then
    # MatmulRows only for the best instructions of this machine: Matmul has the others too, and tsan has the threads.
    tests asan -L 'unit|cli' -E "$large|MatmulRows.*/cpu_"
    for target in build/asan/fuzz/fuzz_*; do
      step "$(basename "$target")" fuzz "$(basename "$target")"
    done
  fi
  # Kernels for NVIDIA GPUs, for one of them; none may spill registers to memory.
  if command -v nvcc > /dev/null; then
    rm -rf build/cuda  # a build with nothing to compile would report nothing
    # The kernels, and the file of the engine that opens a GPU.
    step cuda-build scripts/build.sh cuda sala_cuda src/engine/CMakeFiles/sala_engine.dir/runner.cc.o -- -DSALA_TESTS=OFF -DCMAKE_CUDA_ARCHITECTURES=90a-real &&
      step cuda-spills scripts/cuda_report.py "$results/cuda-build.log"
  else
    skip cuda-build "no nvcc on PATH (scripts/cuda_toolkit.sh gets one)"
  fi
  # Threads share work in the pool, in the kernels and in the steps above them; and a server has many clients.
  threaded=(parallel_test matmul_test attention_test select_test lightning_test norm_rope_test invariance_test engine_test
            http_test sala)
  if step tsan-build scripts/build.sh tsan "${threaded[@]}" -- -DSALA_TESTS=ON; then
    # Without emulated kernels: it knows nothing of their fibers.
    tests tsan -L 'unit|cli' -R '^(base|engine)[.]|^server[.]Http|^cpu[.].*(threads|Alone)|^overload$' -E "$large|[Cc]uda"
  fi
fi

echo "in $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s"
exec python3 scripts/count_results.py "$results"
