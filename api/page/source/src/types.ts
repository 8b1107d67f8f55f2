// What the API answers, as far as the page reads it. The reference has all of it: docs/reference/http-api.md.

export type State = 'queued' | 'running' | 'stopping' | 'completed' | 'failed' | 'cancelled' | 'timed_out'
export const STATES: State[] = ['queued', 'running', 'stopping', 'completed', 'failed', 'cancelled', 'timed_out']
export const ACTIVE: State[] = ['queued', 'running', 'stopping']

/** The state that a code ends a job in. */
export function stateOfCode(code: string): State {
  if (code === 'completed' || code === 'cancelled') return code
  return code.startsWith('timeout.') ? 'timed_out' : 'failed'
}

export interface JobError {
  code: string
  message: string
  retryable: boolean
  reason?: string
  by?: string
  signal?: string
  traceback?: string
}

export interface JobSummary {
  job_id: string
  type: string
  state: State
  created_at: string
  started_at: string | null
  ended_at: string | null
  tags: Record<string, string>
  attempt: number
  worker_id: string | null
  pid: number | null
  tokens: number
  progress: Progress | null
  queue: { position: number | null; estimated_wait_s: number | null; detail: string } | null
  error: JobError | null
  durable: boolean | null
  node: string | null
}

export interface Progress {
  done?: number
  total?: number | null
  unit?: string
  [more: string]: unknown
}

export type Certificate = Record<string, unknown>

export interface Job extends JobSummary {
  limits: Record<string, unknown>
  tenant: string
  nodes: Record<string, string>
  files: { name: string; size: number; content_type: string }[]
  correlation_id: string
  events: number
  first_id: number
  attempts: number
  lost_attempts: number
  result: unknown
  partial: unknown
  usage: Record<string, number> | null
  certificate: Certificate | null
  instance_id: string
  /** Null: nothing is kept of it, or this key may not see it. */
  input: { text: string; bytes: number; is_cut: boolean } | null
  callback: { state: string; attempts: number; detail: string } | null
}

export interface Worker {
  worker_id: string
  pool: string
  pid: number | null
  state: string
  job_id: string | null
  type: string | null
  attempt: number | null
  age_s: number
  jobs: number
  start_method: string
  proof: string
  node: string | null
  generation: number
  cpu?: number | null
  rss_bytes?: number | null
  cpu_percent?: number | null
  memory_bytes?: number | null
  processes?: number | null
  threads?: number | null
}

export interface Retired {
  worker_id: string
  pool: string
  job_id: string
  why: string
  at: string
}

export interface PoolNow {
  name: string
  state?: string
  workers: number
  idle: number
  busy: number
  starting: number
  restarts: number
  replaced: Record<string, number>
  recovery_ms: { last: number | null; p50: number | null }
  queued: number
  cpu_percent: number | null
  memory_bytes: number | null
}

export interface Node {
  name: string
  state: string
  slots: number
  running: number
  heard_s: number | null
  detail: string
  labels: Record<string, string>
  deadline_s: number | null
  delay_s: number | null
}

export interface Now {
  at: number
  seq: number
  /** Null where they were not asked for. */
  workers: Worker[] | null
  retired: Retired[] | null
  pools: PoolNow[]
  queue: { depth: number; bytes: number; oldest_s: number | null; by_type: Record<string, number> }
  jobs: { running: number; stopping: number; queued: number; ended: Record<string, number> | null }
  server: {
    cpu_percent: number | null
    memory_bytes: number | null
    loop_stall_worst_ms?: number | null
    uptime_s: number
    version: string
    draining: boolean
  }
  nodes: Node[]
}

export interface Info {
  version: string
  pid: number
  instance_id: string
  started_at: string
  features: string[]
  caller?: { name: string; role: Role; visibility: 'all' | 'own' } | null
}

export type Role = 'read' | 'submit' | 'operate'

export interface Story {
  headline: string
  paragraphs: { title: string; text: string; lines: string[] }[]
  steps: { ms: number | null; step: string }[]
  change: { setting: string | null; words: string }
}

export interface BulkAnswer {
  matched: number
  cancelled: number
  stopping: number
  already_ended: number
  dry_run: boolean
  jobs: { job_id: string; status: string }[]
}
