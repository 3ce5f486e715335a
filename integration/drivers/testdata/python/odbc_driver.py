"""psqlODBC by way of pyodbc. Arguments: the driver's file and more of a connection string."""

import os
import sys
import threading

import pyodbc

from show import BY_REGION, EVERYBODY, SLEEPY, failing, rows, section

pyodbc.pooling = False
conn = pyodbc.connect("DRIVER={};SERVER={PGHOST};PORT={PGPORT};UID={PGUSER};PWD={PGPASSWORD};DATABASE={PGDATABASE};{}".format(
    sys.argv[1], sys.argv[2], **os.environ))
cur = conn.cursor()
QUERY = BY_REGION.format("?", "?")


def run(query, *args):
    cur.execute(query, *args)
    return cur.fetchall() if cur.description else []


section("codes prepared")
for most in (20, 40, 60):
    rows(run(QUERY, "EU", most))
rows(run("SELECT id, age, income, score FROM customers WHERE id = 7"))
conn.commit()

section("types")
rows(run("SELECT id, small, big, price, \"real\", double, name, day, at, tz, id2::text, doc::text, raw, list, empty FROM kinds WHERE id IN (?, ?) ORDER BY id", 1, 2))
rows(run("SELECT ?::int8, ?::text, ?::bytea, ?::date, ?::float8", 9007199254740993, "it's", b"\0\xff", None, 0.1))

section("codes rollback")
run("CREATE TEMP TABLE t (a int, b text)")
conn.commit()
run("INSERT INTO t VALUES (?, ?)", 1, "lost")
rows(run(QUERY, "EU", 10))
conn.rollback()
section("rollback")
rows(run("SELECT count(*) FROM t"))

section("error")
failing(pyodbc.Error, lambda: run("SELECT 1 / ?::int", 0))
conn.rollback()
failing(pyodbc.Error, lambda: run("SELECT nothing FROM customers"))
conn.rollback()
rows(run("SELECT ?::text", "recovered"))

section("codes cursor")
run_all = cur.execute(EVERYBODY)
while part := run_all.fetchmany(300):
    rows(part)
conn.commit()

section("batch")
cur.executemany("INSERT INTO t VALUES (?, ?)", [(i, f"row {i}") for i in range(250)])
rows(run("SELECT count(*), max(b) FROM t"))
conn.commit()

section("catalog")
rows((r.table_name, r.column_name, r.type_name) for r in cur.columns(schema="public", table="customers"))
conn.commit()

section("stored")
failing(pyodbc.Error, lambda: (run("CREATE TEMP TABLE stored AS SELECT id, age FROM customers"), rows(run("SELECT count(*) FROM stored"))))
conn.rollback()

section("cancel")
threading.Timer(0.5, cur.cancel).start()
failing(pyodbc.Error, lambda: run(SLEEPY))
conn.rollback()
rows(run("SELECT 1"))
