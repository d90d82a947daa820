#!/usr/bin/env bash
# Installs Debian packages without asking anything, as root: scripts/apt-install.sh PACKAGE…
#
# Silent unless something fails; then what apt said is shown. Waits up to 300 s for another apt to finish.
set -euo pipefail

lock_wait_s=300
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l LC_ALL=C.UTF-8
log=$(mktemp)
trap 'rm -f -- "$log"' EXIT

# A package may start a daemon. It must not inherit our pipes, or whoever reads them waits for ever.
run_detached() (
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        if ((fd > 2)); then eval "exec $fd>&-"; fi
    done
    exec "$@" </dev/null >>"$log" 2>&1
)

# DPkg::Lock::Timeout does not cover the lock on the package lists, so `update` is repeated by hand.
update_lists() {
    local deadline=$((SECONDS + lock_wait_s))
    until run_detached apt-get update -o DPkg::Lock::Timeout="$lock_wait_s"; do
        if ! grep -q 'Could not get lock' "$log" || ((SECONDS >= deadline)); then
            # Not fatal: the lists that are there may do, and if not, the installation says so.
            return 0
        fi
        : >"$log"
        sleep 3
    done
}

update_lists
if ! run_detached apt-get install -y --no-install-recommends \
    -o DPkg::Lock::Timeout="$lock_wait_s" -o Dpkg::Options::=--force-confold "$@"; then
    printf 'apt-get install %s failed:\n' "$*" >&2
    tail -n 25 -- "$log" | sed 's/^/    /' >&2
    exit 1
fi
