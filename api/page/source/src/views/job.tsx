// One job: what it is, how far it is, what it says, how it ended, and the proof.
import { type Signal, signal } from '@preact/signals'
import type { ComponentChildren, JSX } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { Refusal, ask, json, messageOf } from '../http'
import { type Filters, queryOf } from '../jobs_feed'
import { Age, Ran, Waited } from '../parts/age'
import { note, say } from '../parts/announce'
import { Copy } from '../parts/copy'
import { Facts, Panel, Text } from '../parts/panel'
import { StateBadge, stateWord } from '../parts/state'
import { lastJobs } from '../router'
import { may } from '../session'
import { bytes, counted, duration, jsonOf, moment, number, plain, shortId } from '../spelling'
import { ACTIVE, type Job, type Story } from '../types'
import { CancelJob } from './cancel_job'
import { CertificatePicture } from './certificate'
import { JobOutput } from './job_output'
import { Share } from './jobs'
import { Phases } from './phases'
import { StoryPanel } from './story'

const ACTIVE_MS = 1000
const STOPPING_MS = 250
/** How often a job's record is asked for: the steps of an end come within a grace. */

class Watched {
  job: Signal<Job | null> = signal(null)
  story: Signal<Story | null> = signal(null)
  error = signal('')
  private timer = 0
  private isClosed = false
  private asking: Promise<void> | null = null

  constructor(readonly id: string) {
    void this.look()
  }

  look(): Promise<void> {
    this.asking ??= this.once().finally(() => {
      this.asking = null
    })
    return this.asking
  }

  private async once(): Promise<void> {
    clearTimeout(this.timer)
    let wait = ACTIVE_MS
    try {
      const before = this.job.peek()?.state
      const found = await json<Job>(`/v1/jobs/${encodeURIComponent(this.id)}`)
      if (this.isClosed) return
      this.job.value = found
      this.error.value = ''
      if (before && before !== found.state) say(`The job is ${stateWord(found.state)}`)
      if (found.state === 'stopping') wait = STOPPING_MS
      if (!ACTIVE.includes(found.state) || before !== found.state) void this.tell()
      if (!ACTIVE.includes(found.state)) return
    } catch (error) {
      if (this.isClosed) return
      this.error.value = messageOf(error)
      if (error instanceof Refusal && (error.status === 404 || error.status === 401 || error.status === 403)) return
      wait = ACTIVE_MS * 2
    }
    this.timer = setTimeout(() => void this.look(), wait) as unknown as number
  }

  async tell(): Promise<void> {
    try {
      this.story.value = await json<Story>(`/v1/jobs/${encodeURIComponent(this.id)}/story`)
    } catch {
      // The record's own error is shown.
    }
  }

  close(): void {
    this.isClosed = true
    clearTimeout(this.timer)
  }
}

