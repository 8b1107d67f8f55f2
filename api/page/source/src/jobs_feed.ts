// A list of jobs that fit a filter, live and stable: rows change in place, and what is new waits until it is asked for.
import { type Signal, batch, signal } from '@preact/signals'
import { openStream, type StreamEvent, type StreamState } from './event_stream'
import { json } from './http'
import { ranMs, waitedMs } from './spelling'
import type { JobSummary } from './types'

export const FILTERS = ['state', 'type', 'tag', 'tenant', 'node', 'code', 'search'] as const
export type Filters = Partial<Record<(typeof FILTERS)[number], string>>

export interface Row {
  id: string
  job: Signal<JobSummary>
  /** No longer kept, or no longer of the filter: it stays in its place until the list is arranged anew. */
  isGone: Signal<boolean>
}

export type SortKey = 'created' | 'state' | 'type' | 'waited' | 'ran' | 'tokens'
export interface Sorting {
  key: SortKey
  descending: boolean
}

const FIRST = 200
/** The most that one page of the API has. */
export const ROWS_MAX = 2000
/** As many rows as a person looks through, and a browser draws; a filter finds the others. */

export class JobsFeed {
  rows = signal<Row[]>([])
  fresh = signal(0)
  total = signal<number | null>(null)
  counts = signal<Record<string, number>>({})
  state = signal<StreamState>('connecting')
  why = signal('')
  isLoading = signal(true)
  follows = signal(false)
  sorting = signal<Sorting>({ key: 'created', descending: true })
  cursor = signal<string | null>(null)
  hasOlder = signal(false)

  private known = new Map<string, Row>()
  private waiting = new Map<string, JobSummary>()
  private pending: StreamEvent[] = []
  private frame = 0
  private stream: ReturnType<typeof openStream>

  constructor(
    readonly filters: Filters,
    private limit = FIRST,
  ) {
    const query = queryOf(filters)
    query.set('limit', String(limit))
    this.stream = openStream({
      path: () => `/v1/jobs/stream?${query}`,
      resumes: true,
      onEvents: (events) => this.take(events),
      onState: (state, why) => {
        batch(() => {
          this.state.value = state
          this.why.value = why
        })
      },
    })
  }

  close(): void {
    this.stream.close()
    cancelAnimationFrame(this.frame)
  }

  /** Events are joined for a frame; of a page that is not drawn, for a second. */
  private take(events: StreamEvent[]): void {
    this.pending.push(...events)
    if (this.frame) return
    if (document.visibilityState === 'visible') this.frame = requestAnimationFrame(() => this.apply())
    else this.frame = setTimeout(() => this.apply(), 1000) as unknown as number
  }

  private apply(): void {
    const events = this.pending
    this.pending = []
    this.frame = 0
    batch(() => {
      for (const event of events) {
        if (event.name === 'jobs') this.begin(JSON.parse(event.data))
        else if (event.name === 'job') this.change(JSON.parse(event.data))
        else if (event.name === 'gone') this.remove(JSON.parse(event.data).job_id)
        else if (event.name === 'counts') this.count(JSON.parse(event.data))
      }
      this.fresh.value = this.waiting.size
      if (this.waiting.size && (this.follows.peek() || this.known.size === 0)) this.arrange()
    })
  }

  private count(told: Record<string, number>): void {
    const { total, ...counts } = told
    if (total !== undefined) this.total.value = total
    this.counts.value = counts
  }

  /** The first event of a connection: what is there. A list that is shown already keeps its order. */
  private begin(told: { jobs: JobSummary[]; total: number; counts: Record<string, number> }): void {
    this.total.value = told.total
    this.counts.value = told.counts
    this.isLoading.value = false
    const isFirst = this.known.size === 0
    const there = new Set(told.jobs.map((job) => job.job_id))
    for (const job of told.jobs) {
      if (isFirst) this.add(job)
      else this.change(job)
    }
    const isWhole = told.jobs.length < this.limit
    if (isWhole) {
      for (const row of this.known.values()) if (!there.has(row.id)) row.isGone.value = true
    }
    this.hasOlder.value = !isWhole
    if (isFirst) this.arrange()
  }

