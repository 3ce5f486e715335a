"""psycopg 3: server-side parameters in text and binary, prepared statements, pipeline mode, both kinds of cursors, COPY,
LISTEN, cancel. Argument: more of the connection string."""

import os
import sys
import threading

import psycopg
from psycopg.types.json import Jsonb

from show import BY_REGION, EVERYBODY, SLEEPY, failing, rows, section

conn = psycopg.connect(sys.argv[1], autocommit=True)
query = BY_REGION.format("%s", "%s")

section("protocol")
print(conn.pgconn.full_protocol_version)

section("codes prepared")
for most in (5, 10, 20, 30, 40, 50, 60):  # prepared by itself after the fifth
    rows(conn.execute(query, ("EU", most)))
rows(conn.execute(query, ("US", 60), prepare=True))

section("codes binary")
for prepare in (False, True, True):
    rows(conn.execute(query, ("APAC", 60), prepare=prepare, binary=True))
rows(psycopg.ClientCursor(conn).execute(query, ("APAC", 60)))
rows(psycopg.RawCursor(conn).execute(BY_REGION.format("$1", "$2"), ("APAC", 60)))

section("codes pipeline")
with conn.pipeline():
    cursors = [conn.execute(query, ("EU", n + 2), binary=n % 2 == 0) for n in range(30)]
    conn.execute("SELECT 1")
for cursor in cursors:
    rows(cursor)

section("pipeline error")
try:
    with conn.pipeline():
        conn.execute("SELECT 1")
        conn.execute(query, ("EU", 5))
        failed = conn.execute("SELECT 1 / %s", (0,))
        skipped = conn.execute("SELECT 2")
except psycopg.Error as e:
    print(e.sqlstate)
rows(conn.execute("SELECT 'in sync'"))

section("types")
for binary in (False, True):
    rows(conn.execute("SELECT * FROM kinds WHERE id = ANY(%s) ORDER BY id", ([1, 2],), binary=binary))
    rows(conn.execute("SELECT %s::int8, %b::text, %s, %s, %s::date, %b",
                      (9007199254740993, "it's", Jsonb({"a": 1}), b"\0\xff", None, 0.1), binary=binary))

section("codes rollback")
conn.execute("CREATE TEMP TABLE t (a int, b text)")
with conn.transaction(force_rollback=True):
    conn.execute("INSERT INTO t VALUES (%s, %s)", (1, "lost"))
    with conn.transaction():  # a savepoint
        rows(conn.execute(query, ("EU", 10)))
section("rollback")
rows(conn.execute("SELECT count(*) FROM t"))

section("error")
failing(psycopg.Error, lambda: conn.execute("SELECT 1 / %s", (0,)))
try:
    with conn.transaction():
        failing(psycopg.Error, lambda: conn.execute("SELECT nothing FROM customers"))
        conn.execute("SELECT 1")
except psycopg.Error as e:
    print(e.sqlstate)
rows(conn.execute("SELECT %s", ("recovered",)))

section("codes stream")
with conn.cursor() as cur:
    rows(cur.stream(EVERYBODY))

section("codes cursor")
for binary in (False, True):
    with conn.transaction(), conn.cursor("everybody", binary=binary) as cur:
        cur.itersize = 300
        rows(cur.execute(EVERYBODY))

section("copy")
with conn.cursor() as cur:
    with cur.copy("COPY t FROM STDIN") as copy:
        copy.write_row((1, "one"))
        copy.write_row((2, None))
    with cur.copy("COPY t FROM STDIN (FORMAT binary)") as copy:
        copy.set_types(["int4", "text"])
        copy.write_row((3, "three"))
    for source in ("(SELECT * FROM t ORDER BY a)", "(SELECT id, region FROM customers ORDER BY id LIMIT 5)"):
        with cur.copy(f"COPY {source} TO STDOUT") as copy:
            rows(copy.rows())

section("copied codes")


def copy_masked():
    with conn.cursor() as cur, cur.copy("COPY customers (id, age) TO STDOUT") as copy:
        rows(copy.rows())


failing(psycopg.Error, copy_masked)

section("notify")
conn.execute("LISTEN " + os.environ["CHANNEL"])
conn.execute("SELECT pg_notify(%s, %s)", (os.environ["CHANNEL"], "hello"))
for n in conn.notifies(timeout=10, stop_after=1):
    print(n.payload)

section("cancel")
for cancel in (conn.cancel, conn.cancel_safe):
    threading.Timer(0.5, cancel).start()
    failing(psycopg.Error, lambda: conn.execute(SLEEPY))
    rows(conn.execute("SELECT 1"))
