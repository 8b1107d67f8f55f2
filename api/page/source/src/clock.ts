// The server's time, whatever this machine's clock says. Jobs carry the server's times; their ages are told in these.
import { signal } from '@preact/signals'

/** Milliseconds that the server's clock is ahead of this one. */
export const aheadMs = signal(0)
let isExact = false

export function noteServerTime(unixS: number): void {
  isExact = true
  const ahead = unixS * 1000 - Date.now()
  if (Math.abs(ahead - aheadMs.peek()) > 250) aheadMs.value = ahead
}

/** From an HTTP header, which has whole seconds: only until something better is known. */
export function noteServerDate(header: string | null): void {
  if (isExact || header === null) return
  const told = Date.parse(header)
  if (!Number.isNaN(told) && Math.abs(told + 500 - Date.now() - aheadMs.peek()) > 1500) aheadMs.value = told + 500 - Date.now()
}

/** Milliseconds since 1970, by the server's clock. */
export function serverNow(): number {
  return Date.now() + aheadMs.peek()
}

/** Ticks once a second: what shows ages reads it. */
export const second = signal(0)
setInterval(() => {
  if (document.visibilityState === 'visible') second.value++
}, 1000)
