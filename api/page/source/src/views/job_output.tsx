// What a job streams and prints, as it comes: its end is shown, all of it can be downloaded.
import { signal } from '@preact/signals'
import type { JSX } from 'preact'
import { useEffect, useMemo, useRef, useState } from 'preact/hooks'
import { type StreamEvent, type StreamState, openStream } from '../event_stream'
import { Panel } from '../parts/panel'
import { Tail } from '../parts/tail'
import { counted, number, plain, shortId } from '../spelling'
import { ACTIVE, type Job, STATES } from '../types'
import { download } from './job'

const EVENTS_BACK = 20_000
/** So many of the last events are asked for: what came before them would be cut anyway. */
const TERMINAL = new Set<string>(STATES.filter((state) => !ACTIVE.includes(state)))
const RATE_MS = 1000

interface Panes {
  output: Tail | null
  log: Tail | null
}

export function JobOutput({ job, onEnd }: { job: Job; onEnd: () => void }): JSX.Element {
  const first = useMemo(() => ({ id: job.job_id, after: Math.max(job.first_id - 1, job.events - EVENTS_BACK - 1, -1) }), [job.job_id])
  const panes = useRef<Panes>({ output: null, log: null })
  const seen = useMemo(() => ({ tokens: signal(0), lines: signal(0), rate: signal(0), state: signal<StreamState>('connecting'), why: signal(''), isCut: signal(first.after >= job.first_id) }), [first])

  useEffect(() => {
    let isOver = false
    let tokens = 0
    let lines = 0
    let told = 0
    let toldAt = performance.now()
    const tell = setInterval(() => {
      const now = performance.now()
      seen.rate.value = Math.round(((tokens - told) * 1000) / Math.max(1, now - toldAt))
      told = tokens
      toldAt = now
      seen.tokens.value = tokens
      seen.lines.value = lines
    }, RATE_MS)
    let lastSeen = -1
    const take = (events: StreamEvent[]): void => {
      let output = ''
      let log = ''
      for (const event of events) {
        const id = Number(event.id)
        if (id <= lastSeen) continue
        lastSeen = id
        if (event.name === 'token') {
          tokens++
          output += shown(JSON.parse(event.data))
        } else if (event.name === 'log') {
          lines++
          log += `${JSON.parse(event.data).text ?? ''}\n`
        } else if (event.name === 'retrying' || event.name === 'restored') {
          // What was streamed before is void.
          output = log = ''
          tokens = lines = told = 0
          panes.current.output?.clear()
          panes.current.log?.clear()
          onEnd()
        } else if (event.name === 'started' || TERMINAL.has(event.name)) {
          isOver = TERMINAL.has(event.name)
          onEnd()
        }
      }
      if (output) panes.current.output?.push(output)
      if (log) panes.current.log?.push(log)
      if (isOver || seen.tokens.peek() === 0) {
        seen.tokens.value = tokens
        seen.lines.value = lines
      }
    }
    const stream = openStream({
      path: () => `/v1/jobs/${encodeURIComponent(first.id)}/stream?after=${Math.max(first.after, lastSeen)}`,
      onEvents: take,
      onState: (state, why) => {
        seen.state.value = state
        seen.why.value = why
      },
      isOver: () => isOver,
    })
    return () => {
      stream.close()
      clearInterval(tell)
    }
  }, [first])

  const isLive = seen.state.value === 'live' && job.ended_at === null
  const all = Math.max(seen.tokens.value, job.tokens)
  return (
    <>
      <Pane
        title="Output"
        hint={`${counted(all, 'token')}${isLive && seen.rate.value ? ` · ${number(seen.rate.value)}/s` : ''}`}
        empty={all > 0 ? '' : job.ended_at === null ? 'Nothing is streamed yet.' : 'It streamed nothing.'}
        isCut={seen.isCut}
        onMade={(tail) => (panes.current.output = tail)}
        onDownload={all > 0 ? () => void download(`/v1/jobs/${job.job_id}/output`, `${shortId(job.job_id)}.txt`) : null}
      />
      {(seen.state.value === 'lost' || seen.state.value === 'refused') && (
        <p class="bar bad" role="status">
          <span>{seen.why.value}</span>
        </p>
      )}
      <Pane
        title="Log"
        hint={counted(seen.lines.value, 'line')}
        empty={seen.lines.value > 0 ? '' : 'Nothing was printed.'}
        isCut={useMemo(() => signal(false), [first])}
        onMade={(tail) => (panes.current.log = tail)}
        onDownload={null}
      />
    </>
  )
}

function shown(token: Record<string, unknown>): string {
  if (typeof token['text'] === 'string') return token['text']
  if ('base64' in token) return '<bytes>'
  return `${JSON.stringify(token['value'])}\n`
}

interface PaneShown {
  title: string
  hint: string
  empty: string
  isCut: { value: boolean }
  onMade: (tail: Tail) => void
  onDownload: (() => void) | null
}

function Pane({ title, hint, empty, isCut, onMade, onDownload }: PaneShown): JSX.Element {
  const box = useRef<HTMLDivElement>(null)
  const [tail, setTail] = useState<Tail | null>(null)
  const [isAway, setAway] = useState(false)
  useEffect(() => {
    if (!box.current) return undefined
    const made = new Tail(box.current, {
      onCut: () => {
        isCut.value = true
      },
      onAway: setAway,
    })
    setTail(made)
    onMade(made)
    return () => made.close()
  }, [])
  return (
    <Panel
      title={title}
      hint={hint}
      class="pane"
      aside={
        onDownload && (
          <button type="button" class="plain" onClick={onDownload}>
            Download all
          </button>
        )
      }
    >
      {isCut.value && <p class="hint cut">Only the end is shown.</p>}
      <div class="tail-frame">
        <div ref={box} class={`tail ${empty ? 'is-empty' : ''}`} tabIndex={0} role="log" aria-live="off" aria-label={title} />
        {empty && <p class="empty">{plain(empty)}</p>}
        {isAway && (
          <button type="button" class="to-end" onClick={() => tail?.toEnd()}>
            To the end ↓
          </button>
        )}
      </div>
    </Panel>
  )
}
