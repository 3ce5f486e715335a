"""psycopg2: client-side parameters, PREPARE in SQL, named cursors, COPY, LISTEN, cancel."""

import io
import os
import select
import threading

import psycopg2
import psycopg2.extras

from show import BY_REGION, EVERYBODY, SLEEPY, failing, rows, section

conn = psycopg2.connect("")
cur = conn.cursor()


def run(query, *args):
    cur.execute(query, args or None)
    return cur.fetchall() if cur.description else []


section("codes parameters")
for most in (20, 40, 60):
    rows(run(BY_REGION.format("%s", "%s"), "EU", most))
conn.commit()

section("codes prepared")
run("PREPARE by_region (text, int) AS " + BY_REGION.format("$1", "$2"))
for most in (10, 20, 30, 40, 50, 60):
    rows(run("EXECUTE by_region (%s, %s)", "US", most))
run("DEALLOCATE by_region")

section("types")
rows(run("SELECT * FROM kinds WHERE id = ANY(%s) ORDER BY id", [1, 2]))
rows(run("SELECT %s::int8, %s, %s::jsonb, %s, %s::date, %s", 9007199254740993, "it's", psycopg2.extras.Json({"a": 1}), b"\0\xff", None, 0.1))

section("codes rollback")
run("CREATE TEMP TABLE t (a int, b text)")
conn.commit()
run("INSERT INTO t VALUES (%s, %s)", 1, "lost")
rows(run(BY_REGION.format("%s", "%s"), "EU", 10))
conn.rollback()
section("rollback")
rows(run("SELECT count(*) FROM t"))

section("error")
conn.rollback()
failing(psycopg2.Error, lambda: run("SELECT 1 / %s", 0))
failing(psycopg2.Error, lambda: run("SELECT 1"))
conn.rollback()
failing(psycopg2.Error, lambda: run("SELECT nothing FROM customers"))
conn.rollback()
rows(run("SELECT %s", "recovered"))

section("codes cursor")
with conn.cursor("everybody") as named:
    named.itersize = 300
    named.execute(EVERYBODY)
    rows(named)
section("codes scroll")
with conn.cursor("there_and_back", scrollable=True) as named:
    named.execute(EVERYBODY)
    named.scroll(1990, mode="absolute")
    rows(named.fetchmany(10))
    named.scroll(-5)
    rows(named.fetchmany(3))
conn.commit()

section("copy")
cur.copy_expert("COPY t FROM STDIN", io.StringIO("1\tone\n2\t\\N\n"))
for query in ("SELECT * FROM t ORDER BY a", "SELECT id, region FROM customers ORDER BY id LIMIT 5"):
    out = io.StringIO()
    cur.copy_expert(f"COPY ({query}) TO STDOUT", out)
    print(out.getvalue(), end="")
psycopg2.extras.execute_values(cur, "INSERT INTO t VALUES %s", [(i, f"row {i}") for i in range(3, 250)])
rows(run("SELECT count(*), sum(a) FROM t"))
conn.commit()

section("copied codes")
out = io.StringIO()
failing(psycopg2.Error, lambda: (cur.copy_expert("COPY customers (id, age) TO STDOUT", out), print(out.getvalue())))
conn.rollback()

section("notify")
conn.autocommit = True
run("LISTEN " + os.environ["CHANNEL"])
run("SELECT pg_notify(%s, %s)", os.environ["CHANNEL"], "hello")
while not conn.notifies:
    select.select([conn], [], [], 10)
    conn.poll()
print(conn.notifies[0].payload)

section("cancel")
threading.Timer(0.5, conn.cancel).start()
failing(psycopg2.Error, lambda: run(SLEEPY))
rows(run("SELECT 1"))
