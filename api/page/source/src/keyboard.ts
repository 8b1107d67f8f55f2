// Keys for those who do not want to reach for the mouse. None of them is taken while something is typed.
import { isHelpShown } from './views/help'
import { go, lastJobs, route, wantsSearch } from './router'

let prefix = -Infinity
/** Where it goes on when the list was drawn anew, or from a job back to the list. */
let lastRow = ''
const PREFIX_MS = 1200
/** How long g waits for the letter of a view. */

export function onKey(event: KeyboardEvent): void {
  const target = event.target as HTMLElement
  const types = target.matches('input, textarea, select, [contenteditable]')
  if (event.ctrlKey || event.metaKey || event.altKey) return
  if (event.key === 'Escape') {
    if (document.querySelector('dialog[open]')) return
    if (types) {
      // The browser would empty a search field.
      event.preventDefault()
      target.blur()
    } else if (route.value.view === 'job') go(lastJobs.value)
    return
  }
  if (types || document.querySelector('dialog[open]')) return
  if (performance.now() - prefix < PREFIX_MS) {
    prefix = -Infinity
    const to = { n: '#/', j: '#/jobs', w: '#/workers' }[event.key]
    if (to) {
      event.preventDefault()
      go(to)
      return
    }
  }
  switch (event.key) {
    case 'g':
      prefix = performance.now()
      return
    case '?':
      event.preventDefault()
      isHelpShown.value = true
      return
    case '/':
      event.preventDefault()
      if (route.value.view === 'jobs') focusSearch()
      else {
        wantsSearch.value = true
        go(lastJobs.value)
      }
      return
    case 'j':
    case 'k':
      if (move(event.key === 'j' ? 1 : -1)) event.preventDefault()
      return
    case 'Enter': {
      if (target.matches('a, button, summary')) return
      const row = target.closest('tr[data-open]') as HTMLElement | null
      if (row?.dataset['open']) go(row.dataset['open'])
      return
    }
  }
}

function focusSearch(): void {
  document.getElementById('search')?.focus()
}

/** Focus the next row that can be opened, from the one that was focused last; without one the first. */
function move(by: number): boolean {
  const rows = [...document.querySelectorAll<HTMLElement>('tr[data-open]')]
  if (!rows.length) return false
  const focused = document.activeElement?.closest<HTMLElement>('tr[data-open]')
  const from = focused?.dataset['open'] ?? lastRow
  const at = rows.findIndex((row) => row.dataset['open'] === from)
  const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by))]
  lastRow = next?.dataset['open'] ?? ''
  next?.focus()
  next?.scrollIntoView({ block: 'nearest' })
  return true
}
