#!/usr/bin/env bash
# Checks docker/Dockerfile with hadolint, and docker/compose.yaml against the schema of the Compose specification. Needs no network.
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/hadolint --config docker/hadolint.yaml docker/Dockerfile
.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose.yaml
