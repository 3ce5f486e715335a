"""asyncpg: binary only; prepared statements, portals with row limits, a pool, COPY, LISTEN, cancel."""

import asyncio
import io
import os

import asyncpg

from show import BY_REGION, EVERYBODY, SLEEPY, code, rows, section

QUERY = BY_REGION.format("$1", "$2")


async def failing(awaitable):
    try:
        await awaitable
        print("no error")
    except (asyncpg.PostgresError, asyncio.TimeoutError) as e:
        print(code(e) if isinstance(e, asyncpg.PostgresError) else "timeout")


async def copied(conn, query):
    out = io.BytesIO()
    await conn.copy_from_query(query, output=out)
    print(out.getvalue().decode(), end="")


async def main():
    conn = await asyncpg.connect()

    section("codes prepared")
    for most in (20, 40, 60):
        rows(await conn.fetch(QUERY, "EU", most))
    statement = await conn.prepare(QUERY)
    for most in (20, 40, 60):
        rows(await statement.fetch("US", most))

    section("codes pool")
    async with asyncpg.create_pool(min_size=2, max_size=3) as pool:
        for found in await asyncio.gather(*(pool.fetch(QUERY, "APAC", n) for n in (3, 6, 9, 12, 15))):
            rows(found)

    section("types")
    rows(await conn.fetch("SELECT * FROM kinds WHERE id = ANY($1) ORDER BY id", [1, 2]))
    rows(await conn.fetch("SELECT $1::int8, $2::text, $3::jsonb, $4::bytea, $5::date, $6::float8",
                          9007199254740993, "it's", '{"a": 1}', b"\0\xff", None, 0.1))

    await conn.execute("CREATE TEMP TABLE t (a int, b text)")
    section("codes rollback")
    transaction = conn.transaction()
    await transaction.start()
    await conn.execute("INSERT INTO t VALUES ($1, $2)", 1, "lost")
    rows(await conn.fetch(QUERY, "EU", 10))
    await transaction.rollback()
    section("rollback")
    rows(await conn.fetch("SELECT count(*) FROM t"))

    section("error")
    await failing(conn.fetch("SELECT 1 / $1::int", 0))
    await conn.execute("BEGIN")
    await failing(conn.fetch("SELECT nothing FROM customers"))
    await failing(conn.fetch("SELECT 1"))
    await conn.execute("ROLLBACK")
    await conn.executemany("INSERT INTO t VALUES ($1, $2)", [(i, f"row {i}") for i in range(250)])
    rows(await conn.fetch("SELECT count(*), $1::text FROM t", "recovered"))
    await conn.execute("TRUNCATE t")

    section("codes cursor")
    async with conn.transaction():
        async for record in conn.cursor(EVERYBODY, prefetch=300):
            rows([record])
        cursor = await conn.cursor(EVERYBODY)
        await cursor.forward(1990)
        rows(await cursor.fetch(20))

    section("copy")
    await conn.copy_to_table("t", source=io.BytesIO(b"1\tone\n2\t\\N\n"))
    await conn.copy_records_to_table("t", records=[(3, "three"), (4, None)])
    await copied(conn, "SELECT * FROM t ORDER BY a")
    await copied(conn, "SELECT id, region FROM customers ORDER BY id LIMIT 5")

    section("copied codes")
    await failing_copy(conn)

    section("notify")
    heard = asyncio.get_running_loop().create_future()
    await conn.add_listener(os.environ["CHANNEL"], lambda _conn, _pid, _channel, payload: heard.set_result(payload))
    await conn.execute("SELECT pg_notify($1, $2)", os.environ["CHANNEL"], "hello")
    print(await asyncio.wait_for(heard, 10))

    section("cancel")
    await failing(conn.fetch(SLEEPY, timeout=0.5))
    rows(await conn.fetch("SELECT 1"))
    await conn.close()


async def failing_copy(conn):
    out = io.BytesIO()
    try:
        await conn.copy_from_table("customers", columns=["id", "age"], output=out)
        print(out.getvalue().decode(), end="")
    except asyncpg.PostgresError as e:
        print(code(e))


asyncio.run(main())
