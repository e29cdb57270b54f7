#!/usr/bin/env bash
# Builds everything into dist/ and runtime/native/build: generated messages, TypeScript, the native helper, the CLI bundle.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
node scripts/generate-proto.mjs
tsc --build
node scripts/prune-dist.mjs
mkdir -p dist/proto/gen
cp proto/gen/*.js proto/gen/*.d.ts dist/proto/gen/
if [ -f runtime/native/Makefile ]; then make -s -C runtime/native; fi
if [ -f scripts/bundle-cli.mjs ]; then node scripts/bundle-cli.mjs; fi
# For /version: the commit this was built from and its time; a package carries the file along.
if commit=$(git rev-parse --short=12 HEAD 2>/dev/null); then
  printf '{ "gitCommit": "%s", "buildTime": "%s" }\n' "$commit" "$(TZ=UTC git show -s --format=%cd --date=format-local:%Y-%m-%dT%H:%M:%SZ)" >dist/build-info.json
fi
