// The server as it is now, once a second, and the last quarter of an hour of it for the charts.
import { signal } from '@preact/signals'
import { noteServerTime } from './clock'
import { type StreamEvent, type StreamState, openStream } from './event_stream'
import { json, signOut, troubles } from './http'
import { info } from './session'
import type { Info, Now, PoolNow } from './types'

export interface PoolPoint {
  cpu: number
  memory: number
  busy: number
  endedEarly: number
  recovery: number | null
}

export interface Point {
  at: number
  serverCpu: number
  serverMemory: number
  queued: number
  running: number
  pools: Record<string, PoolPoint>
}

export const KEPT_POINTS = 900
/** A quarter of an hour, a point a second: as much as the charts have room for, and no more is kept. */

export const now = signal<Now | null>(null)
export const history = signal<Point[]>([])
export interface Connection {
  state: StreamState
  why: string
  againAt: number
}
export const connection = signal<Connection>({ state: 'connecting', why: '', againAt: 0 })
/** Told once, when the server that answers is another run of it. */
export const restarted = signal('')
/** The version of the server when this page was loaded; another one has another page. */
let firstVersion = ''
export const isOutdated = signal(false)

/** What is wrong with the server as a whole: no stream tells it, so it is asked for. */
export const degraded = signal<string[]>([])
const TROUBLE_EVERY_MS = 5000
/** That it drains is said by the page anyway; that its loop stood still is over when it is told. */
const TOLD_ELSEWHERE = /^(draining$|the event loop stood still)/

let stream: ReturnType<typeof openStream> | null = null
let timer = 0
/** Whether each worker is told: one view shows them, and with hundreds they are most of what a reader costs. */
let withWorkers = false

export function open(): void {
  close()
  read()
  timer = setInterval(() => {
    if (connection.peek().state === 'live' && document.visibilityState === 'visible') void lookForTrouble()
  }, TROUBLE_EVERY_MS)
}

/** Have each worker told from now on, or no more. */
export function tellWorkers(wanted: boolean): void {
  if (wanted === withWorkers) return
  withWorkers = wanted
  if (stream === null) return
  stream.close()
  read()
}

function read(): void {
  stream = openStream({
    path: () => (withWorkers ? '/v1/workers/stream' : '/v1/workers/stream?workers=false'),
    onEvents: (events) => {
      const last = events.findLast((event) => event.name === 'now')
      if (last) take(JSON.parse(last.data) as Now)
      endOf(events)
    },
    onState: (state, why, againInMs) => {
      const before = connection.peek().state
      // A view that wants more, or less, of a server that answers.
      if (state === 'connecting' && before === 'live') return
      connection.value = { state, why, againAt: Date.now() + againInMs }
      if (state === 'live' && before !== 'live') {
        void lookAtServer()
        void lookForTrouble()
      }
    },
  })
}

/** The server says why it ends a stream: a key that is no longer valid is not tried again. */
export function endOf(events: StreamEvent[]): void {
  const end = events.find((event) => event.name === 'end')
  if (end && (JSON.parse(end.data) as { reason: string }).reason === 'unauthorized') signOut('The key is no longer valid.')
}

export function close(): void {
  stream?.close()
  stream = null
  clearInterval(timer)
}

export function tryAgain(): void {
  stream?.again()
}

async function lookAtServer(): Promise<void> {
  try {
    const found = await json<Info>('/v1/info')
    const known = info.peek()
    if (known && known.instance_id !== found.instance_id) {
      restarted.value = found.started_at
      history.value = []
    }
    firstVersion ||= found.version
    isOutdated.value = found.version !== firstVersion
    info.value = found
  } catch {
    // The stream says what is wrong, if it goes on.
  }
}

async function lookForTrouble(): Promise<void> {
  try {
    const found = (await troubles()).filter((each) => !TOLD_ELSEWHERE.test(each))
    if (found.join() !== degraded.peek().join()) degraded.value = found
  } catch {
    // The stream says that the server does not answer.
  }
}

function take(found: Now): void {
  noteServerTime(found.at)
  now.value = found
  const points = history.peek()
  const point = pointOf(found)
  history.value = points.length >= KEPT_POINTS ? [...points.slice(1 - KEPT_POINTS), point] : [...points, point]
}

/** The workers of a pool that have ended before they had the jobs that a worker gets: mostly that is one. */
export function endedEarly({ replaced: { served: _, ...early } }: PoolNow): number {
  return Object.values(early).reduce((sum, each) => sum + each, 0)
}

function pointOf(found: Now): Point {
  const pools: Record<string, PoolPoint> = {}
  for (const pool of found.pools) {
    const used = usedBy([pool])
    pools[pool.name] = { ...used, busy: pool.busy, endedEarly: endedEarly(pool), recovery: pool.recovery_ms.last }
  }
  return {
    at: found.at,
    serverCpu: found.server.cpu_percent ?? 0,
    serverMemory: found.server.memory_bytes ?? 0,
    queued: found.jobs.queued,
    running: found.jobs.running,
    pools,
  }
}

/** What the workers of pools use together: percent of one core, and bytes. */
export function usedBy(pools: PoolNow[]): { cpu: number; memory: number } {
  const used = { cpu: 0, memory: 0 }
  for (const each of pools) {
    used.cpu += each.cpu_percent ?? 0
    used.memory += each.memory_bytes ?? 0
  }
  return used
}
