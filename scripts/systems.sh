# shellcheck shell=sh
# What the scripts share that make whole Debian systems in folders. Each sources it after prepare.sh.
# They need root, and debootstrap unless BASE names the folder of a fresh Debian to copy.

need_systems() {
    is_root || fail "needs root: it makes whole systems in folders"
    [ -n "${BASE:-}" ] || command -v debootstrap >/dev/null || fail "needs the package debootstrap"
}

# Makes a Debian $1 in the folder $2, which has nothing beyond what debootstrap installs.
make_fresh_system() {
    if [ -n "${BASE:-}" ]; then
        say "copying the Debian in $BASE"
        cp -a "$BASE" "$2"
    else
        say "making a fresh Debian ($1)"
        debootstrap --variant=minbase "$1" "$2" >"$2.log" || fail "debootstrap failed; see above"
    fi
    cp /etc/resolv.conf "$2/etc/"
    # Certificates that this machine trusts beside Debian's own.
    mkdir -p "$2/usr/local/share"
    cp -a /usr/local/share/ca-certificates "$2/usr/local/share/"
}

# Lets no package start services in the system in the folder $1.
forbid_services() {
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod +x "$1/usr/sbin/policy-rc.d"
}

# Runs a program in the system in the folder $1, as root.
in_system() {
    entered=$1
    shift
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$entered" "$@"
}

# Lets the system in the folder $1 see this machine's processes and devices.
mount_system() {
    mount --bind /proc "$1/proc"
    mount --bind /dev "$1/dev"
}

# Ends what runs in the systems in the folder $1, and removes it.
remove_systems() {
    for system in "$1"/*/; do
        for pid in /proc/[0-9]*; do
            if [ "$(readlink "$pid/root")/" = "$system" ]; then kill -9 "${pid#/proc/}" || true; fi
        done
        for mounted in opt/rust dev/pts dev proc; do
            if mountpoint -q "$system$mounted"; then umount "$system$mounted"; fi
        done
    done
    rm -rf --one-file-system "$1"
}

# Sets package to the absolute path of the package $1; without one, to the newest that
# scripts/test-package has left.
find_package() {
    package=${1:-$(find target/debian -name 'session-file-server_*.deb' 2>/dev/null | sort | tail -n 1)}
    [ -f "$package" ] || fail "there is no package ${package:-in target/debian}; scripts/test-package builds it"
    package=$(readlink -f "$package")
}
