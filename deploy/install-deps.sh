#!/usr/bin/env bash
# Installs the system packages that Shoal needs and that are missing: as root through the system's package manager,
# otherwise it names them and fails. Safe to run again; does nothing when all is there.
set -euo pipefail

# ps is what `docker top` shows.
declare -A package_of=([ip]=iproute2 [nft]=nftables [ps]=procps [make]=make [npm]=npm)
wanted=(ip nft ps)
cd "$(dirname "$0")/.."
# An installed tree has its modules, a package its native helper.
[ -d node_modules ] || wanted+=(npm)
[ -x runtime/native/build/shoal-runtime ] || wanted+=(make)
missing=()
for command in "${wanted[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null || missing+=("${package_of[$command]}")
done
# The native helper is linked statically against musl, so that it starts fast and stays small.
if [ ! -x runtime/native/build/shoal-runtime ]; then
  command -v musl-gcc >/dev/null || missing+=(musl-tools gcc linux-libc-dev)
fi
has_library() { PATH="$PATH:/usr/sbin:/sbin" ldconfig -p | grep -q "$1"; }
has_library libnftables.so.1 || missing+=(libnftables1)
# Node.js itself is linked with it, and it comes with compilers only.
has_library libatomic.so.1 || missing+=(libatomic1)

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
# Another package manager may be at work, and a mirror may need a second try.
patiently=(-o DPkg::Lock::Timeout=600 -o Acquire::Retries=5)
apt-get "${patiently[@]}" update -qq
apt-get "${patiently[@]}" install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
