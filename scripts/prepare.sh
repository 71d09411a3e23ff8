# What scripts/run and scripts/test share: sourced by them, in the repository's folder.
# Installs what is missing and says so; defines where PostgreSQL's programs are.

say() { printf '%s: %s\n' "$0" "$*" >&2; }
fail() { say "$*"; exit 1; }

# As root, or through sudo; $* are the packages.
install() {
    say "installing from Debian's archive: $*"
    if [ "$(id -u)" = 0 ]; then root=''
    elif command -v sudo >/dev/null; then root=sudo
    else fail "needs these packages: $*; install them as root, or install sudo"
    fi
    $root apt-get update -qq || fail "apt-get update failed; see above"
    DEBIAN_FRONTEND=noninteractive $root apt-get install -y -qq --no-install-recommends "$@" \
        >/dev/null || fail "apt-get install failed; see above"
}

on_debian_13() {
    [ -r /etc/os-release ] || return 1
    # The codename of a later release has no number; it is newer than 13 all the same.
    ( . /etc/os-release; [ "${ID:-}" = debian ] && [ "${VERSION_ID:-99}" -ge 13 ] )
}

rust_is_new_enough() {
    version=$(rustc --version 2>/dev/null | cut -d' ' -f2) || return 1
    minor=$(printf %s "$version" | cut -d. -f2)
    command -v cargo >/dev/null && [ "${minor:-0}" -ge 85 ]
}

# $* are the packages that bring Rust in Debian 13.
need_rust() {
    rust_is_new_enough && return
    on_debian_13 || fail "needs Rust 1.85 or newer on the PATH: this system is older than" \
        "Debian 13, which has it, and none was found"
    install "$@"
    rust_is_new_enough || fail "the rustc on the PATH is older than 1.85; remove it, or put a newer one first"
}

need_c_linker() { command -v cc >/dev/null || install gcc libc6-dev; }

# Sets pg_bin.
need_postgresql() {
    find_postgresql || install postgresql postgresql-client
    find_postgresql || fail "PostgreSQL is installed, but its initdb is not under /usr/lib/postgresql"
}

find_postgresql() {
    for version in $(ls /usr/lib/postgresql 2>/dev/null | sort -rn); do
        pg_bin=/usr/lib/postgresql/$version/bin
        [ -x "$pg_bin/initdb" ] && [ -x "$pg_bin/postgres" ] && command -v psql >/dev/null && return
    done
    return 1
}

# PostgreSQL refuses root: root becomes the user that Debian's package has made.
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --clear-groups -- "$@"
    else
        "$@"
    fi
}
