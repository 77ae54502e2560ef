#!/usr/bin/env bash
# Generates the Python stubs, with types, into the folder $1 (default: the client distribution), and what the TypeScript client is typed
# with into the folder $2, where node and its packages are installed (`make ts-install`). PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")"
python=${PYTHON:-../.venv/bin/python}
out=${1:-../client/python}
ts_out=${2:-../client/typescript/src/gen}
ts_plugin=../client/typescript/node_modules/.bin/protoc-gen-es
PATH="$(dirname "$python"):$PATH"

mapfile -t files < <(find flashbulb -name '*.proto' | sort)
services=$(grep -l '^service ' "${files[@]}")
"$python" -m grpc_tools.protoc -I. -Ithird_party --python_out="$out" --mypy_out="$out" "${files[@]}"
# shellcheck disable=SC2086  # one argument a file
"$python" -m grpc_tools.protoc -I. -Ithird_party --grpc_python_out="$out" --mypy_grpc_out="$out" $services
touch "$out/flashbulb/v1/__init__.py" "$out/flashbulb/internal/__init__.py" "$out/flashbulb/internal/v1/__init__.py"

if ! command -v node >/dev/null || [[ ! -x $ts_plugin ]]; then
  echo "the TypeScript stubs are left as they are: node or its packages are missing (make ts-install)" >&2
  exit 0
fi
# error_details.proto is that of the googleapis-common-protos package, which the Python stubs use as they are.
google=$("$python" -c 'import google.rpc; print(list(google.rpc.__path__)[0])')/../..
mkdir -p "$ts_out"
"$python" -m grpc_tools.protoc -I. -Ithird_party -I"$google" --plugin="protoc-gen-es=$ts_plugin" \
  --es_out="$ts_out" --es_opt=target=ts,import_extension=js flashbulb/v1/*.proto google/rpc/status.proto google/rpc/error_details.proto
"$python" -m grpc_tools.protoc -I. -Ithird_party --plugin=protoc-gen-inputs=../client/typescript/scripts/protoc-gen-inputs.js \
  --inputs_out="$ts_out" --inputs_opt=target=ts flashbulb/v1/input.proto
