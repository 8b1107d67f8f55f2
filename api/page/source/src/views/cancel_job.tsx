// Cancel one job. The dialog closes when it is sent: the certificate arrives on the page behind.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { Refusal, json, messageOf } from '../http'
import { note } from '../parts/announce'
import { Field, Question, ReasonField } from '../parts/question'
import { duration, plain, shortId } from '../spelling'
import type { Certificate, Job } from '../types'

export function CancelJob({ job, onClose, onSent }: { job: Job; onClose: () => void; onSent: () => void }): JSX.Element {
  const [reason, setReason] = useState('')
  const [grace, setGrace] = useState('')
  const allowed = job.limits['grace_s']

  async function cancel(): Promise<void> {
    const query = new URLSearchParams()
    if (reason) query.set('reason', reason)
    if (grace.trim()) {
      if (!(Number(grace) >= 0)) throw new Error('The grace is a number of seconds, 0 or more.')
      query.set('grace_s', String(Number(grace)))
    }
    const path = `/v1/jobs/${job.job_id}${query.size ? `?${query}` : ''}`
    const sent = json<{ status: string; certificate: Certificate | null }>(path, { method: 'DELETE', headers: { Prefer: 'wait=30' } })
    onClose()
    // The steps so far are in the record at once; the answer comes with the last one.
    setTimeout(onSent, 30)
    try {
      const answer = await sent
      const empty = answer.certificate?.['tree_empty']
      if (answer.status === 'cancelled') note(`${shortId(job.job_id)} is dead${typeof empty === 'number' ? `, after ${duration(empty)}` : ''}.`)
      else note(`${shortId(job.job_id)} is still stopping.`)
    } catch (refusal) {
      if (!(refusal instanceof Refusal && refusal.code === 'already_ended')) note(messageOf(refusal), true)
      else note(`${shortId(job.job_id)} had ended before.`)
    }
    onSent()
  }

  return (
    <Question title={`Cancel ${plain(job.type)} ${shortId(job.job_id)}?`} act="Cancel the job" leave="Keep it" send={cancel} onClose={onClose}>
      <p>
        It gets SIGTERM and {allowed === undefined || allowed === null ? 'its grace' : `up to ${String(allowed)} s`} to clean up, then SIGKILL.
        Nothing of it is left when it is called cancelled.
      </p>
      <ReasonField value={reason} onInput={setReason} />
      <Field label="Shorter grace, in seconds" inputMode="decimal" hint={String(allowed ?? '')} value={grace} onInput={setGrace} />
    </Question>
  )
}
