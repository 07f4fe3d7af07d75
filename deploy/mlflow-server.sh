#!/usr/bin/env bash
# MLflow's server on PostgreSQL, with accounts and an artifact store that only the server reaches, without root.
#
#   deploy/mlflow-server.sh FOLDER [PORT]
#
# FOLDER holds the database (PostgreSQL 14 or newer), the password of `admin` and, unless MLFLOW_ARTIFACTS_DESTINATION
# names a bucket (s3://...), the artifacts. Needs psycopg2-binary and flask-wtf. PostgreSQL listens on a socket in
# FOLDER alone, the server on this machine alone; put a proxy with TLS before it, or set MLFLOW_HOST and
# MLFLOW_SERVER_ALLOWED_HOSTS. Ctrl-C or SIGTERM stops both. Clients: MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME
# (admin, or an account that admin makes), MLFLOW_TRACKING_PASSWORD = what FOLDER/password holds.
set -euo pipefail

folder=$(realpath -m "${1:?usage: mlflow-server.sh FOLDER [PORT]}")
port=${2:-5000}
umask 077
mkdir -p "$folder"
here=$(dirname "$(realpath "$0")")
. "$here/secret.sh"
. "$here/postgresql.sh"
only_one

made "$folder/password" secret
made "$folder/sessions" secret
stop() {
    [ -z "${server:-}" ] || { kill "$server" 2> /dev/null || true; wait "$server" || true; }
    stop_postgresql
}
trap stop EXIT
trap 'exit 0' INT TERM
start_postgresql mlflow mlflow_accounts

cat > "$folder/accounts.ini" << END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = postgresql://$(dsn mlflow_accounts)
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
grant_default_workspace_access = false
END
MLFLOW_AUTH_ADMIN_PASSWORD=$(cat "$folder/password")
MLFLOW_FLASK_SERVER_SECRET_KEY=$(cat "$folder/sessions")
export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH=$folder/accounts.ini
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
# Of an older MLflow: migrated here, because the server refuses it. Back the database up before an upgrade.
if [ "$(psql mlflow --tuples-only --no-align --command "SELECT to_regclass('alembic_version') IS NOT NULL")" = t ]; then
    mlflow db upgrade "postgresql://$(dsn mlflow)" 2> "$folder/upgrade.log" ||
        { echo "the database could not be migrated: see $folder/upgrade.log" >&2; exit 1; }
fi
mlflow server --app-name basic-auth --backend-store-uri "postgresql://$(dsn mlflow)" \
    --serve-artifacts --artifacts-destination "${MLFLOW_ARTIFACTS_DESTINATION:-$folder/artifacts}" \
    --host "${MLFLOW_HOST:-127.0.0.1}" --port "$port" --workers 2 &
server=$!
wait "$server"
