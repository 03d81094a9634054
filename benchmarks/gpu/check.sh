#!/usr/bin/env bash
# The check of pclauto on a CUDA machine: see check.py beside this file, and benchmarks/README.md.
#   benchmarks/gpu/check.sh TASK_FOLDER OUT_FOLDER
#   DEVICE=cpu TINY=1 benchmarks/gpu/check.sh OUT_FOLDER
# PYTHON names another Python than python3.
set -euo pipefail
exec "${PYTHON:-python3}" "$(dirname "${BASH_SOURCE[0]}")/check.py" "$@"
