#!/usr/bin/env bash
# The one gate: format, types, lint, and the warnings of the C compiler.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
oxfmt --check .
node scripts/generate-proto.mjs
tsc --build
oxlint --type-aware --deny-warnings
make -s -C runtime/native check
