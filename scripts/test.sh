#!/usr/bin/env bash
# Builds and runs every test of the given kinds (default: all). `npm test -- unit` runs one kind.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
bash scripts/build.sh
exec node --enable-source-maps --test --test-reporter=spec --test-timeout=30000 dist/test/run-unit.js