export function JobView({ id }: { id: string }): JSX.Element {
  const watched = useMemo(() => new Watched(id), [id])
  useEffect(() => () => watched.close(), [watched])
  const [isCancelling, setCancelling] = useState(false)
  const job = watched.job.value
  if (job === null) {
    return (
      <div class="view">
        <Back />
        <h1>Job {plain(shortId(id))}</h1>
        <p role="status" class={watched.error.value ? 'error' : 'loading'}>
          {watched.error.value || 'Loading…'}
        </p>
      </div>
    )
  }
  const isActive = ACTIVE.includes(job.state)
  return (
    <div class="view job">
      <Back />
      <header class="job-head">
        <div>
          <div class="job-name">
            <h1>
              {plain(job.type)} <code class="id">{shortId(job.job_id)}</code>
            </h1>
            <Copy what="the job's id" text={job.job_id} />
          </div>
          <p class="job-line">
            <StateBadge state={job.state} />
            {job.error && job.error.code !== job.state && (
              <code class={`code-word s-${job.state}`}>
                <Others of="code" value={job.error.code} />
              </code>
            )}
            <span>
              ran <Ran job={job} />
            </span>
            <span>
              waited <Waited job={job} />
            </span>
            <span>
              accepted <Age of={job.created_at} /> ago
            </span>
            {job.attempt > 1 && <span>attempt {job.attempt}</span>}
          </p>
        </div>
        {isActive && may('submit') && (
          <button type="button" class="danger" onClick={() => setCancelling(true)}>
            {job.state === 'stopping' ? 'Cancel sooner…' : 'Cancel…'}
          </button>
        )}
      </header>
      {watched.error.value && (
        <p class="bar bad" role="alert">
          <span>{watched.error.value}</span>
        </p>
      )}
      {job.error && <ErrorLine job={job} />}
      {job.state === 'queued' && job.queue && <QueueLine job={job} />}
      {isActive && job.progress && (
        <div class="job-progress">
          <Share of={job.progress} />
        </div>
      )}
      <Phases job={job} />
      <div class="columns">
        <div>
          <Input job={job} />
          <JobOutput job={job} onEnd={() => void watched.look()} />
          <Stack job={job} />
          <Result job={job} />
        </div>
        <div>
          {job.certificate && <CertificatePicture certificate={job.certificate} isWhole={!isActive} />}
          <StoryPanel story={watched.story.value} isActive={isActive} />
          <FactsOf job={job} />
        </div>
      </div>
      {isCancelling && <CancelJob job={job} onClose={() => setCancelling(false)} onSent={() => void watched.look()} />}
    </div>
  )
}

function Back(): JSX.Element {
  return (
    <p class="back">
      <a href={lastJobs.value}>← Jobs</a>
    </p>
  )
}

function ErrorLine({ job }: { job: Job }): JSX.Element | null {
  if (!job.error) return null
  const by = job.error.by ? ` by ${plain(job.error.by)}` : ''
  const reason = job.error.reason ? `: ${plain(job.error.reason)}` : ''
  return (
    <p class={`job-error s-${job.state}`}>
      {job.error.code !== job.state && <b>{job.error.code} </b>}
      {plain(job.error.message)}
      {by}
      {reason}
    </p>
  )
}

function QueueLine({ job }: { job: Job }): JSX.Element {
  const { position, estimated_wait_s, detail } = job.queue ?? { position: null, estimated_wait_s: null, detail: '' }
  const ahead = position === null ? 'It waits' : position === 0 ? 'It is next' : `${counted(position, 'job')} ahead of it`
  const about = estimated_wait_s === null ? '' : `, about ${duration(estimated_wait_s * 1000)} to wait`
  return <p class="job-note">{detail ? plain(detail) : `${ahead}${about}.`}</p>
}

function Stack({ job }: { job: Job }): JSX.Element | null {
  const traceback = job.error?.traceback
  const stack = traceback ?? (job.certificate?.['stack'] as string | undefined)
  if (!stack) return null
  const [title, label] = traceback ? ['Traceback', 'Traceback'] : ['Stack at the kill', 'Stack']
  const text = plain(stack.trimEnd())
  return (
    <Panel title={title} aside={<Copy what={`the ${label.toLowerCase()}`} text={text} />}>
      <Text label={label}>{text}</Text>
    </Panel>
  )
}

function Input({ job: { input } }: { job: Job }): JSX.Element | null {
  if (!input) return null
  const text = plain(input.is_cut ? input.text : indented(input.text))
  return (
    <Panel
      title="Input"
      hint={`${bytes(input.bytes)}${input.is_cut ? ', of which this is the beginning' : ''}`}
      aside={<Copy what="the input" text={text} />}
    >
      <Text label="input">{text}</Text>
    </Panel>
  )
}

function indented(text: string): string {
  try {
    return JSON.stringify(JSON.parse(text), null, 2)
  } catch {
    return text
  }
}

const RESULT_CHARS = 20_000

