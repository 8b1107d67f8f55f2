// What is asked before something ends: what will be, why, a way back. What the server refuses is said here, and can be
// tried again.
import type { ComponentChildren, JSX } from 'preact'
import { useState } from 'preact/hooks'
import { messageOf } from '../http'
import { Dialog } from './dialog'

interface Shown {
  title: string
  /** What the button says; null: there is nothing to do (any more). */
  act: string | null
  /** What it says while the server is asked. */
  acting?: string
  leave: string
  kind?: 'danger' | 'primary'
  /** Resolves when it is done; what it throws is shown. */
  send: () => Promise<void>
  onClose: () => void
  children: ComponentChildren
}

export function Question({ title, act, acting = 'Sending…', leave, kind = 'danger', send, onClose, children }: Shown): JSX.Element {
  const [error, setError] = useState('')
  const [isBusy, setBusy] = useState(false)

  async function submit(event: Event): Promise<void> {
    event.preventDefault()
    if (act === null || isBusy) return
    setBusy(true)
    setError('')
    try {
      await send()
    } catch (refusal) {
      setError(messageOf(refusal))
    }
    setBusy(false)
  }

  return (
    <Dialog title={title} onClose={onClose}>
      <form onSubmit={(event) => void submit(event)}>
        {children}
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <div class="dialog-actions">
          <button type="button" onClick={onClose}>
            {leave}
          </button>
          {act !== null && (
            <button type="submit" class={kind} disabled={isBusy}>
              {isBusy ? acting : act}
            </button>
          )}
        </div>
      </form>
    </Dialog>
  )
}

interface FieldShown {
  label: string
  value: string
  onInput: (value: string) => void
  hint?: string
  inputMode?: 'decimal'
}

export function Field({ label, value, onInput, hint = '', inputMode }: FieldShown): JSX.Element {
  return (
    <label class="field">
      <span>{label}</span>
      <input type="text" maxLength={1000} value={value} placeholder={hint} {...(inputMode ? { inputMode } : {})} onInput={(event) => onInput(event.currentTarget.value)} />
    </label>
  )
}

export function ReasonField({ value, onInput }: { value: string; onInput: (value: string) => void }): JSX.Element {
  return <Field label="Reason, for the record" value={value} onInput={onInput} />
}
