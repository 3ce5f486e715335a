# Sourced by run: the server, the proxy, and what is in the database before a suite runs.

proxy_pid=''
free_port() { perl -MIO::Socket::INET -e 'print IO::Socket::INET->new(Listen => 1, LocalAddr => "127.0.0.1")->sockport'; }
server_port=$(free_port) proxy_port=$(free_port)

# as_server runs a command as a user that PostgreSQL is willing to run as.
as_server() {
    if [ "$(id -u)" = 0 ]; then runuser -u postgres -- "$@"; else "$@"; fi
}

# sql PORT DATABASE [ROLE] runs its input.
sql() { "$bin/psql" -X -q -At -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$1" -U "${3:-postgres}" -d "$2"; }

start_server() { # start_server LOG
    as_server "$bin/pg_ctl" -w -s -D "$work/data" -l "$work/data/log" start || { tail "$work/data/log" >&2; fail "the server does not start"; }
}

stop_server() { # stop_server [LOG]: keeps what it logged
    [ -f "$work/data/postmaster.pid" ] || return 0
    as_server "$bin/pg_ctl" -w -s -D "$work/data" -m fast stop
    [ $# -eq 0 ] || mv "$work/data/log" "$1"
}

start_proxy() { # start_proxy DATABASE LOG
    "$work/scrim" serve --upstream "127.0.0.1:$server_port" --listen "127.0.0.1:$proxy_port" --models "$work/models" \
        --catalog "host=127.0.0.1 port=$server_port user=postgres dbname=$1" >"$2" 2>&1 &
    proxy_pid=$!
    local _
    for _ in {1..100}; do
        "$bin/pg_isready" -q -h 127.0.0.1 -p "$proxy_port" && return
        kill -0 $proxy_pid 2>/dev/null || break
        sleep 0.1
    done
    tail "$2" >&2
    fail "the proxy does not start"
}

stop_proxy() {
    [ -n "$proxy_pid" ] || return 0
    local pid=$proxy_pid
    proxy_pid=''
    kill "$pid" && wait "$pid" || fail "the proxy did not end well: see $work/logs"
}

# make_template DATABASE fills template/ with a cluster that has Scrim and a masking policy in DATABASE.
make_template() {
    [ "$(id -u)" != 0 ] || chown postgres "$work"
    rm -rf "$work/data" "$work/template" "$work/models"
    as_server "$bin/initdb" -D "$work/data" -U postgres -A trust --encoding=UTF8 --locale=C --no-sync >"$work/logs/initdb" 2>&1 ||
        fail "no initdb: see $work/logs/initdb"
    cat >>"$work/data/postgresql.conf" <<SETTINGS
listen_addresses = '127.0.0.1'
port = $server_port
unix_socket_directories = ''
fsync = off
max_prepared_transactions = 2 # as pg_regress sets it
SETTINGS
    start_server
    sql "$server_port" postgres < <(database_sql "$1")
    "$work/scrim" init --catalog "host=127.0.0.1 port=$server_port user=postgres dbname=$1" >/dev/null
    start_proxy "$1" "$work/logs/template.proxy"
    sql "$proxy_port" "$1" <"$here/policy.sql" >"$work/logs/policy" 2>&1 || { cat "$work/logs/policy" >&2; fail "no masking policy"; }
    check_masks "$1"
    stop_proxy
    stop_server
    mv "$work/data" "$work/template"
}

# database_sql DATABASE makes a database as pg_regress makes those that it makes itself.
database_sql() {
    echo "CREATE DATABASE $1 TEMPLATE template0;"
    local setting
    for setting in lc_messages=C lc_monetary=C lc_numeric=C lc_time=C bytea_output=hex timezone_abbreviations=Default; do
        echo "ALTER DATABASE $1 SET ${setting%=*} TO '${setting#*=}';"
    done
}

# check_masks DATABASE: the proxy must be at work, or equal results would say nothing about it.
check_masks() {
    local shown
    shown=$(sql "$proxy_port" "$1" scrim_regress_analyst <<<'SELECT income FROM scrim_regress.customers WHERE id = 1') ||
        fail "the proxy does not serve a masked role"
    [ "$shown" != 1000 ] || fail "a masked role sees a raw value"
    ! sql "$server_port" "$1" scrim_regress_analyst <<<'SELECT income FROM scrim_regress.customers WHERE id = 1' 2>/dev/null ||
        fail "a masked role may read the column without the proxy"
}
