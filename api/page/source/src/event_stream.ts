// Server-sent events over fetch: EventSource sends no headers, and a key does not belong into an address.
import { createParser } from 'eventsource-parser'
import { Refusal, ask } from './http'

export interface StreamEvent {
  id: string
  name: string
  data: string
}

export type StreamState = 'connecting' | 'live' | 'lost' | 'refused' | 'closed'

export interface StreamOptions {
  /** The address; asked anew at each connection, with the id of the last event. */
  path: () => string
  onEvents: (events: StreamEvent[]) => void
  onState: (state: StreamState, why: string, againInMs: number) => void
  /** Whether an end of the stream is the end: true closes it. */
  isOver?: () => boolean
  /** Each event is the whole state, so nothing is resumed. */
  resumes?: boolean
}

const SILENT_MS = 45_000
/** Servers ping every 10 s: a stream that is silent for so long is dead. */
const FIRST_WAIT_MS = 500
const LONGEST_WAIT_MS = 10_000

/** Read a stream, and connect again when it ends, until it is closed. Returns what closes it. */
export function openStream(options: StreamOptions): { close: () => void; again: () => void } {
  let isClosed = false
  let abort = new AbortController()
  let wake: (() => void) | null = null
  let waitMs = FIRST_WAIT_MS
  let lastId = ''

  async function once(): Promise<void> {
    abort = new AbortController()
    const silence = watchdog(() => abort.abort())
    try {
      const headers: Record<string, string> = { Accept: 'text/event-stream' }
      if (options.resumes && lastId) headers['Last-Event-ID'] = lastId
      const answer = await ask(options.path(), { headers, signal: abort.signal })
      if (answer.status === 204 || answer.body === null) {
        isClosed = true
        options.onState('closed', '', 0)
        return
      }
      options.onState('live', '', 0)
      let batch: StreamEvent[] = []
      const parser = createParser({
        onEvent: (event) => {
          if (event.id !== undefined) lastId = event.id
          batch.push({ id: event.id ?? '', name: event.event ?? 'message', data: event.data })
        },
      })
      const decoder = new TextDecoder()
      const reader = answer.body.getReader()
      for (;;) {
        const { done, value } = await reader.read()
        if (done) break
        silence.touch()
        waitMs = FIRST_WAIT_MS
        parser.feed(decoder.decode(value, { stream: true }))
        if (batch.length) {
          const ready = batch
          batch = []
          options.onEvents(ready)
        }
      }
    } finally {
      silence.stop()
      abort.abort()
    }
  }

  async function run(): Promise<void> {
    options.onState('connecting', '', 0)
    while (!isClosed) {
      let why = 'The connection to the server has ended.'
      let wait = waitMs
      try {
        await once()
      } catch (error) {
        if (error instanceof Refusal) {
          why = error.status === 0 ? error.message : `${error.message} ${error.wayOut}`
          if (error.status === 401 || error.status === 403 || error.status === 404 || error.status === 422) {
            isClosed = true
            options.onState('refused', why, 0)
            return
          }
          if (error.retryAfterS !== null) wait = Math.max(wait, error.retryAfterS * 1000)
        }
      }
      if (isClosed) return
      if (options.isOver?.()) {
        isClosed = true
        options.onState('closed', '', 0)
        return
      }
      options.onState('lost', why, wait)
      await new Promise<void>((resolve) => {
        wake = resolve
        setTimeout(resolve, wait)
      })
      waitMs = Math.min(LONGEST_WAIT_MS, waitMs * 1.7)
    }
  }

  void run()
  return {
    close: () => {
      isClosed = true
      abort.abort()
      wake?.()
    },
    again: () => {
      waitMs = FIRST_WAIT_MS
      wake?.()
    },
  }
}

function watchdog(bark: () => void): { touch: () => void; stop: () => void } {
  let touched = performance.now()
  const timer = setInterval(() => {
    if (performance.now() - touched > SILENT_MS) bark()
  }, 5000)
  return {
    touch: () => {
      touched = performance.now()
    },
    stop: () => clearInterval(timer),
  }
}
