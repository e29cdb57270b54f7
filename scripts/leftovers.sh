#!/usr/bin/env bash
# What is on this machine that the product, the demo and the tests could leave behind: `leftovers.sh snapshot FILE` before,
# `leftovers.sh compare FILE` after. Prints what came (+) and went (-) and exits with 1 if anything did. Network namespaces,
# links, packet rules, mounts, cgroups, processes, and names in /run, /var/lib, /tmp. A machine where others work needs
# LEFTOVERS_ONLY, a regular expression: lines that don't match it are passed over.
set -euo pipefail
export PATH="$PATH:/usr/sbin:/sbin" LC_ALL=C

usage() {
  echo "usage: leftovers.sh snapshot FILE | compare FILE" >&2
  exit 2
}
[ "$#" -eq 2 ] || usage

look() {
  ip netns list 2>/dev/null | sed 's/ .*//; s/^/netns /'
  ip -o link show | sed -E 's/^[0-9]+: ([^:@]+).*/link \1/'
  ip route show table all | sed -E 's/ expires [0-9]+sec//; s/^/route /'
  ip rule show | sed 's/^/rule /'
  # Counters, handles and what times out differ from one look to the next.
  nft list ruleset 2>/dev/null | sed -E 's/counter packets [0-9]+ bytes [0-9]+/counter/; s/ expires [0-9a-z]+//g; s/^/nft /'
  cut -d' ' -f5 /proc/self/mountinfo | sed 's/^/mount /'
  find /sys/fs/cgroup -type d 2>/dev/null | sed 's/^/cgroup /'
  for folder in /proc/[0-9]*; do
    [ "${folder#/proc/}" != "$$" ] && [ -s "$folder/cmdline" ] || continue
    command=$(tr '\0' ' ' 2>/dev/null <"$folder/cmdline") || continue
    case "$command" in *leftovers.sh*) ;; ?*) echo "process ${command:0:200}" ;; esac
  done
  for folder in /run /var/lib /tmp; do
    find "$folder" -xdev -maxdepth 2 2>/dev/null | sed 's/^/file /'
  done
}

# Sorted with repetitions: of two equal processes one may be left.
lines() { look | { if [ -n "${LEFTOVERS_ONLY:-}" ]; then grep -E -- "$LEFTOVERS_ONLY" || true; else cat; fi; } | sort; }

case "$1" in
  snapshot) lines >"$2.new" && mv "$2.new" "$2" ;;
  compare)
    [ -r "$2" ] || { echo "leftovers: cannot read \"$2\"" >&2; exit 2; }
    # The snapshot's own file came after it was taken.
    changed=$(diff <(grep -vF "file $2" "$2") <(lines | grep -vF "file $2") | sed -nE 's/^> /+ /p; s/^< /- /p') || true
    if [ -n "$changed" ]; then
      echo "$changed"
      exit 1
    fi
    echo "leftovers: nothing"
    ;;
  *) usage ;;
esac
