# Secrets in files, for the scripts beside this one; sourced, not run.
#
#   secret                         a new one
#   made FILE COMMAND...           what the command says, kept in the file from the first start on

secret() { head -c 24 /dev/urandom | base64 | tr '+/' '-_'; }

# Whole or absent: a secret cut off by a full disk or a kill would be a short one, and an empty one lets everybody in.
made() {
    if [ ! -e "$1" ]; then
        "${@:2}" > "$1.tmp"
        sync "$1.tmp"
        mv "$1.tmp" "$1"
    fi
    [ -s "$1" ] || { echo "$1 is empty: delete it, and the next start makes a new one" >&2; exit 1; }
}
