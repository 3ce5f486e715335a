// How both drivers' scripts print a value.
exports.cell = function cell(v) {
  if (v === null || v === undefined) return 'NULL'
  if (Buffer.isBuffer(v)) return '\\x' + v.toString('hex')
  if (v instanceof Date) return v.toISOString()
  if (typeof v === 'object') return JSON.stringify(v)
  return String(v)
}
exports.section = (name) => console.log('== ' + name)
exports.print = (rows) => {
  for (const row of rows) console.log(Object.values(row).map(exports.cell).join('|'))
}
