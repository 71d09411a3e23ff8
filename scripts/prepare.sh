# shellcheck shell=sh
# What the scripts share. Each sources it in the repository's folder. It installs what is
# missing and says so, and finds Rust and PostgreSQL.

# The scripts read programs' messages, which must be in English. Every system has this locale.
LC_ALL=C.UTF-8
export LC_ALL
# Services and containers may have no HOME, where rustup and cargo are.
: "${HOME:=$(getent passwd "$(id -u)" | cut -d: -f6)}"
export HOME
# PostgreSQL's programs would take another server's port or user from PGPORT, PGUSER and the like.
for name in $(env | sed -n 's/^\(PG[A-Z]*\)=.*/\1/p'); do unset "$name"; done

# cargo is always told its target folder, because its own configuration may name another one.
target=${CARGO_TARGET_DIR:-target}

say() { printf '%s: %s\n' "$0" "$*" >&2; }
fail() { say "$*"; exit 1; }

is_root() { [ "$(id -u)" = 0 ]; }

# Runs its arguments as root, through sudo if need be. sudo drops the variables of a proxy
# unless it is told to keep them.
as_root() {
    if is_root; then
        "$@"
    elif [ -n "${http_proxy:-}${https_proxy:-}${HTTP_PROXY:-}${HTTPS_PROXY:-}" ]; then
        sudo --preserve-env=http_proxy,https_proxy,HTTP_PROXY,HTTPS_PROXY,no_proxy,NO_PROXY "$@"
    else
        sudo "$@"
    fi
}

# $* are packages. Ends the script with a sentence if nobody can install them. The sentence names
# all packages that the scripts need, so that root is asked once.
need_root_for() {
    is_root && return
    missing="these packages are missing: $*"
    advice="let root install them, and what else is needed: apt-get install --no-install-recommends $* gcc libc6-dev postgresql postgresql-client"
    command -v sudo >/dev/null || fail "$missing; there is no sudo here: $advice"
    sudo -n true 2>/dev/null && return
    (: </dev/tty) 2>/dev/null ||
        fail "$missing; sudo wants a password, and there is no terminal to ask on: run this in one, or $advice"
    say "sudo may ask for your password"
}

# The part that root runs. $1 is "terminal" or "file": where the progress goes. $2 is what to do,
# the others are packages.
# - When Debian's PostgreSQL is installed, it makes a cluster that listens on port 5432. Nobody
#   asked for it here: a file of ours prevents it, and is removed afterwards.
# - Debian's PgBouncer starts a service on port 6432. Nobody asked for that either.
# - A umask of 077 would make /etc/ssl/certs unreadable for everybody else.
# - apt's error messages go to a file, because there are dozens without a network.
# shellcheck disable=SC2016 # The shell that root starts expands it.
APT='
umask 022
export DEBIAN_FRONTEND=noninteractive APT_LISTCHANGES_FRONTEND=none NEEDRESTART_SUSPEND=1
export LC_ALL=C.UTF-8
where=$1 action=$2
shift 2
no_cluster=/etc/postgresql-common/createcluster.d/session-file-server.conf
no_service=
errors=$(mktemp) || exit 1
trap "rm -f $errors $no_cluster \$no_service" EXIT
trap "exit 1" HUP INT QUIT TERM
apt() {
    apt-get -o Acquire::Retries=1 -o Acquire::http::Timeout=15 -o Acquire::https::Timeout=15 \
        -o DPkg::Lock::Timeout=300 --no-install-recommends "$@" 2>>"$errors" </dev/null
}
act() { if [ "$where" = terminal ]; then apt "$@" >&2; else apt -qq "$@" >/dev/null; fi; }
case $action in
update) act update || true ;;
install)
    case " $* " in *" postgresql "*)
        mkdir -p "${no_cluster%/*}"
        echo "create_main_cluster = false" >"$no_cluster"
    esac
    case " $* " in *" pgbouncer "*)
        if ! [ -e /usr/sbin/policy-rc.d ]; then
            no_service=/usr/sbin/policy-rc.d
            printf "#!/bin/sh\nexit 101\n" >"$no_service"
            chmod 755 "$no_service"
        fi
    esac
    # On a terminal apt itself says how much it fetches.
    [ "$where" = terminal ] ||
        apt --assume-no install "$@" | grep -E "^(Need to get|After this operation)" >&2
    act --yes --no-remove install "$@" || {
        grep "^E: " "$errors" | head -n 1 >&2
        exit 1
    }
    case " $* " in *" pgbouncer "*)
        ! command -v systemctl >/dev/null || systemctl disable --quiet pgbouncer 2>/dev/null || true
    esac
esac
'

lists_are_fresh=
refresh_lists() {
    [ -z "$lists_are_fresh" ] || return 0
    say "asking the archive for its newest lists of packages"
    run_apt update || true
    lists_are_fresh=yes
}

