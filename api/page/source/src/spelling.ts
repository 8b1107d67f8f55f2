// Times, sizes, numbers and foreign text as people read them. The same spellings as the command's.
import { serverNow } from './clock'
import type { JobSummary } from './types'

const CONTROL = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g

/** Text of a job or client, of which no character acts: control characters are shown, not obeyed. */
export function plain(text: unknown): string {
  return String(text).replace(CONTROL, (char) => {
    const code = char.charCodeAt(0)
    if (code < 0x20) return String.fromCharCode(0x2400 + code)
    return code === 0x7f ? '␡' : '\ufffd'
  })
}

/** A value as JSON of which no character acts: a control character stands as its escape, which is the same value. */
export function jsonOf(value: unknown): string {
  return JSON.stringify(value, null, 2).replace(CONTROL, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, '0')}`)
}

export function duration(ms: number | null): string {
  if (ms === null || Number.isNaN(ms)) return '–'
  if (ms < 0) ms = 0
  if (ms < 9.95) return `${ms.toFixed(1)} ms`
  if (ms < 999.5) return `${Math.round(ms)} ms`
  if (ms < 59_950) return `${(ms / 1000).toFixed(1)} s`
  return coarse(ms)
}

/** Of something that goes on: no part of it changes more than once a second. */
export function coarse(ms: number | null): string {
  if (ms === null || Number.isNaN(ms)) return '–'
  const s = Math.max(0, Math.floor(ms / 1000))
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)}m ${two(s % 60)}s`
  if (s < 86_400) return `${Math.floor(s / 3600)}h ${two(Math.floor((s % 3600) / 60))}m`
  return `${Math.floor(s / 86_400)}d ${two(Math.floor((s % 86_400) / 3600))}h`
}

function two(value: number): string {
  return String(value).padStart(2, '0')
}

export function bytes(count: number | null | undefined): string {
  if (count === null || count === undefined) return '–'
  if (count < 1024) return `${count} B`
  for (const [unit, size] of [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10]] as const) {
    if (count >= size * 0.9995) {
      const value = count / size
      return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ${unit}`
    }
  }
  return `${count} B`
}

export function number(value: number): string {
  return value.toLocaleString('en-US')
}

export function counted(value: number, one: string, many = `${one}s`): string {
  return `${number(value)} ${value === 1 ? one : many}`
}

export function percent(value: number | null | undefined): string {
  if (value === null || value === undefined) return '–'
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} %`
}

/** Between two of the server's times; null: now, by its clock. */
export function betweenMs(from: string, to: string | null): number {
  return (to === null ? serverNow() : Date.parse(to)) - Date.parse(from)
}

export function waitedMs(job: JobSummary): number {
  return betweenMs(job.created_at, job.started_at ?? job.ended_at)
}

/** Null: it has not started. */
export function ranMs(job: JobSummary): number | null {
  return job.started_at === null ? null : betweenMs(job.started_at, job.ended_at)
}

/** 14:03:22.120, of today; another day has its date. By this machine's time zone. */
export function moment(value: string | number): string {
  const at = new Date(value)
  const time = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, '0')}`
  const today = new Date(serverNow())
  if (at.toDateString() === today.toDateString()) return time
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`
}

export function shortId(id: string): string {
  return id.startsWith('job-') ? id.slice(4, 12) : id
}
