#!/usr/bin/env bash
# Generates the Python stubs, with types, into the folder $1 (default: the client distribution). PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../.venv/bin/python}
out=${1:-../client/python}
PATH="$(dirname "$python"):$PATH"

mapfile -t files < <(find flashbulb -name '*.proto' | sort)
services=$(grep -l '^service ' "${files[@]}")
"$python" -m grpc_tools.protoc -I. -Ithird_party --python_out="$out" --mypy_out="$out" "${files[@]}"
# shellcheck disable=SC2086  # one argument a file
"$python" -m grpc_tools.protoc -I. -Ithird_party --grpc_python_out="$out" --mypy_grpc_out="$out" $services
touch "$out/flashbulb/v1/__init__.py" "$out/flashbulb/internal/__init__.py" "$out/flashbulb/internal/v1/__init__.py"
