// A button that copies a text: an id for a command, a stack for a report. What is copied is what is shown.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { note, say } from './announce'

const DONE_MS = 2000

export function Copy({ what, text }: { what: string; text: string }): JSX.Element {
  const [isDone, setDone] = useState(false)
  const copy = async (): Promise<void> => {
    if (!(await copied(text))) return note('The browser does not let this page copy: select the text.', true)
    say(`Copied ${what}`)
    setDone(true)
    setTimeout(() => setDone(false), DONE_MS)
  }
  return (
    <button type="button" class="plain copy" aria-label={`Copy ${what}`} onClick={() => void copy()}>
      {isDone ? 'Copied' : 'Copy'}
    </button>
  )
}

async function copied(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    return copiedBySelection(text) // There is no clipboard for a page that came by plain HTTP from another machine.
  }
}

function copiedBySelection(text: string): boolean {
  const before = document.activeElement
  const box = document.createElement('textarea')
  box.value = text
  box.className = 'unseen'
  document.body.append(box)
  box.select()
  try {
    return document.execCommand('copy')
  } finally {
    box.remove()
    if (before instanceof HTMLElement) before.focus()
  }
}
