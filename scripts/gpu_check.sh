#!/usr/bin/env bash
# scripts/gpu_check.sh [OUT]: on a machine with an NVIDIA GPU, tests the CUDA backend there and measures it, in stages of a few
# minutes. OUT (default build/gpu) keeps what is done, so that the script goes on where it was stopped; remove it to begin anew.
# At the end there is OUT/gpu_check.json, {"machine": {...}, "rows": [...]}, and a table.
#
#   tests       every op and whole models against the reference and the CPU
#   sanitizer   compute-sanitizer's memcheck, racecheck and synccheck over the small cases
#   kernels     each kernel's time beside what the GPU allows
#   steps       whole steps of the 9B model's shape with random weights: bf16, w8, w4; prompts of Qwen3-8B's shape
#   peers       both shapes in PyTorch with flash-linear-attention's kernels (bench/peer/torch_sala.py), if SALA_PEER_PYTHON
#               (default python3) has them
#
# SALA_GPU_BIN names a folder that has gpu_check, sala and lib/ already (scripts/gpu_check.sh --pack FOLDER makes one, on any
# machine with nvcc); without it they are built here.
set -euo pipefail
cd "$(dirname "$0")/.."

build() {
  local nvcc=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
  CUDACXX=$nvcc scripts/build.sh cuda gpu_check sala -- -DSALA_TESTS=ON ${SALA_CUDA_ARCH:+-DCMAKE_CUDA_ARCHITECTURES=$SALA_CUDA_ARCH} >&2
}

if [[ ${1:-} == --pack ]]; then
  to=${2:?--pack FOLDER}
  build
  mkdir -p "$to/lib"
  cp build/cuda/bench/gpu/gpu_check build/cuda/sala "$to"
  # What a bare machine may lack; the driver's and the C library are its own.
  ldd "$to/gpu_check" "$to/sala" | awk '$2 == "=>" && $3 ~ "^/" {print $3}' | sort -u |
    grep -Ev '/(libc|libm|libdl|librt|libpthread|libcuda|ld-linux[^/]*)\.so' | xargs -r cp -Lt "$to/lib"
  strip "$to/gpu_check" "$to/sala"
  du -sh "$to"
  exit
fi

out=${1:-build/gpu}
mkdir -p "$out"
if [[ -n ${SALA_GPU_BIN:-} ]]; then
  bin=$SALA_GPU_BIN
else
  build
  bin=$out/bin
  mkdir -p "$bin"
  ln -sf "$PWD"/build/cuda/bench/gpu/gpu_check "$PWD"/build/cuda/sala "$bin"
fi
export LD_LIBRARY_PATH=$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

"$bin/gpu_check" tests --gtest_list_tests > /dev/null || exit  # 77, after a line that says why: no GPU

failed=0
# stage NAME COMMAND...: once; what it prints goes to OUT/NAME.log too.
stage() {
  local name=$1
  shift
  if [[ -e $out/$name.done ]]; then
    echo "gpu_check: $name was done before"
    return
  fi
  echo "gpu_check: $name"
  if "$@" > >(tee "$out/$name.log") 2>&1; then
    touch "$out/$name.done"
  else
    echo "gpu_check: $name FAILED ($out/$name.log)"
    failed=1
  fi
}

# Small cases of every kernel: the sanitizer is slow.
small='*NormRope*:Cases/Pages.*tiny*:Cases/Pages.*rounded33*:Cases/Attention.*tiny*:Cases/Attention.*rounded128*:Cases/Select.*tiny*'
small+=':Cases/Lightning.*:*MatmulRowsCuda.*:MatmulWarpgroups.*:*CudaModel*f32_f32_always'
sanitize() { compute-sanitizer --tool "$1" --error-exitcode 1 "$bin/gpu_check" tests --gtest_brief=1 --gtest_filter="$small"; }
# steps NAME TYPE PROMPTS GENERATED DEPTHS BATCHES [SHAPE]
steps() {
  "$bin/sala" bench --backend cuda --synthetic "bench/configs/${7:-minicpm_sala_9b}.json" --type "$2" --chunk 8192 --prompt "$3" \
    --gen "$4" --depth "$5" --batch "$6" --json > "$out/$1.json" && cat "$out/$1.json"
}
# peer NAME SHAPE [torch_sala.py's options]
peer() {
  local name=$1 shape=$2
  shift 2
  "$python" bench/peer/torch_sala.py measure "bench/configs/$shape.json" "$out/$name.json" "$@"
}

