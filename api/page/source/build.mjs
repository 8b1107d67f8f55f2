// Bundles src/ into the first folder named: app.js, app.css, an index.html that names both by their digests, and
// digests.json, by which a test sees that the bundle is of the sources in the second folder.
// Run by `make page` in a copy of this folder that has its packages. The same sources give the same bytes.
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { build } from 'esbuild'

const [, , folder, sources] = process.argv
const sha256 = (content) => createHash('sha256').update(content).digest('hex')
await build({
  entryPoints: { app: 'src/main.tsx' },
  outdir: folder,
  bundle: true,
  minify: true,
  format: 'esm',
  target: ['chrome123', 'firefox121', 'safari17.5'],
  jsx: 'automatic',
  jsxImportSource: 'preact',
  legalComments: 'eof',
  charset: 'utf8',
  logLevel: 'warning',
})
let page = readFileSync('src/index.html', 'utf8')
for (const name of ['app.js', 'app.css']) {
  const digest = sha256(readFileSync(join(folder, name)))
  page = page.replace(`/page/${name}`, `/page/${name}?v=${digest.slice(0, 16)}`)
}
writeFileSync(join(folder, 'index.html'), page)

function filesOf(under) {
  const found = readdirSync(under).map((name) => join(under, name))
  return found.flatMap((path) => (statSync(path).isDirectory() ? filesOf(path) : [path]))
}

const names = filesOf(sources).map((path) => path.slice(sources.length + 1)).sort()
const whole = names.map((name) => `${name}\n${sha256(readFileSync(join(sources, name)))}\n`).join('')
const built = ['app.css', 'app.js', 'index.html'].map((name) => [name, sha256(readFileSync(join(folder, name)))])
const digests = { sources: sha256(whole), bundle: Object.fromEntries(built) }
writeFileSync(join(folder, 'digests.json'), `${JSON.stringify(digests, null, 2)}\n`)
