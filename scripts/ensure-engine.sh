#!/usr/bin/env bash
# Leaves a container engine that answers: does nothing if one does, starts it, or (Debian and Ubuntu, as root) installs it.
#
# Exit codes: 0 an engine answers; 7 none does, and the message says what to type.
# Asks over the socket with the Python SDK, as reprobox itself does: a `docker` client on PATH proves nothing.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
python=$root/.venv/bin/python
socket=/var/run/docker.sock
pid_file=/var/run/docker.pid
log=/var/log/reprobox-dockerd.log
start_wait_s=60
join_group="sudo usermod -aG docker $(id -un)     # then log in again, or type: newgrp docker"

# `su` without a dash leaves root without the folders where daemons live.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf 'engine: %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n\nhint: %s\n' "$1" "$2" >&2
    exit 7
}

# Prints why not. Exit codes: 0 answers, 13 there but not for this user, 1 anything else.
ping_engine() {
    "$python" - <<'PYTHON'
import sys

import docker

try:
    client = docker.from_env(timeout=10)
    client.ping()
    print(client.version()["Version"])
except Exception as error:
    cause = error
    while cause is not None and not isinstance(cause, PermissionError):
        cause = cause.__cause__ or cause.__context__
    print(error)
    sys.exit(13 if cause else 1)
PYTHON
}

is_engine_local() {
    case ${DOCKER_HOST:-} in
        '' | unix:///var/run/docker.sock | unix:///run/docker.sock) return 0 ;;
        *) return 1 ;;
    esac
}

is_debian_like() {
    # shellcheck disable=SC1091  # not ours to check
    [[ -r /etc/os-release ]] && command -v apt-get >/dev/null &&
        (. /etc/os-release && [[ " ${ID:-} ${ID_LIKE:-} " =~ \ (debian|ubuntu)\  ]])
}

is_systemd_running() { [[ -d /run/systemd/system ]] && command -v systemctl >/dev/null; }

# A pid file that survived a crash or came with a disk image: its number may belong to anybody by now, and dockerd
# would then refuse to start, or wait for a containerd that is none.
remove_stale_pid_file() {
    local file=$1 name=$2 pid
    [[ -f $file ]] || return 0
    pid=$(tr -cd '0-9' <"$file")
    if [[ -z $pid || $(cat "/proc/$pid/comm" 2>/dev/null) != "$name" ]]; then
        say "removing $file, left by a $name that no longer runs"
        rm -f -- "$file"
    fi
}

# In its own session, holding none of our files: it outlives make, and nobody who reads make's output waits for it.
# Prints the process id.
launch_detached() (
    cd /
    umask 022
    unset MAKEFLAGS MFLAGS MAKELEVEL
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        if ((fd > 2)); then eval "exec $fd>&-"; fi
    done
    setsid "$@" </dev/null >>"$log" 2>&1 &
    printf '%s\n' "$!"
)

is_daemon_alive() {
    local pid
    for pid in "$@" "$(cat "$pid_file" 2>/dev/null)"; do
        # A process that ended and was not waited for has no executable any more.
        if [[ -n $pid && -e /proc/$pid/exe ]]; then return 0; fi
    done
    return 1
}

# Waits until the engine answers, at most $1 seconds, and no longer than a daemon lives where process ids follow.
is_engine_ready() {
    local deadline=$((SECONDS + $1))
    shift
    until [[ -S $socket ]] && ping_engine >/dev/null; do
        if ((SECONDS >= deadline)); then return 1; fi
        if (($# > 0)) && ! is_daemon_alive "$@"; then return 1; fi
        sleep 0.5
    done
}

start_with_service_manager() {
    if is_systemd_running; then
        say "starting Docker with systemctl"
        systemctl start docker </dev/null >&2 && is_engine_ready "$start_wait_s"
    elif [[ $(</proc/1/comm) == init* && -x /etc/init.d/docker ]] && command -v service >/dev/null; then
        say "starting Docker with service"
        launch_detached service docker start >/dev/null
        is_engine_ready 10
    else
        return 1
    fi
}

start_dockerd() {
    local pid
    remove_stale_pid_file "$pid_file" dockerd
    remove_stale_pid_file /var/run/docker/containerd/containerd.pid containerd
    if is_daemon_alive; then
        say "waiting for the dockerd that runs already (process $(<"$pid_file"))"
        is_engine_ready "$start_wait_s"
    else
        say "starting dockerd in the background (log: $log)"
        pid=$(launch_detached dockerd)
        is_engine_ready "$start_wait_s" "$pid"
    fi
}

start_engine() {
    start_with_service_manager && return
    if is_systemd_running; then
        fail "systemctl could not start Docker" "systemctl status docker; journalctl -u docker"
    fi
    start_dockerd && return
    if [[ -s $log ]]; then
        printf 'Its last warnings and errors:\n' >&2
        { grep -v -E 'level=(info|debug)' -- "$log" || true; } | tail -n 8 | cut -c -300 | sed 's/^/    /' >&2
    fi
    fail "dockerd was started but does not answer (waited up to $start_wait_s s)" "look into $log, then repeat"
}

# Prints what somebody without root, or on a system that we do not know, has to type.
explain_by_hand() {
    local start other
    start="sudo $(is_systemd_running && echo 'systemctl start docker' || echo 'service docker start')"
    if command -v dockerd >/dev/null; then
        printf 'start it, and let yourself use it:\n'
    elif is_debian_like; then
        printf 'install one, start it, and let yourself use it:\n'
        printf '    sudo apt-get update && sudo apt-get install -y --no-install-recommends docker.io\n'
    else
        printf 'install Docker with the package manager of this system, start it, and let yourself use it:\n'
    fi
    printf '    %s\n    %s\n' "$start" "$join_group"
    for other in "${XDG_RUNTIME_DIR:-/nonexistent}"/{docker.sock,podman/podman.sock} /run/podman/podman.sock; do
        if [[ -S $other && -w $other ]]; then
            printf 'or use the engine that listens elsewhere already:\n    export DOCKER_HOST=unix://%s\n' "$other"
            return
        fi
    done
}

install_engine() {
    is_debian_like || fail "no container engine is installed" "$(explain_by_hand)"
    say "installing docker.io with apt-get (a minute or two)"
    # What counts is the daemon: apt also fails where only the start of the service did, which is ours to try.
    "$root/scripts/apt-install.sh" docker.io || true
    command -v dockerd >/dev/null || fail "docker.io could not be installed" \
        "apt-get update && apt-get install -y --no-install-recommends docker.io"
    # The package may have started it.
    is_engine_ready 3 || true
}

main() {
    local answer status=0
    [[ -x $python ]] || fail "there is no .venv yet" "scripts/setup.sh"
    answer=$(ping_engine) || status=$?
    if ((status == 0)); then
        say "Docker $answer answers"
        return
    fi
    if ! is_engine_local; then
        fail "no engine answers at DOCKER_HOST=$DOCKER_HOST: $answer" \
            "start it there, or unset DOCKER_HOST to use the engine of this machine"
    fi
    if ((status == 13)); then
        fail "a container engine runs, but $(id -un) may not speak to it" "$join_group"
    fi
    if ((EUID != 0)); then
        fail "no container engine answers at $socket" "$(explain_by_hand)"
    fi
    # Two makes at once take turns: the second finds the engine of the first.
    if command -v flock >/dev/null; then
        exec 9<"$root"
        flock 9
    fi
    command -v dockerd >/dev/null || install_engine
    is_engine_ready 0 || start_engine
    say "Docker $(ping_engine) answers"
}

main
