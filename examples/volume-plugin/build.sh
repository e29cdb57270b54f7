#!/usr/bin/env bash
# Makes a managed plugin of plugin.mjs: a folder with config.json and rootfs/, which has Node.js and the libraries it needs.
#
#   bash build.sh /tmp/folders                # NODE=/path/to/node for another one than the first in PATH
#   docker plugin create folders /tmp/folders
#   docker plugin enable folders
#   docker volume create -d folders shared
set -euo pipefail
out=${1:?usage: build.sh FOLDER}
here=$(cd "$(dirname "$0")" && pwd)
node=$(readlink -f "${NODE:-$(command -v node)}")
mkdir -p "$out/rootfs/bin" "$out/rootfs/volumes"
cp "$here/config.json" "$out/config.json"
cp "$here/plugin.mjs" "$out/rootfs/plugin.mjs"
cp "$node" "$out/rootfs/bin/node"
ldd "$node" | grep -o '/[^ ]*' | sort -u | while read -r library; do
  mkdir -p "$out/rootfs$(dirname "$library")"
  cp -L "$library" "$out/rootfs$library"
done
