#!/usr/bin/env bash
# A node of a Ray cluster that asks for a token, without root.
#
#   deploy/ray-node.sh TOKEN ADDRESS [OPTION...]              the first node, at port 6379
#   deploy/ray-node.sh TOKEN ADDRESS HEAD:PORT [OPTION...]    each further one
#
# TOKEN is a file with the cluster's secret: the first node makes it, copy it to the others. ADDRESS is this machine's, as the
# others reach it. OPTIONs are those of `ray start`: --num-cpus, --num-gpus, --port. Ctrl-C or SIGTERM ends the node, and what
# runs on it. Clients: RAY_ADDRESS=HEAD:PORT, RAY_AUTH_MODE=token, RAY_AUTH_TOKEN_PATH=TOKEN.
set -euo pipefail

usage="usage: ray-node.sh TOKEN ADDRESS [HEAD:PORT] [OPTION of ray start...]"
token=$(realpath -m "${1:?$usage}")
address=${2:?$usage}
shift 2
umask 077
. "$(dirname "$(realpath "$0")")/secret.sh"

case ${1:-} in
    "" | -*)
        mkdir -p "$(dirname "$token")"
        made "$token" secret
        part=(--head --include-dashboard false)
        ;;
    *)
        [ -s "$token" ] || { echo "$token is not there, or empty: copy it from the first node" >&2; exit 1; }
        part=(--address "$1")
        shift
        ;;
esac
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$token" RAY_USAGE_STATS_ENABLED=0
exec ray start --block --node-ip-address "$address" "${part[@]}" "$@"
