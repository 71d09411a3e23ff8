# What the tests share. Each sources it in the source package's folder: the installed package, with
# systemd and PostgreSQL, on its Unix socket.
. scripts/exercise.sh

ask="--unix-socket /run/session-file-server/http.sock"

explain() {
    journalctl --no-pager -u session-file-server -u session-file-server.socket | tail -n 40
    systemctl --no-pager status session-file-server.service postgresql.service
}

# Makes the database, unless a test before this one has, and waits for the server.
start() {
    if ! as postgres psql --list | grep -q sessionfiles; then
        as postgres createuser session-file-server
        as postgres createdb -O session-file-server sessionfiles
    fi
    eventually systemctl is-active session-file-server.service
    eventually serves
}
