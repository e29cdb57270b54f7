#!/usr/bin/env bash
# From a bare machine with Node and npm to the demo on five hosts: installs what is missing, builds, runs dev/demo.
# Takes --keep to leave the cluster up.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "$(id -u)" -ne 0 ]; then
  echo "demo: needs root, for network namespaces and containers; run: sudo npm run demo" >&2
  exit 1
fi
export PATH="$PWD/node_modules/.bin:$PATH:/usr/sbin:/sbin"
echo "── Install what is missing and build"
bash deploy/install-deps.sh
[ -x node_modules/.bin/tsc ] || npm ci --ignore-scripts --no-audit --no-fund
bash scripts/build.sh
exec node --enable-source-maps dist/dev/demo.js "$@"
