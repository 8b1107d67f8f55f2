// A table of what has no order of its own to keep: columns say what stands in them, and which go when it gets narrow.
import type { ComponentChildren, JSX } from 'preact'

export interface Column<Row> {
  words: string
  /** `n`: numbers; `lo`: goes first; `wide`: takes what is left; `wraps`; `act`: a button, without words above it. */
  kind?: string
  cell: (row: Row) => ComponentChildren
}

interface Shown<Row> {
  of: string
  rows: Row[]
  /** The first is what a row is called. */
  columns: (Column<Row> | false)[]
  keyOf: (row: Row) => string
  /** Where Enter on a row leads. */
  linkOf?: (row: Row) => string | null
  class?: string
}

export function Table<Row>({ of, rows, columns, keyOf, linkOf, class: kind }: Shown<Row>): JSX.Element {
  const shown = columns.filter((each) => each !== false)
  return (
    <div class="scrolls" tabIndex={0} role="group" aria-label={`Table of ${of}`}>
      <table class={kind ?? ''}>
        <thead>
          <tr>
            {shown.map(({ words, kind }) => (
              <th key={words} scope="col" class={kind ?? ''}>
                {kind === 'act' ? <span class="unseen">{words}</span> : words}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => {
            const link = linkOf?.(row)
            return (
              <tr key={keyOf(row)} {...(link ? { 'data-open': link, tabIndex: -1 } : {})}>
                {shown.map(({ words, kind, cell }, index) =>
                  index === 0 ? (
                    <th key={words} scope="row" class={kind ?? ''}>
                      {cell(row)}
                    </th>
                  ) : (
                    <td key={words} class={kind ?? ''}>
                      {cell(row)}
                    </td>
                  ),
                )}
              </tr>
            )
          })}
        </tbody>
      </table>
    </div>
  )
}