function Result({ job }: { job: Job }): JSX.Element | null {
  const value = job.result ?? job.partial
  const what = job.result !== null ? 'result' : 'partial'
  if (value === null && job.files.length === 0) return null
  const text = value === null ? '' : JSON.stringify(value, null, 2)
  return (
    <Panel
      title={what === 'result' ? 'Result' : 'Last checkpoint'}
      aside={
        value !== null && (
          <button type="button" class="plain" onClick={() => void download(`/v1/jobs/${job.job_id}/${what}`, `${shortId(job.job_id)}-${what}.json`)}>
            Download
          </button>
        )
      }
    >
      {value !== null && (
        <Text label={what}>
          {plain(text.slice(0, RESULT_CHARS))}
          {text.length > RESULT_CHARS ? '\n…' : ''}
        </Text>
      )}
      {job.files.length > 0 && (
        <ul class="files" aria-label="Files">
          {job.files.map((file) => (
            <li key={file.name}>
              <button type="button" class="link" onClick={() => void download(`/v1/jobs/${job.job_id}/files/${encodeURIComponent(file.name)}`, file.name)}>
                {plain(file.name)}
              </button>{' '}
              <span class="hint">
                {bytes(file.size)}, {plain(file.content_type)}
              </span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  )
}

/** A link cannot send the key, so the content is fetched and handed to the browser. */
export async function download(path: string, name: string): Promise<void> {
  try {
    const content = await (await ask(path)).blob()
    const link = document.createElement('a')
    link.href = URL.createObjectURL(new Blob([content], { type: 'application/octet-stream' }))
    link.download = name.replace(/[^\w.() -]/g, '_')
    link.click()
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
  } catch (error) {
    note(messageOf(error), true)
  }
}

/** A word of this job that is a link to the jobs with the same one. */
function Others({ of, value, words = value }: { of: keyof Filters; value: string; words?: string }): JSX.Element {
  return <a href={`#/jobs?${queryOf({ [of]: value })}`}>{plain(words)}</a>
}

function FactsOf({ job }: { job: Job }): JSX.Element {
  const worker = [job.worker_id, job.pid === null ? null : `pid ${job.pid}`].filter(Boolean).join(', ')
  const facts: [string, ComponentChildren][] = [
    ['Id', job.job_id],
    ['Type', <Others of="type" value={job.type} />],
    ['Accepted', moment(job.created_at)],
    ['Tenant', <Others of="tenant" value={job.tenant} />],
    ['Worker', worker || '–'],
    ['Attempts', `${job.attempts}${job.lost_attempts ? `, ${job.lost_attempts} lost` : ''}`],
    ['Correlation id', plain(job.correlation_id) || '–'],
  ]
  if (job.node) facts.push(['Node', <Others of="node" value={job.node} />])
  for (const [name, value] of Object.entries(job.tags)) facts.push([`Tag ${plain(name)}`, <Others of="tag" value={`${name}:${value}`} words={value} />])
  for (const [name, value] of Object.entries(job.nodes)) facts.push([`Node ${plain(name)}`, plain(value)])
  if (job.usage) facts.push(['Usage', Object.entries(job.usage).map(([name, value]) => `${name} ${number(value)}`).join(', ')])
  if (job.durable !== null) facts.push(['In the journal', job.durable ? 'yes' : 'not yet'])
  if (job.callback) facts.push(['Webhook', `${job.callback.state}${job.callback.detail ? `: ${plain(job.callback.detail)}` : ''}`])
  const limits = Object.entries(job.limits).filter(([, value]) => value !== null && typeof value !== 'object')
  return (
    <Panel title="Facts" aside={<Copy what="the job's record" text={jsonOf(job)} />}>
      <Facts of={facts} />
      <details>
        <summary>Limits in force</summary>
        <Facts of={limits.map(([name, value]) => [name, name.endsWith('_bytes') ? bytes(Number(value)) : name.endsWith('_s') ? `${value} s` : String(value)])} />
      </details>
    </Panel>
  )
}
