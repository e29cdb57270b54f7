#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests: `npm test` all kinds, `npm test -- unit` (or sim, e2e) some of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"

kinds=("$@")
[ "${#kinds[@]}" -gt 0 ] || kinds=(unit sim e2e)
files=()
timeout_ms=30000
for kind in "${kinds[@]}"; do
  case "$kind" in
    unit | sim) ;;
    # Whole clusters come up and fail over in one test.
    e2e) timeout_ms=300000 ;;
    *) echo "test: unknown kind \"$kind\"; known: unit, sim, e2e" >&2; exit 2 ;;
  esac
  files+=("dist/test/run-$kind.js")
done

bash deploy/install-deps.sh
[ -x node_modules/.bin/tsc ] || npm ci --ignore-scripts --no-audit --no-fund
bash scripts/install-test-deps.sh
# What is downloaded above may need it.
unset NODE_EXTRA_CA_CERTS
bash scripts/build.sh
# One file after the other: the end-to-end tests want the machine for themselves.
exec node --enable-source-maps --test --test-concurrency=1 --test-reporter=spec "--test-timeout=$timeout_ms" "${files[@]}"
