// Asks for a key. It goes into this tab's storage and into a header, never into an address.
import type { JSX } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { Refusal, json, messageOf } from '../http'
import { asked, info, keep } from '../session'
import type { Info } from '../types'

export function SignIn({ why, onDone }: { why: string; onDone: () => void }): JSX.Element {
  const field = useRef<HTMLInputElement>(null)
  const [error, setError] = useState('')
  const [isBusy, setBusy] = useState(false)
  useEffect(() => field.current?.focus(), [])

  async function submit(event: Event): Promise<void> {
    event.preventDefault()
    const key = field.current?.value.trim() ?? ''
    if (!key) {
      setError('Type or paste a key.')
      return
    }
    if (!/^[\x21-\x7e]+$/.test(key)) {
      setError('A key has no spaces and no letters beyond ASCII: part of something else may have been copied.')
      return
    }
    setBusy(true)
    setError('')
    try {
      const found = await json<Info>('/v1/info', { as: key })
      keep(key)
      info.value = found
      asked.value = null
      onDone()
    } catch (refusal) {
      const isUnknown = refusal instanceof Refusal && refusal.status === 401
      setError(isUnknown ? 'The server does not know this key, or it has expired.' : messageOf(refusal))
    }
    setBusy(false)
  }

  return (
    <main class="signin">
      <form onSubmit={submit} aria-describedby="signin-why">
        <h1>
          <span class="brand-mark" aria-hidden="true" /> killable
        </h1>
        <p id="signin-why">{why}</p>
        <label for="key">API key</label>
        <input id="key" ref={field} type="password" autocomplete="off" spellcheck={false} aria-invalid={error ? 'true' : 'false'} aria-describedby="key-error" />
        <p id="key-error" class="error" role="alert">
          {error}
        </p>
        <button type="submit" class="primary" disabled={isBusy}>
          {isBusy ? 'Signing in…' : 'Sign in'}
        </button>
        <p class="hint">
          The role of the key decides what you can do here: read, submit or operate. It is kept until this tab is closed. A key is made
          with <code>killable keys make</code>.
        </p>
      </form>
    </main>
  )
}
