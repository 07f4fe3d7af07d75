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
host=${PREFECT_SERVER_API_HOST:-127.0.0.1}
data=$folder/postgresql
umask 077
mkdir -p "$folder"

[ -e "$folder/auth" ] || echo "team:$(head -c 24 /dev/urandom | base64 | tr '+/' '-_')" > "$folder/auth"
[ -e "$data/PG_VERSION" ] || initdb --pgdata "$data" --auth-local peer --auth-host reject --encoding UTF8 --no-instructions > "$folder/initdb.log"

stop() {
    [ -z "${server:-}" ] || { kill "$server" 2> /dev/null || true; wait "$server" || true; }
    pg_ctl --pgdata "$data" --mode fast --silent stop
}
pg_ctl --pgdata "$data" --log "$folder/postgresql.log" --silent --wait start \
    -o "-c listen_addresses='' -c unix_socket_directories='$folder'"
trap stop EXIT
trap 'exit 0' INT TERM

psql() { command psql --host "$folder" --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"; }
[ "$(psql postgres --tuples-only --no-align --command "SELECT 1 FROM pg_database WHERE datname = 'prefect'")" = 1 ] ||
    psql postgres --command "CREATE DATABASE prefect"
psql prefect --command "CREATE EXTENSION IF NOT EXISTS pg_trgm" 2> /dev/null

export PREFECT_HOME=$folder/prefect PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=true
PREFECT_API_DATABASE_CONNECTION_URL="postgresql+asyncpg://$(id -un)@/prefect?host=$folder"
PREFECT_SERVER_API_AUTH_STRING=$(cat "$folder/auth")
export PREFECT_API_DATABASE_CONNECTION_URL PREFECT_SERVER_API_AUTH_STRING
prefect server start --host "$host" --port "$port" &
server=$!
wait "$server"
