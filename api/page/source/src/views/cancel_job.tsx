// Cancel one job. The dialog closes when the server has taken it: the certificate arrives on the page behind.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { Refusal, json, messageOf } from '../http'
import { note } from '../parts/announce'
import { Dialog } from '../parts/dialog'
import { duration, plain, shortId } from '../spelling'
import type { Certificate, Job } from '../types'

export function CancelJob({ job, onClose, onSent }: { job: Job; onClose: () => void; onSent: () => void }): JSX.Element {
  const [reason, setReason] = useState('')
  const [grace, setGrace] = useState('')
  const [error, setError] = useState('')
  const allowed = job.limits['grace_s']

  async function cancel(event: Event): Promise<void> {
    event.preventDefault()
    const query = new URLSearchParams()
    if (reason) query.set('reason', reason)
    if (grace.trim()) {
      if (!(Number(grace) >= 0)) {
        setError('The grace is a number of seconds, 0 or more.')
        return
      }
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
    <Dialog title={`Cancel ${plain(job.type)} ${shortId(job.job_id)}?`} onClose={onClose}>
      <form onSubmit={(event) => void cancel(event)}>
        <p>
          It gets SIGTERM and {allowed === undefined || allowed === null ? 'its grace' : `up to ${String(allowed)} s`} to clean up, then SIGKILL.
          Nothing of it is left when it is called cancelled.
        </p>
        <div class="field">
          <label for="reason">Reason, for the record</label>
          <input id="reason" type="text" maxLength={1000} value={reason} onInput={(event) => setReason(event.currentTarget.value)} />
        </div>
        <div class="field">
          <label for="grace">Shorter grace, in seconds</label>
          <input id="grace" type="text" inputMode="decimal" placeholder={String(allowed ?? '')} value={grace} onInput={(event) => setGrace(event.currentTarget.value)} />
        </div>
        {error && (
          <p class="error" role="alert">
            {error}
          </p>
        )}
        <div class="dialog-actions">
          <button type="button" onClick={onClose}>
            Keep it
          </button>
          <button type="submit" class="danger">
            Cancel the job
          </button>
        </div>
      </form>
    </Dialog>
  )
}
