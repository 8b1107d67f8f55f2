// Cancel what fits the filters: first a dry run that says how many and which, then the question, then what came of it.
import type { JSX } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { json, messageOf } from '../http'
import type { Filters } from '../jobs_feed'
import { Question, ReasonField } from '../parts/question'
import { StateIcon, stateWord } from '../parts/state'
import { counted, number, plain, shortId } from '../spelling'
import type { BulkAnswer } from '../types'

const SHOWN = 8

function bodyOf(filters: Filters): Record<string, unknown> {
  const body: Record<string, unknown> = { ...filters }
  if (Object.keys(body).length === 0) body['state'] = 'active'
  return body
}

export function CancelFiltered({ filters, onClose }: { filters: Filters; onClose: () => void }): JSX.Element {
  const [found, setFound] = useState<BulkAnswer | null>(null)
  const [done, setDone] = useState<BulkAnswer | null>(null)
  const [error, setError] = useState('')
  const [reason, setReason] = useState('')
  const send = (more: Record<string, unknown>, headers = {}): Promise<BulkAnswer> =>
    json<BulkAnswer>('/v1/jobs/cancel', { method: 'POST', body: { ...bodyOf(filters), ...more }, headers })
  useEffect(() => {
    send({ dry_run: true }).then(setFound, (refusal) => setError(messageOf(refusal)))
  }, [])

  const words = Object.entries(filters).map(([name, value]) => `${name} ${plain(value)}`)
  const canCancel = found !== null && found.matched > 0 && done === null
  return (
    <Question
      title={done ? 'Cancelled' : 'Cancel jobs'}
      act={canCancel ? `Cancel ${counted(found.matched, 'job')}` : null}
      acting="Cancelling…"
      leave={canCancel ? 'Keep them' : 'Close'}
      send={async () => setDone(await send({ reason }, { Prefer: 'wait=20' }))}
      onClose={onClose}
    >
      <p>{words.length ? `Active jobs with ${words.join(', ')}.` : 'Every active job of this server.'}</p>
      {!found && !error && <p role="status">Counting…</p>}
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      {found && !done && <Found found={found} />}
      {done && (
        <p role="status">
          {counted(done.cancelled, 'job')} cancelled, each proven dead
          {done.stopping ? `; ${number(done.stopping)} still stopping` : ''}
          {done.already_ended ? `; ${number(done.already_ended)} had ended before` : ''}.
        </p>
      )}
      {canCancel && <ReasonField value={reason} onInput={setReason} />}
    </Question>
  )
}

function Found({ found }: { found: BulkAnswer }): JSX.Element {
  if (found.matched === 0) return <p role="status">No active job fits; there is nothing to cancel.</p>
  const counts = new Map<string, number>()
  for (const job of found.jobs) counts.set(job.status, (counts.get(job.status) ?? 0) + 1)
  return (
    <>
      <p role="status" class="found">
        <b>{counted(found.matched, 'job')}</b>{' '}
        {[...counts].map(([state, count]) => (
          <span key={state} class="found-state">
            <StateIcon state={state} /> {number(count)} {stateWord(state)}
          </span>
        ))}
      </p>
      <p class="ids">
        {found.jobs.slice(0, SHOWN).map((job) => (
          <code key={job.job_id}>{shortId(job.job_id)}</code>
        ))}
        {found.matched > SHOWN && <span class="hint">{`and ${number(found.matched - SHOWN)} more`}</span>}
      </p>
    </>
  )
}
