#!/usr/bin/env bash
# A Ray cluster of two nodes on this machine, to try retrieval.backend=ray as it runs on two machines.
#
#   bash scripts/ray_cluster.sh start             two nodes, each in a network namespace of its own, joined by a cable
#                                                 (as root; else two nodes on the loopback interface)
#   bash scripts/ray_cluster.sh run COMMAND...    a command on the first node, for example
#       bash scripts/ray_cluster.sh run rag-exp run index=ivf retrieval.shards=4 retrieval.backend=ray retrieval.ray.address=auto
#   bash scripts/ray_cluster.sh kill              the second node dies as a machine does that loses its power
#   bash scripts/ray_cluster.sh stop              ends both and removes everything
#
# RAG_EXP_RAY_CLUSTER names the cluster where there are to be several. Nodes let in only who has the cluster's token.
set -euo pipefail

name="${RAG_EXP_RAY_CLUSTER:-rag_exp_ray}"
state="${TMPDIR:-/tmp}/$name"
head_address=10.77.0.1 worker_address=10.77.0.2 port=6379

say() { printf '%s\n' "$*" >&2; }

node() { # node NAME COMMAND...: on that node, with what every process of the cluster needs to know
    local where="$1"
    shift
    local settings=(RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token" RAY_USAGE_STATS_ENABLED=0)
    if [ -e "$state/namespaces" ]; then
        settings+=(RAY_ADDRESS="$head_address:$port")
        exec ip netns exec "${name}_$where" env "${settings[@]}" "$@"
    fi
    exec env "${settings[@]}" RAY_ADDRESS="127.0.0.1:$(cat "$state/port")" "$@"
}

namespaces() {
    [ "$(id -u)" = 0 ] && command -v ip >/dev/null || return 1
    ip netns add "${name}_head" 2>/dev/null || return 1
    ip netns add "${name}_worker" &&
        ip -n "${name}_head" link add cable type veth peer name cable netns "${name}_worker" &&
        ip -n "${name}_head" address add "$head_address/24" dev cable &&
        ip -n "${name}_worker" address add "$worker_address/24" dev cable || return 1
    local where
    for where in head worker; do
        ip -n "${name}_$where" link set lo up
        ip -n "${name}_$where" link set cable up
    done
}

ray_start() { # ray_start NAME OPTIONS...: in the background, its children ending with it
    local where="$1"
    shift
    : >"$state/$where.log"
    (node "$where" setsid ray start --block --num-cpus=1 --object-store-memory=100000000 --disable-usage-stats "$@") \
        >"$state/$where.log" 2>&1 </dev/null &
    echo $! >"$state/$where.pid"
}

started() { # whether the node comes up within two minutes
    local tries
    for tries in $(seq 240); do
        ! grep -q "Ray runtime started" "$state/$1.log" || return 0
        kill -0 "$(cat "$state/$1.pid")" 2>/dev/null || return 1
        sleep 0.5
    done
    return 1
}

start() {
    if [ -e "$state" ]; then
        say "$state is there already: the cluster $name runs, or was not stopped. Stop it: bash $0 stop"
        return 1
    fi
    command -v ray >/dev/null || { say "Ray is not installed: pip install 'rag-exp[ray]'"; return 1; }
    mkdir -m 700 "$state"
    (umask 077 && head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n' >"$state/token")
    local here=() there=()
    if namespaces; then
        touch "$state/namespaces"
        here=(--port="$port" --node-ip-address="$head_address") there=(--node-ip-address="$worker_address")
    else
        remove_namespaces
        say "Network namespaces are not permitted here: two nodes on the loopback interface instead."
        python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])' >"$state/port"
        here=(--port="$(cat "$state/port")" --node-ip-address=127.0.0.1) there=(--node-ip-address=127.0.0.1)
    fi
    local address="$head_address:$port"
    [ -e "$state/namespaces" ] || address="127.0.0.1:$(cat "$state/port")"
    ray_start head --head --include-dashboard=false --temp-dir="$state/ray" "${here[@]}"
    ray_start worker --address="$address" "${there[@]}"  # it waits for the first node by itself
    if ! started head || ! started worker; then
        say "The cluster did not start; its own words:"
        cat "$state"/*.log >&2
        stop
        return 1
    fi
    say "Two nodes at $address. Stop them: bash $0 stop"
}

kill_node() { # with all that it started: those of its namespace, or of its session
    [ -e "$state/$1.pid" ] || return 0
    if [ -e "$state/namespaces" ]; then
        ip netns pids "${name}_$1" | xargs -r kill -KILL 2>/dev/null || true
    else
        pkill -KILL --session "$(cat "$state/$1.pid")" || true
    fi
    rm -f "$state/$1.pid"
}

remove_namespaces() {
    local where
    for where in head worker; do
        ip netns delete "${name}_$where" 2>/dev/null || true
    done
}

stop() {
    kill_node worker
    kill_node head
    [ ! -e "$state/namespaces" ] || remove_namespaces
    rm -rf "$state"
}

case "${1:-}" in
start) start ;;
stop) stop ;;
kill) kill_node worker ;;
run)
    shift
    [ -e "$state/head.pid" ] || { say "The cluster $name does not run. Start it: bash $0 start"; exit 1; }
    node head "$@"
    ;;
*)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
