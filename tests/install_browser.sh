#!/usr/bin/env bash
# Installs Chromium for the tests of the playground, where that can be done: as root on Debian. Elsewhere those tests are skipped.
set -euo pipefail
for name in chromium chromium-browser google-chrome google-chrome-stable; do
  if command -v "$name" >/dev/null; then exit 0; fi
done
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "no Chromium, and no way to install it here: the playground's tests will be skipped"
  exit 0
fi
if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } >/tmp/flashbulb-chromium.log 2>&1; then
  tail -n 5 /tmp/flashbulb-chromium.log
  echo "Chromium cannot be installed: the playground's tests will be skipped"
fi