for suite in NormRope Pages Select Attention Lightning Matmul Sample CudaMemory CudaModel; do
  stage "tests_$suite" "$bin/gpu_check" tests --gtest_brief=1 "--gtest_filter=*$suite*"
done
if command -v compute-sanitizer > /dev/null; then
  for tool in memcheck racecheck synccheck; do stage "sanitizer_$tool" sanitize $tool; done
else
  echo "gpu_check: no compute-sanitizer on PATH, skipped"
fi
stage kernels "$bin/gpu_check" kernels "$out/kernels.json"
for type in bf16 w8 w4; do
  stage steps_${type}_short steps steps_${type}_short $type 4096 64 0,4096 1,8,32
  stage steps_${type}_long steps steps_${type}_long $type 0 64 131072,1048512 1
done
stage steps_bf16_batch steps steps_bf16_batch bf16 0 64 131072 8,32
stage steps_bf16_prompt steps steps_bf16_prompt bf16 131072,262144,1048512 0 0 1
stage steps_dense_prompt steps steps_dense_prompt bf16 4096,262144 0 0 1 qwen3_8b

python=${SALA_PEER_PYTHON:-python3}
if "$python" -c 'import fla, torch' 2> "$out/peer_imports.txt"; then
  stage peer_check "$python" bench/peer/torch_sala.py check
  stage peer_decode peer peer_decode minicpm_sala_9b --depth 4096,131072,1048512
  stage peer_decode_batch peer peer_decode_batch minicpm_sala_9b --depth 131072 --batch 8,32
  stage peer_prompt peer peer_prompt minicpm_sala_9b --prompt 4096,131072,262144
  stage peer_prompt_1m peer peer_prompt_1m minicpm_sala_9b --prompt 1048512
  stage peer_dense peer peer_dense qwen3_8b --prompt 4096,262144 --depth 4096
else
  echo "gpu_check: peers skipped: $python lacks torch or flash-linear-attention ($(tail -n 1 "$out/peer_imports.txt"))"
fi

python3 - "$out" <<'PYTHON'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
result = {"machine": {}, "rows": []}
for file in sorted(out.glob("kernels.json")) + sorted(out.glob("steps_*.json")) + sorted(out.glob("peer_*.json")):
    try:
        part = json.loads(file.read_text())
    except ValueError:
        continue
    if file.name == "kernels.json":
        result["machine"] |= part["machine"]
    if file.name.startswith("peer_"):
        result["machine"]["peers"] = part["machine"]
    for row in part["rows"]:
        result["rows"].append({"stage": file.stem} | row)
        if "how" in row:
            found = f"{row['seconds'] * 1e3:10.2f} ms" if "seconds" in row else row["error"]
            print(f"PyTorch, {row['how']}, {row['model']}: {row['phase']} {row['tokens']} behind {row['depth']}, "
                  f"{row['sequences']} texts: {found}")
        if "tok_s" in row:
            print(f"{row['type']:>5} {row['phase']:>6} {row['tokens']:>7} behind {row['depth']:>8}, {row['sequences']:>2} texts: "
                  f"{row['tok_s']:10.1f} tokens/s  {100 * row['share']:4.0f} % of the limit")
(out / "gpu_check.json").write_text(json.dumps(result, indent=1) + "\n")
for log in sorted(out.glob("*.log")):
    print(f"{log.stem:24} {'done' if log.with_suffix('.done').exists() else 'FAILED'}")
PYTHON
exit $failed
