// Requests to the API: the key in a header, refusals as typed errors with the way out.
import { noteServerDate } from './clock'
import { asked, info, keep, key } from './session'

export class Refusal extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    detail: string,
    readonly retryAfterS: number | null,
  ) {
    super(detail)
  }

  /** What a person can do about it. */
  get wayOut(): string {
    if (this.status === 0) return 'Is the server running, and can this machine reach it? The page goes on trying.'
    if (this.status === 401) return 'Sign in with a key that is valid.'
    if (this.status === 403) return 'Sign in with a key that has this role: killable keys lists them.'
    if (this.status === 404) return 'It may have ended and be kept no longer: see jobs_kept and kept_s under [server].'
    const soon = this.retryAfterS === null ? 'shortly' : `in ${this.retryAfterS} s`
    if (this.status === 429) return `Too much was asked at once; try again ${soon}.`
    if (this.status === 503) return `The server is busy or draining; try again ${soon}.`
    return ''
  }
}

export interface Options {
  method?: string
  body?: unknown
  headers?: Record<string, string>
  signal?: AbortSignal
  /** A key that is tried: a 401 says that it is none, and signs nobody out. */
  as?: string
}

/** Ask, and return the answer once it is no refusal. A 401 has the page ask for a key. */
export async function ask(path: string, options: Options = {}): Promise<Response> {
  const headers: Record<string, string> = { ...options.headers }
  const as = options.as ?? key.value
  if (as) headers['Authorization'] = `Bearer ${as}`
  const sent: RequestInit = { method: options.method ?? 'GET', headers, cache: 'no-store', redirect: 'error', credentials: 'omit' }
  if (options.body !== undefined) {
    headers['Content-Type'] = 'application/json'
    sent.body = JSON.stringify(options.body)
  }
  if (options.signal) sent.signal = options.signal
  let answer: Response
  try {
    answer = await fetch(path, sent)
  } catch (error) {
    if (options.signal?.aborted) throw error
    throw new Refusal(0, 'unreachable', 'The server does not answer.', null)
  }
  noteServerDate(answer.headers.get('Date'))
  if (answer.ok) return answer
  const refusal = await refusalOf(answer)
  // An answer to a key of before is no word on the one of now.
  if (refusal.status === 401 && options.as === undefined && as === key.peek()) signOut(as ? refusal.message : 'This server needs a key.')
  throw refusal
}

export async function json<T>(path: string, options: Options = {}): Promise<T> {
  return (await (await ask(path, options)).json()) as T
}

/** What is wrong with the server. A server that can start no job refuses, with the same list. */
export async function troubles(): Promise<string[]> {
  const answer = await fetch('/readyz', { cache: 'no-store', redirect: 'error', credentials: 'omit' })
  return ((await answer.json()) as { degraded?: string[] }).degraded ?? []
}

async function refusalOf(answer: Response): Promise<Refusal> {
  const after = Number(answer.headers.get('Retry-After') ?? Number.NaN)
  let told: { code?: string; detail?: string; title?: string } = {}
  try {
    told = await answer.json()
  } catch {
    // A proxy's page, or half an answer: the status says enough.
  }
  const detail = told.detail || told.title || `The server answered ${answer.status}.`
  return new Refusal(answer.status, told.code ?? '', detail, Number.isFinite(after) ? after : null)
}

/** The first reason stays: a request of the moment in between has no key, and its refusal is what follows from it. */
export function signOut(why: string): void {
  keep('')
  info.value = null
  asked.value ??= why
}

export function messageOf(error: unknown): string {
  if (error instanceof Refusal) return `${error.message} ${error.wayOut}`.trim()
  return error instanceof Error ? error.message : String(error)
}
