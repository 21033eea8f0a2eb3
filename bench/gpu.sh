#!/usr/bin/env bash
# SPDX-FileCopyrightText: fastconv contributors
# SPDX-License-Identifier: BSD-3-Clause
#
# bench/gpu.sh OUTDIR: build, test, sanitize and measure on a machine with a GPU and no network.
#
# Every step has its own time limit, a failed one does not stop the rest, and the whole ends within
# GPU_SECONDS (default 530).  OUTDIR gets build.log, tests.log, sanitizer.log, bench.log,
# quick.json, models.json and summary.txt.  The exit status is 0 if every step passed.
#
# FASTCONV_COMMIT names the commit where the checkout came without .git.  MODELS_ARGS replaces the
# arguments of the second measurement.
set -uo pipefail

out=${1:?usage: bench/gpu.sh OUTDIR}
mkdir -p "$out" && out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.." || exit 2

python=${PYTHON:-python3}
end=$((SECONDS + ${GPU_SECONDS:-530}))
models_args=${MODELS_ARGS:---batch 8 --dtype bfloat16 --pass both --no-compile --case-seconds 0.08}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$work/steps"

say() { echo "[$SECONDS s] $*"; }

# step NAME LIMIT LOG COMMAND...: runs the command for at most LIMIT seconds, or what is left.
step() {
  local name=$1 limit=$2 log=$3 left=$((end - SECONDS)) begin=$SECONDS status=0 verdict
  shift 3
  ((limit = left < limit ? left : limit))
  if ((limit < 5)); then
    echo "SKIPPED $name: no time left" | tee -a "$work/steps"
    return 1
  fi
  timeout -k 5 "$limit" "$@" >>"$log" 2>&1 || status=$?
  case $status in
    0) verdict=passed ;;
    5) verdict="passed: nothing to run" ;; # pytest's status for an empty selection
    124 | 137) verdict="FAILED: cut off after $limit s" ;;
    *) verdict="FAILED: exit status $status" ;;
  esac
  # One line, one write: steps run side by side.
  echo "$name: $verdict, $((SECONDS - begin)) s" >>"$work/steps"
  say "$name: $verdict"
  [[ $verdict == passed* ]]
}

{
  echo "commit ${FASTCONV_COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}"
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  nvcc --version | tail -n 2
  "$python" -c 'import torch, sys; print("python", sys.version.split()[0], "torch", torch.__version__,
"capability", torch.cuda.get_device_capability())' 2>&1 | tail -n 1
  echo "$(nproc) cores"
  for module in pytest hypothesis expecttest xdist ninja numpy rich onnxruntime causal_conv1d; do
    "$python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$module'))" ||
      echo "no $module"
  done
} >"$work/machine" 2>&1
cat "$work/machine"

# The architecture is that of the GPU, unless TORCH_CUDA_ARCH_LIST says otherwise.
FASTCONV_CUDA=1 step build 240 "$out/build.log" \
  "$python" -m pip install -v --no-build-isolation --no-deps --force-reinstall .
(cd / && "$python" -m fastconv) 2>&1 | tee -a "$work/machine"

parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n 6)
tests() { # NAME MARKER
  OMP_NUM_THREADS=2 step "$1" 150 "$work/$1.log" \
    "$python" -m pytest -q -p no:cacheprovider "${parallel[@]}" -m "$2" tests
}

# Small cases, forward and backward, compared with the CPU.  Without torch's cache of memory an
# access past the end of a tensor is one past the end of an allocation.
sanitize() { # TOOL ARGUMENT...
  local tool=$1
  shift
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 step "$tool" 140 "$work/$tool.log" \
    "$sanitizer" --tool "$tool" --error-exitcode 9 \
    "$python" bench/run.py --device cuda --suite tiny --check "$@"
}

sanitizer=$(command -v compute-sanitizer || true)
for place in /usr/local/cuda/bin /usr/local/cuda/compute-sanitizer; do
  [[ -z $sanitizer && -x $place/compute-sanitizer ]] && sanitizer=$place/compute-sanitizer
done

tests tests-cuda cuda &
tests tests-cpu "not cuda" &
if [[ -n $sanitizer ]]; then
  sanitize memcheck &
  sanitize racecheck --dtype float32 &
  sanitize initcheck --dtype float32 &
  sanitize synccheck --dtype float32 &
else
  echo "SKIPPED sanitizer: compute-sanitizer was not found" | tee -a "$work/steps"
fi
wait

# Nothing else may run while this measures.
step bench-quick 130 "$out/bench.log" \
  "$python" bench/run.py --device cuda --quick --json "$out/quick.json"
left=$((end - SECONDS - 15))
# shellcheck disable=SC2086  # several arguments
step bench-models 300 "$out/bench.log" \
  "$python" bench/run.py --device cuda --suite models $models_args \
  --time-limit "$((left > 10 ? left - 10 : 1))" --json "$out/models.json"

# Logs that can be carried home.
keep() { tail -c 8000000; }
cat "$work"/tests-*.log 2>/dev/null | keep >"$out/tests.log"
for tool in memcheck racecheck initcheck synccheck; do
  [[ -f $work/$tool.log ]] && { echo "== $tool"; cat "$work/$tool.log"; }
done | keep >"$out/sanitizer.log"
{
  cat "$work/machine"
  echo
  grep -hE '^(FAILED|ERROR) |passed|failed' "$work"/tests-*.log 2>/dev/null | tail -n 40
  grep -hE 'ERROR SUMMARY|RACECHECK SUMMARY|cases checked' "$out/sanitizer.log"
  sed -n '/^### Summary/,/^$/p;/^| operator /,/^$/p;/^FAILED/p' "$out/bench.log"
  echo
  cat "$work/steps"
  echo "$SECONDS s in all"
} >"$out/summary.txt"
cat "$out/summary.txt"
! grep -qE 'FAILED|SKIPPED' "$work/steps"
