// Run the tests of http-cache-tests against a cache, with their origin server in here.
//
// Says on the first line the address of the origin, which listens on loopback; then reads
// from standard input a line with the address of the cache before it, and says on the next
// line the results: by id, true or the kind of failure and its words. Arguments are the
// folder of the package, how many tests run at a time, and the ids of those to run: all of
// them, where none is given.

import http from 'node:http'
import { createInterface } from 'node:readline'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const [folder, together, ...ids] = process.argv.slice(2)
const root = join(folder, 'node_modules')
const load = (...path) => import(pathToFileURL(join(root, ...path)))
const part = (...path) => load('http-cache-tests', ...path)

const say = console.log
console.log = () => {} // the origin tells of each request that it does not expect

const handlers = {
  config: (await part('server', 'handle-config.mjs')).default,
  state: (await part('server', 'handle-state.mjs')).default,
  test: (await part('server', 'handle-test.mjs')).default
}
const origin = http.createServer((request, response) => {
  const [, name, ...rest] = new URL(request.url, 'http://origin').pathname.split('/')
  if (handlers[name]) return handlers[name](rest, request, response)
  response.statusCode = 404
  response.end()
})
await new Promise(resolve => origin.listen(0, '127.0.0.1', resolve))
say(`http://127.0.0.1:${origin.address().port}`)

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]()
const cache = (await lines.next()).value

const all = (await part('tests', 'index.mjs')).default
const wanted = test => !test.browser_only && (!ids.length || ids.includes(test.id))
const suites = all.map(one => ({ ...one, tests: one.tests.filter(wanted) }))
const { runTests, getResults } = await part('client', 'runner.mjs')
const fetch = (await load('node-fetch', 'lib', 'index.mjs')).default
await runTests(suites, fetch, false, cache, Number(together))

const told = {}
for (const suite of suites) {
  for (const test of suite.tests) {
    told[test.id] = {
      suite: suite.id,
      kind: test.kind ?? 'required',
      needs: test.depends_on ?? [],
      result: getResults()[test.id]
    }
  }
}
say(JSON.stringify(told))
process.exit(0)
