// How long ago something was, by the server's clock; it counts on while it is looked at.
import type { JSX } from 'preact'
import { second } from '../clock'
import { betweenMs, coarse, duration, moment, ranMs, waitedMs } from '../spelling'
import type { JobSummary } from '../types'

export function Age({ of }: { of: string }): JSX.Element {
  second.value
  return (
    <time dateTime={of} title={moment(of)}>
      {coarse(betweenMs(of, null))}
    </time>
  )
}

/** How long it waited: until it started, or ended without. */
export function Waited({ job }: { job: JobSummary }): JSX.Element {
  const isOver = job.started_at !== null || job.ended_at !== null
  if (!isOver) second.value
  return <>{(isOver ? duration : coarse)(waitedMs(job))}</>
}

export function Ran({ job }: { job: JobSummary }): JSX.Element {
  const isOver = job.ended_at !== null
  if (!isOver) second.value
  return <>{(isOver ? duration : coarse)(ranMs(job))}</>
}
