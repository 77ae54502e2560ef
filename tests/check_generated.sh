#!/usr/bin/env bash
# Regenerates the stubs from proto/ into a temporary folder; fails with the difference if the committed ones are others.
set -euo pipefail
cd "$(dirname "$0")/.."

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
# mypy-protobuf lists every file it writes; said only if something goes wrong.
if ! said=$(PYTHON="${PYTHON:-$PWD/.venv/bin/python}" proto/generate.sh "$fresh" "$fresh/typescript" 2>&1); then
  echo "$said" >&2
  exit 1
fi

status=0
for package in flashbulb/v1 flashbulb/internal; do
  diff --recursive --unified --new-file --exclude=__pycache__ "client/python/$package" "$fresh/$package" || status=1
done
if [[ -d $fresh/typescript ]]; then
  diff --recursive --unified --new-file client/typescript/src/gen "$fresh/typescript" || status=1
else
  echo "the TypeScript stubs were not compared: node or its packages are missing (make ts-install)"
fi
if [[ $status -ne 0 ]]; then
  echo "client/ differs from proto/: run 'make gen' and commit what it makes" >&2
fi
exit "$status"
