// The life of a job as one bar on a time axis: how long it waited, ran, was being stopped.
import type { JSX } from 'preact'
import { second, serverNow } from '../clock'
import { coarse, duration, moment, plain } from '../spelling'
import { ACTIVE, type Job } from '../types'

interface Phase {
  name: string
  state: string
  ms: number
  from: number
  isOpen: boolean
}

export function phasesOf(job: Job, nowMs: number): Phase[] {
  const created = Date.parse(job.created_at)
  const started = job.started_at === null ? null : Date.parse(job.started_at)
  const isActive = ACTIVE.includes(job.state)
  const end = job.ended_at === null ? Math.max(nowMs, started ?? created) : Date.parse(job.ended_at)
  const empty = job.certificate?.['tree_empty']
  const wasAsked = job.certificate !== null && 'requested' in job.certificate
  // The end was decided when the tree was empty, and the certificate counts from the request.
  const asked = wasAsked && !isActive && typeof empty === 'number' ? Math.max(started ?? created, end - empty) : null
  const found: Phase[] = []
  const add = (name: string, state: string, from: number, to: number, isOpen: boolean): void => {
    found.push({ name, state, from, ms: Math.max(0, to - from), isOpen })
  }
  const waited = job.attempts > 1 ? 'waited, earlier attempts' : 'waited'
  add(waited, 'queued', created, started ?? asked ?? end, isActive && started === null)
  if (started !== null) {
    const isStopping = job.state === 'stopping'
    if (!isStopping || asked !== null) add('ran', 'running', started, asked ?? end, isActive)
    else add('ran, is being stopped', 'stopping', started, end, true)
  }
  if (asked !== null) add('was stopped', 'stopping', asked, end, false)
  return found
}

export function Phases({ job }: { job: Job }): JSX.Element {
  if (ACTIVE.includes(job.state)) second.value
  const phases = phasesOf(job, serverNow())
  const whole = phases.reduce((sum, each) => sum + each.ms, 0)
  const end = job.ended_at ?? null
  return (
    <section class="panel phases" aria-label="Timeline">
      <ol class="phase-bar">
        {phases.map((each) => (
          <li key={each.name} class={`phase p-${each.state} ${each.isOpen ? 'open' : ''} ${each.ms < whole / 100 ? 'thin' : ''}`} style={{ flexGrow: Math.max(each.ms, whole / 400) || 1 }} title={`${each.name} ${duration(each.ms)}, from ${moment(each.from)}`}>
            <span class="unseen">{`${each.name} ${duration(each.ms)}`}</span>
          </li>
        ))}
      </ol>
      <div class="phase-words" aria-hidden="true">
        {phases.map((each) => (
          <span key={each.name}>
            <i class={`key p-${each.state}`} /> {each.name} <b>{each.isOpen ? coarse(each.ms) : duration(each.ms)}</b>
          </span>
        ))}
        <span class="phase-ends">
          {moment(job.created_at)} → {end === null ? 'now' : moment(end)}
        </span>
      </div>
      <p class="unseen">{plain(`Accepted at ${moment(job.created_at)}${end === null ? '' : `, ended at ${moment(end)}`}`)}</p>
    </section>
  )
}
