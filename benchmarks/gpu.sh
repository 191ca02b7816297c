#!/usr/bin/env bash
# Everything that only a GPU can show, by one command: numerics, speed against the peers, TensorRT engines. See `benchmarks/gpu.sh --help`.
# Without a GPU it refuses; `benchmarks/gpu.sh --device cpu --smoke` runs the same code on tiny shapes, and its figures mean nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3
exec "$python" -m benchmarks.gpu "$@"