run_apt() {
    if [ -t 2 ]; then as_root sh -c "$APT" apt terminal "$@"
    else as_root sh -c "$APT" apt file "$@"
    fi
}

# $* are packages.
install() {
    command -v apt-get >/dev/null ||
        fail "these packages of Debian are missing: $*; there is no apt-get here, so install what they are called on this system"
    need_root_for "$@"
    refresh_lists
    say "installing from the archive, which takes a minute or two: $*"
    run_apt install "$@" ||
        fail "the packages can't be installed (see above): is there a network? May $(id -un) do it?"
}

# The version of the package $1 that apt would install.
candidate() { apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p'; }

RUST_VERSION=1.85

# Whether the program $1 tells a version that is new enough.
is_new_enough() {
    version=$("$1" --version 2>/dev/null | cut -d' ' -f2)
    major=${version%%.*} minor=${version#*.}
    minor=${minor%%.*}
    case $major$minor in '' | *[!0-9]*) return 1 ;; esac
    [ "$major" -gt "${RUST_VERSION%.*}" ] || [ "$minor" -ge "${RUST_VERSION#*.}" ]
}

rust_is_new_enough() { is_new_enough rustc && is_new_enough cargo; }

# Puts a Rust on the PATH that is new enough: the one that is there, one that rustup has
# installed since this shell was started, or the system's behind an older one.
find_rust() {
    rust_is_new_enough && return
    old_path=$PATH
    for folder in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/bin; do
        PATH=$folder:$old_path
        if [ -x "$folder/cargo" ] && rust_is_new_enough; then
            say "the Rust in $folder is used"
            return
        fi
    done
    PATH=$old_path
    return 1
}

# Prints what is wrong with the Rust that is there, as a part of a sentence.
describe_rust() {
    for program in rustc cargo; do
        path=$(command -v $program) || { echo "there is no $program on the PATH"; return; }
        if ! version=$($program --version 2>&1); then
            echo "$path doesn't work ($(printf '%s\n' "$version" | head -n 1))"
            return
        fi
        is_new_enough $program || { echo "$path is version $version, which is too old"; return; }
    done
}

# $* are the packages that bring Rust in Debian 13. Debian 12 has a second, newer Rust, for building
# browsers. It would replace the ordinary one, so that it is only installed if that is not there.
install_rust() {
    found=$(describe_rust)
    advice="get it from https://rustup.rs; if rustup is there, run: rustup default stable && rustup update stable"
    command -v apt-get >/dev/null || fail "needs Rust $RUST_VERSION or newer, and $found: $advice"
    need_root_for "$@"
    refresh_lists
    [ -n "$(candidate rustc)" ] || fail "needs Rust $RUST_VERSION or newer, and $found; apt-get update couldn't reach the archive that has it: is there a network?"
    if dpkg --compare-versions "$(candidate rustc)" ge "$RUST_VERSION" 2>/dev/null; then
        install "$@"
        return
    fi
    newer=$(printf '%s\n' "$@" | sed 's/^rust-clippy$/rust-web-clippy/; s/^cargo$\|^rustc$\|^rustfmt$/&-web/' | tr '\n' ' ')
    dpkg --compare-versions "$(candidate rustc-web)" ge "$RUST_VERSION" 2>/dev/null ||
        fail "needs Rust $RUST_VERSION or newer, which this system's archive doesn't have, and $found: $advice"
    if dpkg-query --show --showformat='${Status}' rustc 2>/dev/null | grep -q ' installed'; then
        fail "needs Rust $RUST_VERSION or newer, and $found: replace it (apt-get install $newer), or $advice"
    fi
    # shellcheck disable=SC2086
    install $newer
}

# $* are the packages that bring Rust in Debian 13.
need_rust() {
    if ! find_rust; then
        install_rust "$@"
        find_rust || fail "needs Rust $RUST_VERSION or newer, and $(describe_rust)"
    fi
    # Without certificates cargo can't trust crates.io.
    [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -n "${SSL_CERT_FILE:-}" ] ||
        ! command -v apt-get >/dev/null || install ca-certificates
    # Users who exist for one service may have a home that is missing or read-only.
    if [ -z "${CARGO_HOME:-}" ] && ! { [ -d "$HOME" ] && mkdir -p "$HOME/.cargo/registry" 2>/dev/null; }; then
        CARGO_HOME=$PWD/.local/cargo
        export CARGO_HOME
        say "the home folder can't be written to: cargo keeps its files in $CARGO_HOME"
    fi
    avoid_rust_lld
}

# The linker that Rust brings since 1.90 (rust-lld) can't write below a folder that has a % or a
# double quote in its name. The system's linker can. Older versions don't know the option, nor do
# they need it.
avoid_rust_lld() {
    case $PWD/$target in *[%\"]*) ;; *) return 0 ;; esac
    if rustc -Clinker-features=-lld --print sysroot >/dev/null 2>&1; then
        RUSTFLAGS="${RUSTFLAGS:-} -Clinker-features=-lld"
        export RUSTFLAGS
    fi
}

# A linker alone is not enough: one of the libraries is partly C, and needs the C headers.
need_c_linker() {
    c_compiler_works || install gcc libc6-dev
    c_compiler_works || fail "the C compiler (cc) can't compile and link; install gcc and libc6-dev, or what they are called here"
}

c_compiler_works() {
    printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
        cc -x c -o /dev/null - 2>/dev/null
}

# Some tests use curl as their client.
need_curl() { command -v curl >/dev/null || install curl; }
# The tests behind PgBouncer are skipped without it.
want_pgbouncer() {
    [ ! -x /usr/sbin/pgbouncer ] && ! command -v pgbouncer >/dev/null || return 0
    if command -v apt-get >/dev/null && { is_root || sudo -n true 2>/dev/null; }; then
        install pgbouncer
        say "PgBouncer was installed without its service; if you want that: systemctl enable --now pgbouncer"
    else
        say "there is no pgbouncer; tests/poolers.rs is skipped"
    fi
}
need_openssl() { command -v openssl >/dev/null || install openssl; }

# Fetches the libraries from crates.io, unless they are there already.
fetch_libraries() {
    cargo_fetch --offline --quiet 2>/dev/null && return
    say "fetching the libraries from crates.io"
    : "${CARGO_NET_RETRY:=1}" "${CARGO_HTTP_TIMEOUT:=15}"
    export CARGO_NET_RETRY CARGO_HTTP_TIMEOUT
    if [ -t 2 ]; then
        cargo_fetch && return
        reason='see above'
    else
        reason=$(cargo_fetch --quiet 2>&1) && return
        reason="cargo says: $(printf '%s\n' "$reason" | tail -n 1 | sed 's/^ *//')"
    fi
    fail "the libraries can't be fetched from crates.io; is there a network? $reason"
}

cargo_fetch() {
    cargo fetch --locked --target "$(rustc -vV | sed -n 's/^host: //p')" "$@"
}

# $1 is what will be done, $2 the megabytes that it needs in the target folder.
need_space() {
    mkdir -p "$target" 2>/dev/null || fail "$(id -un) may not write to $target/ in $PWD: use a copy of this folder that belongs to $(id -un), or set CARGO_TARGET_DIR"
    { cp /bin/true "$target/tried" && "$target/tried" 2>/dev/null; } ||
        fail "no program may be run from $target/, perhaps because its disk is mounted noexec: set CARGO_TARGET_DIR to a folder elsewhere"
    rm -f "$target/tried"
    free=$(df -Pm "$target" | awk 'NR == 2 { print $4 }')
    [ "${free:-0}" -ge "$2" ] || fail "$1 needs $2 MB of disk in $target/, and $free MB are free: make room, or set CARGO_TARGET_DIR to a folder on a larger disk"
}

# Sets pg_bin to the folder of PostgreSQL's programs, and installs them if they are missing.
need_postgresql() {
    if ! find_postgresql; then
        install postgresql postgresql-client
        find_postgresql && say "PostgreSQL was installed without Debian's own cluster, which would listen on port 5432; if you want it: pg_createcluster $(basename "$(dirname "$pg_bin")") main --start"
    fi
    find_postgresql || fail "PostgreSQL is installed, but its initdb is neither under /usr/lib/postgresql nor on the PATH"
    ! is_root || id postgres >/dev/null 2>&1 ||
        fail "PostgreSQL refuses root, and there is no user postgres to run it as; run this as another user"
}

find_postgresql() {
    # shellcheck disable=SC2012 # The names are numbers.
    for version in $(ls /usr/lib/postgresql 2>/dev/null | sort -rn); do
        pg_bin=/usr/lib/postgresql/$version/bin
        is_postgresql "$pg_bin" && return
    done
    pg_bin=$(command -v initdb) && pg_bin=$(dirname "$(readlink -f "$pg_bin")") && is_postgresql "$pg_bin"
}

is_postgresql() { [ -x "$1/initdb" ] && [ -x "$1/postgres" ] && [ -x "$1/psql" ]; }

# PostgreSQL refuses to run as root: root runs it as the user that Debian's package has made.
if is_root; then become_postgres='setpriv --reuid=postgres --regid=postgres --clear-groups'
else become_postgres=
fi
as_postgres() { $become_postgres "$@"; }

# Sets TMPDIR to a folder for the tests' clusters and sockets. PostgreSQL's user must reach it, which
# it can't if each user has a private one, and its path must leave room for a socket's name.
need_temporary_folder() {
    for TMPDIR in "${TMPDIR:-/tmp}" /tmp /var/tmp; do
        export TMPDIR
        case $TMPDIR in *[!A-Za-z0-9/._+@-]*) continue ;; esac
        if [ ${#TMPDIR} -le 40 ] && as_postgres test -w "$TMPDIR"; then return; fi
    done
    fail "there is no folder for temporary files that $(id -un) and PostgreSQL's user can write to: /tmp usually is one"
}
