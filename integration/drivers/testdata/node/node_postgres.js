// node-postgres: unnamed and named statements, a pool, cursors, COPY, LISTEN, cancel.
const { Client, Pool } = require('pg')
const Cursor = require('pg-cursor')
const copy = require('pg-copy-streams')
const { pipeline } = require('stream/promises')
const { Readable } = require('stream')
const { section, print } = require('./show')

const byRegion = 'SELECT id, age, income, score FROM customers WHERE region = $1 AND id <= $2 ORDER BY id'
const code = (promise) => promise.then(() => 'no error', (e) => e.code)

async function collect(stream) {
  let text = ''
  for await (const chunk of stream) text += chunk
  return text
}

async function main() {
  const client = new Client()
  await client.connect()

  section('codes prepared')
  for (const max of [40, 60]) print((await client.query(byRegion, ['EU', max])).rows)
  for (const max of [10, 20, 30]) print((await client.query({ name: 'by_region', text: byRegion, values: ['US', max] })).rows)

  section('codes pool')
  const pool = new Pool({ max: 3 })
  for (const result of await Promise.all([3, 6, 9, 12, 15, 18].map((n) => pool.query(byRegion, ['APAC', n])))) print(result.rows)
  await pool.end()

  section('types')
  print((await client.query('SELECT * FROM kinds WHERE id = ANY($1) ORDER BY id', [[1, 2]])).rows)
  print((await client.query('SELECT $1::int8, $2::text, $3::jsonb, $4::bytea, $5::date IS NULL, $6::float8',
    ['9007199254740993', "it's", { a: 1 }, Buffer.from([0, 255]), null, 0.1])).rows)

  section('codes rollback')
  await client.query('CREATE TEMP TABLE t (a int, b text)')
  await client.query('BEGIN')
  await client.query('INSERT INTO t VALUES ($1, $2)', [1, 'lost'])
  print((await client.query(byRegion, ['EU', 10])).rows)
  await client.query('ROLLBACK')
  section('rollback')
  print((await client.query('SELECT count(*) FROM t')).rows)

  section('error')
  console.log(await code(client.query('SELECT 1 / $1::int', [0])))
  await client.query('BEGIN')
  console.log(await code(client.query('SELECT nothing FROM customers')))
  console.log(await code(client.query('SELECT 1')))
  await client.query('ROLLBACK')
  print((await client.query('SELECT $1::text', ['recovered'])).rows)

  section('codes cursor')
  const cursor = client.query(new Cursor('SELECT id, age, income, score FROM customers WHERE id > $1 ORDER BY id', [0]))
  for (let rows; (rows = await cursor.read(300)).length > 0;) print(rows)
  await cursor.close()

  section('copy')
  await pipeline(Readable.from(['1\tone\n', '2\t\\N\n']), client.query(copy.from('COPY t FROM STDIN')))
  process.stdout.write(await collect(client.query(copy.to('COPY (SELECT * FROM t ORDER BY a) TO STDOUT'))))
  process.stdout.write(await collect(client.query(copy.to('COPY (SELECT id, region FROM customers ORDER BY id LIMIT 5) TO STDOUT'))))

  section('copied codes')
  try {
    process.stdout.write(await collect(client.query(copy.to('COPY customers (id, age) TO STDOUT'))))
  } catch (e) {
    console.log(e.code)
  }

  section('notify')
  const heard = new Promise((resolve) => client.once('notification', resolve))
  await client.query(`LISTEN ${process.env.CHANNEL}`)
  await client.query('SELECT pg_notify($1, $2)', [process.env.CHANNEL, 'hello'])
  console.log((await heard).payload)

  section('cancel')
  const sleeping = code(client.query('SELECT id, age, pg_sleep(30) FROM customers WHERE id = 1'))
  // A CancelRequest as pg's own cancel() makes it.
  setTimeout(() => {
    const canceller = new Client().connection
    canceller.on('connect', () => canceller.cancel(client.processID, client.secretKey))
    canceller.on('error', () => {})
    canceller.connect(client.port, client.host)
  }, 500)
  console.log(await sleeping)
  print((await client.query('SELECT 1')).rows)
  await client.end()
}
main()
