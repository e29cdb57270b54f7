#!/usr/bin/env bash
# What only the tests need, on top of deploy/install-deps.sh: a static busybox for images, the docker CLI as a client,
# Debian's registry to push to and pull from, umoci to unpack beside, compressors, what a daemon without root needs. As root it installs what is missing; services that come along
# are not started.
set -euo pipefail

export PATH="$PATH:/usr/sbin:/sbin"
missing=()
[ -x /bin/busybox ] && ! ldd /bin/busybox >/dev/null 2>&1 || missing+=(busybox-static)
command -v docker >/dev/null || missing+=(docker.io)
command -v docker-registry >/dev/null || missing+=(docker-registry)
command -v newuidmap >/dev/null || missing+=(uidmap)
command -v slirp4netns >/dev/null || missing+=(slirp4netns)
command -v apparmor_parser >/dev/null || missing+=(apparmor)
command -v umoci >/dev/null || missing+=(umoci)
command -v openssl >/dev/null || missing+=(openssl)
command -v xz >/dev/null || missing+=(xz-utils)
command -v bzip2 >/dev/null || missing+=(bzip2)
[ "${#missing[@]}" -eq 0 ] && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "install-test-deps: missing: ${missing[*]}" >&2
  exit 1
fi

# Debian asks this file whether a package may start its service: 101 is no. One that is there already stays as it is.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 0755 "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
echo "install-test-deps: installing ${missing[*]}"
# Another package manager may be at work, and a mirror may need a second try.
patiently=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=5)
apt-get "${patiently[@]}" update -qq
apt-get "${patiently[@]}" install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
