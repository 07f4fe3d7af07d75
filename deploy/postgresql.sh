# A PostgreSQL of one's own in $folder/postgresql, for the scripts beside this one; sourced, not run.
#
#   only_one                       ends the script where another one uses the folder
#   start_postgresql DATABASE...   starts it, on a socket in that folder alone, and makes the databases
#   stop_postgresql
#   dsn DATABASE                   what stands behind "postgresql://" in a client's address
#
# PostgreSQL refuses root: where root runs the script it runs as POSTGRESQL_USER, by default `nobody`.

data=$folder/postgresql
me=$(id -un)
owner=$me
as_owner=()
if [ "$me" = root ]; then
    owner=${POSTGRESQL_USER:-nobody}
    as_owner=(setpriv "--reuid=$owner" "--regid=$(id -g "$owner")" --clear-groups env -C /)
fi

psql() { command psql --host "$data" --no-psqlrc --quiet --set ON_ERROR_STOP=1 "$@"; }

dsn() { printf '%s@/%s?host=%s' "$me" "$1" "$data"; }

start_postgresql() {
    local name bin
    for bin in /usr/lib/postgresql/*/bin; do   # where Debian keeps initdb and pg_ctl, off the path
        command -v initdb > /dev/null || [ ! -x "$bin/initdb" ] || PATH=$PATH:$bin
    done
    mkdir -p "$data"
    [ "$me" = "$owner" ] || { chown "$owner" "$data"; chmod 711 "$folder"; }   # passed through, not looked into
    [ -e "$data/PG_VERSION" ] || "${as_owner[@]}" initdb --pgdata "$data" --username "$owner" --auth-local peer \
        --auth-host reject --encoding UTF8 --no-instructions > "$folder/initdb.log"
    pg_isready --host "$data" --quiet || "${as_owner[@]}" pg_ctl --pgdata "$data" --log "$data/log" --silent --wait start \
        -o "-c listen_addresses='' -c unix_socket_directories='$data'" > "$folder/start.log" 9>&-
    [ "$me" = "$owner" ] || [ "$("${as_owner[@]}" psql --host "$data" --no-psqlrc --tuples-only --no-align \
        --command "SELECT 1 FROM pg_roles WHERE rolname = '$me'" postgres)" = 1 ] ||
        "${as_owner[@]}" createuser --host "$data" --superuser "$me"
    for name in "$@"; do
        [ "$(psql postgres --tuples-only --no-align --command "SELECT 1 FROM pg_database WHERE datname = '$name'")" = 1 ] ||
            psql postgres --command "CREATE DATABASE $name"
    done
}

# A second start would stop the first one's database. Held by script and server; PostgreSQL outlives a killed script.
only_one() {
    exec 9> "$folder/lock"
    flock --nonblock 9 || { echo "something runs in $folder already" >&2; exit 1; }
}

stop_postgresql() { "${as_owner[@]}" pg_ctl --pgdata "$data" --mode fast --silent stop || true; }
