# shellcheck shell=sh
# What the scripts share that exercise the installed package: scripts/exercise-package,
# scripts/exercise-installed and debian/tests. Each sources it, and runs as root.

step() { printf '%s\n' "--- $*" >&2; }

# A script may define explain, which shows logs.
fail() {
    printf '%s\n' "FAILED: $*" >&2
    if command -v explain >/dev/null; then explain >&2; fi
    exit 1
}

# Runs a command again and again until it succeeds.
eventually() {
    for _ in $(seq 200); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.1
    done
    fail "not within 20 seconds: $*"
}

# Runs a command as the user $1. The README's commands use sudo; a minimal system has setpriv.
as() {
    user=$1
    shift
    (cd / && exec setpriv --reuid="$user" --regid="$user" --init-groups --reset-env "$@")
}

# What curl asks is a path below $url; $ask has further options of curl.
url=http://localhost
ask=
# shellcheck disable=SC2086
ask() { curl --fail --silent --show-error $ask "$@"; }
serves() { ask "$url/health"; }
# Prints the id of the file $1.
upload() { ask --data-binary "@$1" "$url/file" | sed -n 's/.*"id":"\([^"]*\)".*/\1/p'; }
# Whether the file with the id $1 has the bytes of the file $2.
is_served() { ask "$url/file/$1" | cmp - "$2"; }
