#!/usr/bin/env bash
# Three nodes on this machine, each a process of its own, for trying out what happens when one dies.
#
#   three-nodes.sh start         starts those that do not run, and waits until all are ready
#   three-nodes.sh leader        prints the node that leads group 1
#   three-nodes.sh kill N        SIGKILL, no goodbye
#   three-nodes.sh stop          SIGTERM to all: leaderships are handed over, requests finished
#
# FLOTILLA is the binary (release/flotilla in CARGO_TARGET_DIR or target), DIR the data (.flotilla/three-nodes). Node N
# answers HTTP on 7100 + N.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
flotilla=${FLOTILLA:-${CARGO_TARGET_DIR:-$root/target}/release/flotilla}
dir=$(realpath -m "${DIR:-$root/.flotilla/three-nodes}")
members=1=127.0.0.1:7201/127.0.0.1:7101,2=127.0.0.1:7202/127.0.0.1:7102,3=127.0.0.1:7203/127.0.0.1:7103

pid() { cat "$dir/n$1.pid" 2>/dev/null || true; }

# Whether node $1's process is there. A pid file may outlive its process, and the number go to somebody else's: the
# command line has to hold `--data` and this node's directory.
runs() {
    local pid arguments i
    pid=$(pid "$1")
    [[ $pid =~ ^[0-9]+$ ]] && mapfile -d '' -t arguments 2>/dev/null <"/proc/$pid/cmdline" || return 1
    for ((i = 1; i < ${#arguments[@]}; i++)); do
        [ "${arguments[i - 1]}" = --data ] && [ "${arguments[i]}" = "$dir/n$1" ] && return
    done
    return 1
}

# Ends with an error where node $1's process has ended. It is looked for more than once, because one that was started
# this instant may not have its own command line yet.
must_run() {
    for _ in $(seq 5); do
        runs "$1" && return
        sleep 0.1
    done
    echo "node $1 ended; the end of its log:" >&2
    tail -n 5 "$dir/n$1.log" >&2
    exit 1
}

start() {
    command -v "$flotilla" >/dev/null || { echo "there is no $flotilla; build it first: cargo build --release" >&2; exit 1; }
    mkdir -p "$dir"
    for n in 1 2 3; do
        runs "$n" && continue
        # It would be that one that answers below.
        curl -s -m 2 -o /dev/null "http://127.0.0.1:710$n/healthz" && { echo "something else answers at 127.0.0.1:710$n: end it first" >&2; exit 1; }
        setsid "$flotilla" server --node "$n" --data "$dir/n$n" --members "$members" \
            --peer-listen "127.0.0.1:720$n" --http-listen "127.0.0.1:710$n" >>"$dir/n$n.log" 2>&1 </dev/null &
        echo $! >"$dir/n$n.pid"
    done
    for n in 1 2 3; do
        for _ in $(seq 300); do
            must_run "$n"
            curl -sf -m 2 -o /dev/null "http://127.0.0.1:710$n/readyz" && continue 2
            sleep 0.1
        done
        echo "node $n is not ready after 30 s; see $dir/n$n.log" >&2
        exit 1
    done
    echo "ready: http://127.0.0.1:7101 http://127.0.0.1:7102 http://127.0.0.1:7103"
}

leader() {
    for n in 1 2 3; do
        curl -sf -m 2 "http://127.0.0.1:710$n/v1/cluster" | sed -n 's/.*"groups":\[{"id":1,"leader":\([0-9]*\).*/\1/p' | grep . && return
    done
    echo "no node knows a leader" >&2
    exit 1
}

kill_node() {
    runs "$1" || { echo "node $1 does not run" >&2; exit 1; }
    kill -KILL "$(pid "$1")"
    rm -f "$dir/n$1.pid"
    echo "node $1 is dead"
}

stop() {
    for n in 1 2 3; do if runs "$n"; then kill -TERM "$(pid "$n")"; fi; done
    for n in 1 2 3; do
        for _ in $(seq 300); do
            runs "$n" || { rm -f "$dir/n$n.pid"; continue 2; }
            sleep 0.1
        done
        echo "node $n still runs 30 s after SIGTERM; see $dir/n$n.log" >&2
        exit 1
    done
}

case ${1:-} in
start) start ;;
leader) leader ;;
kill) kill_node "${2:?which node}" ;;
stop) stop ;;
*) sed -n '2,10p' "$0" && exit 2 ;;
esac