  private add(job: JobSummary): void {
    const known = this.known.get(job.job_id)
    if (known) known.job.value = job
    else this.known.set(job.job_id, { id: job.job_id, job: signal(job), isGone: signal(false) })
  }

  private change(job: JobSummary): void {
    const row = this.known.get(job.job_id)
    if (row) {
      row.job.value = job
      row.isGone.value = false
      return
    }
    // One that is older than all shown is on a later page of the list, and no news.
    const rows = this.rows.peek()
    const oldest = rows.length >= this.limit ? oldestOf(rows) : ''
    if (job.created_at >= oldest) {
      this.waiting.set(job.job_id, job)
      if (this.waiting.size > ROWS_MAX) this.waiting.delete(this.waiting.keys().next().value as string)
    }
  }

  private remove(id: string): void {
    this.waiting.delete(id)
    const row = this.known.get(id)
    if (row) row.isGone.value = true
  }

  /** Show what is new, leave out what is gone, and sort. */
  arrange(): void {
    batch(() => {
      for (const job of this.waiting.values()) this.add(job)
      this.waiting.clear()
      this.fresh.value = 0
      for (const row of [...this.known.values()]) if (row.isGone.peek()) this.known.delete(row.id)
      const rows = sorted([...this.known.values()], { key: 'created', descending: true })
      for (const row of rows.splice(ROWS_MAX)) this.known.delete(row.id)
      this.rows.value = sorted(rows, this.sorting.peek())
    })
  }

  sort(by: Sorting): void {
    this.sorting.value = by
    this.arrange()
  }

  async older(): Promise<void> {
    const query = queryOf(this.filters)
    query.set('limit', String(FIRST))
    if (this.cursor.peek()) query.set('cursor', this.cursor.peek() as string)
    const page = await json<{ jobs: JobSummary[]; next_cursor: string | null }>(`/v1/jobs?${query}`)
    batch(() => {
      const before = this.known.size
      for (const job of page.jobs) this.add(job)
      this.cursor.value = page.next_cursor
      this.hasOlder.value = page.next_cursor !== null && this.known.size < ROWS_MAX
      this.arrange()
      // The first page is what the stream began with.
      if (this.known.size === before && page.next_cursor) void this.older()
    })
  }
}

export function filtersOf(query: URLSearchParams): Filters {
  const filters: Filters = {}
  for (const name of FILTERS) {
    const given = query.get(name)
    if (given) filters[name] = given
  }
  return filters
}

export function queryOf(filters: Filters): URLSearchParams {
  const query = new URLSearchParams()
  for (const name of FILTERS) if (filters[name]) query.set(name, filters[name])
  return query
}

function oldestOf(rows: Row[]): string {
  let oldest = '~'
  for (const row of rows) if (row.job.peek().created_at < oldest) oldest = row.job.peek().created_at
  return oldest
}

const ORDER = ['stopping', 'running', 'queued', 'failed', 'timed_out', 'cancelled', 'completed']

function keyOf(job: JobSummary, key: SortKey): number | string {
  switch (key) {
    case 'created':
      return job.created_at
    case 'state':
      return ORDER.indexOf(job.state)
    case 'type':
      return job.type
    case 'tokens':
      return job.tokens
    case 'waited':
      return waitedMs(job)
    case 'ran':
      return ranMs(job) ?? -1
  }
}

export function sorted(rows: Row[], by: Sorting): Row[] {
  const keyed = rows.map((row) => ({ row, key: keyOf(row.job.peek(), by.key), created: row.job.peek().created_at }))
  const sign = by.descending ? -1 : 1
  keyed.sort((one, other) => {
    if (one.key !== other.key) return one.key < other.key ? -sign : sign
    return one.created < other.created ? 1 : one.created > other.created ? -1 : one.row.id < other.row.id ? 1 : -1
  })
  return keyed.map((each) => each.row)
}
