#!/usr/bin/env bash
# Prefect's server on PostgreSQL, without root.
#
#   deploy/prefect-server.sh FOLDER [PORT]
#
# FOLDER holds the database (PostgreSQL 14 or newer, with pg_trgm) and the server's password. PostgreSQL listens on a
# socket in FOLDER alone, the server on this machine alone; put a proxy with TLS before it, or set PREFECT_SERVER_API_HOST.
# Ctrl-C or SIGTERM stops both. Clients: PREFECT_API_URL, and PREFECT_API_AUTH_STRING = what FOLDER/auth holds.
set -euo pipefail

folder=$(realpath -m "${1:?usage: prefect-server.sh FOLDER [PORT]}")
port=${2:-4200}
umask 077
mkdir -p "$folder"
here=$(dirname "$(realpath "$0")")
. "$here/secret.sh"
. "$here/postgresql.sh"
only_one

team() { printf 'team:' && secret; }
made "$folder/auth" team
stop() {
    [ -z "${server:-}" ] || { kill "$server" 2> /dev/null || true; wait "$server" || true; }
    stop_postgresql
}
trap stop EXIT
trap 'exit 0' INT TERM
start_postgresql prefect
psql prefect --command "CREATE EXTENSION IF NOT EXISTS pg_trgm" 2> /dev/null

# On disk: leases in memory would be lost with the server, and with them a running training or the slot of a dead one.
export PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem
rm -f "$folder/prefect/concurrency_leases/expirations.lock"   # a killed server's; it names a process id and is waited for
export PREFECT_HOME=$folder/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=true
PREFECT_API_DATABASE_CONNECTION_URL="postgresql+asyncpg://$(dsn prefect)"
PREFECT_SERVER_API_AUTH_STRING=$(cat "$folder/auth")
export PREFECT_API_DATABASE_CONNECTION_URL PREFECT_SERVER_API_AUTH_STRING
prefect server start --host "${PREFECT_SERVER_API_HOST:-127.0.0.1}" --port "$port" &
server=$!
wait "$server"
