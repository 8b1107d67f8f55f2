// A table's header that sorts it.
import type { JSX } from 'preact'
import type { SortKey, Sorting } from '../jobs_feed'

interface Header {
  name: SortKey
  words: string
  by: Sorting
  onSort: (by: Sorting) => void
  class?: string
}

export function SortHeader({ name, words, by, onSort, class: kind }: Header): JSX.Element {
  const isOn = by.key === name
  const sort = isOn ? (by.descending ? 'descending' : 'ascending') : 'none'
  return (
    <th scope="col" aria-sort={sort} class={kind ?? ''}>
      <button
        type="button"
        class="sorts"
        onClick={() => onSort({ key: name, descending: isOn ? !by.descending : name !== 'type' && name !== 'state' })}
      >
        {words}
        <span class="arrow" aria-hidden="true">
          {isOn ? (by.descending ? '↓' : '↑') : ''}
        </span>
      </button>
    </th>
  )
}
