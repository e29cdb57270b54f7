#!/usr/bin/env bash
# Installs the system packages that Shoal needs and that are missing: as root through the system's package manager,
# otherwise it names them and fails. Safe to run again; does nothing when all is there.
set -euo pipefail

declare -A package_of=([ip]=iproute2 [nft]=nftables [make]=make)
missing=()
for command in ip nft make; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("${package_of[$command]}")
done
# The native helper is linked statically against musl, so that it starts fast and stays small.
command -v musl-gcc >/dev/null || missing+=(musl-tools gcc linux-libc-dev)
ldconfig -p | grep -q libnftables.so.1 || missing+=(libnftables1)

[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "install-deps: missing packages: ${missing[*]}. Install them, or run this as root." >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "install-deps: missing: ${missing[*]}; this machine has no apt-get. Install their equivalents by hand." >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
echo "install-deps: installing ${missing[*]}"
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
