#!/usr/bin/env bash
# Installs what is missing, builds, and runs the tests: `npm test` all kinds, `npm test -- unit` (or sim, e2e) some of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
: "${TMPDIR:=/tmp}"

kinds=("$@")
[ "${#kinds[@]}" -gt 0 ] || kinds=(unit sim e2e)
files=()
# What hangs is ended; what is only slow, on a slow machine that does much else, is not.
timeout_ms=300000
for kind in "${kinds[@]}"; do
  case "$kind" in
    unit | sim) ;;
    # Whole clusters come up and fail over in one test.
    e2e) timeout_ms=900000 ;;
    *) echo "test: unknown kind \"$kind\"; known: unit, sim, e2e" >&2; exit 2 ;;
  esac
  files+=("dist/test/run-$kind.js")
done

bash deploy/install-deps.sh
[ -x node_modules/.bin/tsc ] || npm ci --ignore-scripts --no-audit --no-fund
bash scripts/install-test-deps.sh
# What is downloaded above may need the first ones. Tests have registries, proxies and daemons of their own, which no setting of
# the machine's shall lead past.
unset NODE_EXTRA_CA_CERTS HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy
unset "${!DOCKER_@}" "${!BUILDKIT_@}" SHOAL_HOST SHOAL_CONFIG
export LC_ALL=C.UTF-8
umask 022
# The path of a UNIX socket has at most 107 bytes, of which tests take about sixty below the folder for temporary files.
if [ "${#TMPDIR}" -gt 45 ]; then
  echo "test: TMPDIR is too long for the sockets in it (${#TMPDIR} bytes, at most 45), taking /tmp" >&2
  export TMPDIR=/tmp
fi
bash scripts/build.sh
# One file after the other: the end-to-end tests want the machine for themselves.
exec node --enable-source-maps --test --test-concurrency=1 --test-reporter=spec "--test-timeout=$timeout_ms" "${files[@]}"
