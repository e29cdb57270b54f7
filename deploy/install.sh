#!/usr/bin/env bash
# Installs Shoal on this machine from a checkout or an unpacked package: system packages, the program under /opt/shoal,
# the commands shoal and shoal-oci in /usr/local/bin, the group "shoal" whose members may use the socket, and the systemd
# unit where there is systemd. Run as root; safe to run again (an upgrade: containers go on, the daemon is restarted).
#
#   deploy/install.sh [--prefix DIR] [--no-start]
set -euo pipefail

prefix=/opt/shoal
start=yes
while [ $# -gt 0 ]; do
  case "$1" in
    --prefix)
      [ $# -ge 2 ] || { echo "install: --prefix needs a folder" >&2; exit 2; }
      prefix=$2
      shift 2
      ;;
    --no-start) start=no; shift ;;
    *) echo "install: unknown option \"$1\"; known: --prefix DIR, --no-start" >&2; exit 2 ;;
  esac
done
[ "$(id -u)" -eq 0 ] || { echo "install: must run as root" >&2; exit 1; }

source=$(cd "$(dirname "$0")/.." && pwd)
cd "$source"
bash deploy/install-deps.sh
# A package comes built and without a lock file. A checkout may have been brought to another version since it was built.
if [ ! -f package-lock.json ]; then
  [ -d node_modules ] || npm install --omit=dev --ignore-scripts --no-package-lock --no-fund --no-audit
else
  if [ ! -d node_modules ] || [ package-lock.json -nt node_modules/.package-lock.json ]; then
    npm ci --ignore-scripts --no-fund --no-audit
  fi
  npm run -s build
fi

# A new tree beside the old one, then renames: a half-copied program is never what starts.
staged="$prefix.new.$$"
# A full disk must not be left fuller.
trap 'rm -rf "$staged"' EXIT
rm -rf "$staged"
mkdir -p "$staged"
cp -a package.json bin dist deploy examples "$staged/"
mkdir -p "$staged/runtime/native/build" "$staged/api" "$staged/node_modules"
# It may be a link in a checkout.
cp -a node_modules/. "$staged/node_modules/"
cp -a runtime/native/build/shoal-runtime "$staged/runtime/native/build/"
cp -a api/dashboard "$staged/api/"
# What is to go is known from what is there: a machine without a way to the registry would wait minutes for it.
(cd "$staged" && npm prune --offline --omit=dev --ignore-scripts --no-fund --no-audit >/dev/null 2>&1 || true)
old="$prefix.old.$$"
[ ! -e "$prefix" ] || mv "$prefix" "$old"
mv "$staged" "$prefix"
rm -rf "$old"
for command in shoal shoal-oci; do ln -sfn "$prefix/bin/$command" "/usr/local/bin/$command"; done

getent group shoal >/dev/null || groupadd --system shoal
if [ -d /run/systemd/system ]; then
  install -m 0644 "$prefix/deploy/shoal.service" /etc/systemd/system/shoal.service
  systemctl daemon-reload
  if [ "$start" = yes ]; then
    systemctl enable --quiet shoal.service
    systemctl restart shoal.service
    echo "install: shoal.service runs; try: shoal info"
  fi
else
  echo "install: no systemd here; start the daemon with: shoal daemon (after an upgrade: end the one that runs first)"
fi
