// postgres.js: prepared statements, the simple protocol, pipelining, cursors, COPY, LISTEN, cancel.
const postgres = require('postgres')
const { pipeline } = require('stream/promises')
const { Readable } = require('stream')
const { section, print } = require('./show')

const code = (promise) => promise.then(() => 'no error', (e) => e.code)

async function collect(stream) {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}

async function main() {
  const sql = postgres({ max: 1, onnotice: () => {} })
  const byRegion = (sql, region, max) =>
    sql`SELECT id, age, income, score FROM customers WHERE region = ${region} AND id <= ${max} ORDER BY id`

  section('codes prepared')
  for (const max of [20, 40, 60]) print(await byRegion(sql, 'EU', max))

  section('codes simple')
  print(await sql.unsafe('SELECT id, age, income, score FROM customers WHERE id = 2000'))
  print(await sql`SELECT id, age, income, score FROM customers WHERE id < 5 ORDER BY id`.simple())

  section('codes pipeline')
  for (const rows of await Promise.all([3, 6, 9, 12, 15].map((n) => byRegion(sql, 'US', n)))) print(rows)

  section('types')
  print(await sql`SELECT * FROM kinds WHERE id = ANY(${[1, 2]}) ORDER BY id`)
  print(await sql`SELECT ${'9007199254740993'}::int8, ${"it's"}::text AS b, ${sql.json({ a: 1 })}::jsonb AS c, ${Buffer.from([0, 255])}::bytea AS d,
    ${null}::date IS NULL AS e, ${0.1}::float8 AS f`)

  await sql`CREATE TEMP TABLE t (a int, b text)`
  section('codes rollback')
  await sql.begin(async (tx) => {
    await tx`INSERT INTO t VALUES (1, ${'lost'})`
    print(await byRegion(tx, 'EU', 10))
    throw new Error('roll back')
  }).catch((e) => { if (e.message !== 'roll back') throw e })
  section('rollback')
  print(await sql`SELECT count(*) FROM t`)

  section('error')
  console.log(await code(sql`SELECT 1 / ${0}::int`))
  console.log(await code(sql`SELECT nothing FROM customers`))
  console.log(await code(sql.begin(async (tx) => {
    await code(tx`SELECT missing()`)
    await tx`SELECT 1`
  })))
  print(await sql`SELECT ${'recovered'}::text`)

  section('codes cursor')
  for await (const rows of sql`SELECT id, age, income, score FROM customers WHERE id > ${0} ORDER BY id`.cursor(300)) print(rows)

  section('copy')
  await pipeline(Readable.from(['1\tone\n', '2\t\\N\n']), await sql`COPY t FROM STDIN`.writable())
  process.stdout.write(await collect(await sql`COPY (SELECT * FROM t ORDER BY a) TO STDOUT`.readable()))
  process.stdout.write(await collect(await sql`COPY (SELECT id, region FROM customers ORDER BY id LIMIT 5) TO STDOUT`.readable()))

  section('copied codes')
  try {
    // Few rows: it stops reading at the end of a COPY of more than 48 KB, of the server's own too.
    process.stdout.write(await collect(await sql`COPY (SELECT id, age FROM customers ORDER BY id LIMIT 300) TO STDOUT`.readable()))
  } catch (e) {
    console.log(e.code)
  }

  section('notify')
  const heard = new Promise((resolve) => { sql.listen(process.env.CHANNEL, resolve).then(() => sql.notify(process.env.CHANNEL, 'hello')) })
  console.log(await heard)

  section('cancel')
  const sleeping = sql`SELECT id, age, pg_sleep(30) FROM customers WHERE id = 1`
  setTimeout(() => sleeping.cancel(), 500)
  console.log(await code(sleeping))
  print(await sql`SELECT 1`)
  await sql.end()
}
main()
