// How long ago something was, by the server's clock; it counts on while it is looked at.
import type { JSX } from 'preact'
import { second } from '../clock'
import { coarse, duration, moment, sinceMs } from '../spelling'
import type { JobSummary } from '../types'

export function Age({ of }: { of: string }): JSX.Element {
  second.value
  return (
    <time dateTime={of} title={moment(of)}>
      {coarse(sinceMs(of))}
    </time>
  )
}

/** How long it waited: until it started, or ended without. */
export function Waited({ job }: { job: JobSummary }): JSX.Element {
  const until = job.started_at ?? job.ended_at
  if (until === null) second.value
  const ms = until === null ? sinceMs(job.created_at) : Date.parse(until) - Date.parse(job.created_at)
  return <>{until === null ? coarse(ms) : duration(ms)}</>
}

export function Ran({ job }: { job: JobSummary }): JSX.Element {
  if (job.started_at === null) return <>–</>
  if (job.ended_at === null) {
    second.value
    return <>{coarse(sinceMs(job.started_at))}</>
  }
  return <>{duration(Date.parse(job.ended_at) - Date.parse(job.started_at))}</>
}
