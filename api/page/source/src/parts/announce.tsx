// What a screen reader is told, and a note at the edge for everyone else.
import { signal } from '@preact/signals'
import type { JSX } from 'preact'

const said = signal('')
interface Note {
  id: number
  text: string
  isBad: boolean
}
const notes = signal<Note[]>([])
const SHOWN_MS = 8000
let last = 0

/** Tell politely; nothing is shown. */
export function say(text: string): void {
  said.value = text
}

/** Show a note for a while, and tell it. */
export function note(text: string, isBad = false): void {
  const id = ++last
  notes.value = [...notes.value.slice(-3), { id, text, isBad }]
  say(text)
  setTimeout(() => drop(id), isBad ? SHOWN_MS * 2 : SHOWN_MS)
}

function drop(id: number): void {
  notes.value = notes.value.filter((each) => each.id !== id)
}

export function Announcements(): JSX.Element {
  return (
    <>
      <div class="unseen" role="status" aria-live="polite">
        {said.value}
      </div>
      <div class="notes">
        {notes.value.map((each) => (
          <div key={each.id} class={each.isBad ? 'note bad' : 'note'}>
            <span>{each.text}</span>
            <button type="button" class="plain" aria-label="Close this note" onClick={() => drop(each.id)}>
              ✕
            </button>
          </div>
        ))}
      </div>
    </>
  )
}
