#!/usr/bin/env bash
# Three nodes on this machine, each a process of its own, for trying out what happens when one dies.
#
#   three-nodes.sh start         starts those that do not run, and waits until all are ready
#   three-nodes.sh leader        prints the node that leads group 1
#   three-nodes.sh kill N        SIGKILL, no goodbye
#   three-nodes.sh stop          SIGTERM to all: leaderships are handed over, requests finished
#
# FLOTILLA is the binary (target/release/flotilla), DIR the data (.flotilla/three-nodes). Node N answers HTTP on 7100 + N.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
flotilla=${FLOTILLA:-$root/target/release/flotilla}
dir=${DIR:-$root/.flotilla/three-nodes}
members=1=127.0.0.1:7201/127.0.0.1:7101,2=127.0.0.1:7202/127.0.0.1:7102,3=127.0.0.1:7203/127.0.0.1:7103

pid() { cat "$dir/n$1.pid" 2>/dev/null || true; }
runs() { [ -n "$(pid "$1")" ] && kill -0 "$(pid "$1")" 2>/dev/null; }

start() {
    mkdir -p "$dir"
    for n in 1 2 3; do
        runs "$n" && continue
        setsid "$flotilla" server --node "$n" --data "$dir/n$n" --members "$members" \
            --peer-listen "127.0.0.1:720$n" --http-listen "127.0.0.1:710$n" >>"$dir/n$n.log" 2>&1 </dev/null &
        echo $! >"$dir/n$n.pid"
    done
    for n in 1 2 3; do
        for _ in $(seq 300); do
            curl -sf -m 2 -o /dev/null "http://127.0.0.1:710$n/readyz" && continue 2
            runs "$n" || { echo "node $n ended; the end of its log:" >&2; tail -n 5 "$dir/n$n.log" >&2; exit 1; }
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

case ${1:-} in
start) start ;;
leader) leader ;;
kill) kill -KILL "$(pid "${2:?which node}")" && echo "node $2 is dead" ;;
stop) for n in 1 2 3; do if runs "$n"; then kill -TERM "$(pid "$n")"; fi; done
    for n in 1 2 3; do while runs "$n"; do sleep 0.1; done; done ;;
*) sed -n '2,10p' "$0" && exit 2 ;;
esac
