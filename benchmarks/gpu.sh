#!/usr/bin/env bash
# What only a machine with an NVIDIA GPU can show: engines of every family built by each installed TensorRT, run, compared and timed.
# Usage: benchmarks/gpu.sh [PYTHON]. Results land in benchmarks/results/engines_<backend>.json.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
if ! nvidia-smi -L; then
  echo "gpu.sh: there is no NVIDIA GPU here, nothing was run" >&2
  exit 7
fi
status=0 ran=0
for backend in tensorrt tensorrt_rtx; do
  if ! "$python" -c "import $backend" 2>/dev/null; then
    echo "gpu.sh: not run: $backend is not installed: pip install 'mae-skill[${backend/_/-}]'" >&2
    continue
  fi
  ran=1
  "$python" benchmarks/engines.py --backend "$backend" || status=$?
done
if [ "$ran" = 0 ]; then
  exit 7
fi
exit "$status"
