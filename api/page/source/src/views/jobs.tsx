// The jobs that fit the filters: live, and as stable as paper. What is new is announced, and shown when asked for.
import type { JSX } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { messageOf } from '../http'
import { JobsFeed, ROWS_MAX, type Row, type Sorting, filtersOf, queryOf } from '../jobs_feed'
import { now } from '../now_feed'
import { Age, Ran, Waited } from '../parts/age'
import { note, say } from '../parts/announce'
import { Track } from '../parts/panel'
import { SortHeader } from '../parts/sort_header'
import { StateBadge } from '../parts/state'
import { go, route } from '../router'
import { mayOperateAll, may } from '../session'
import { counted, number, plain, shortId } from '../spelling'
import { ACTIVE, type JobSummary, type State } from '../types'
import { CancelFiltered } from './cancel_filtered'
import { FilterBar } from './job_filters'

export function JobsView(): JSX.Element {
  const filters = filtersOf(route.value.query)
  const address = queryOf(filters).toString()
  const [feed, setFeed] = useState<JobsFeed | null>(null)
  useEffect(() => {
    const own = new JobsFeed(filters)
    if (feed) {
      own.sorting.value = feed.sorting.peek()
      own.follows.value = feed.follows.peek()
    }
    setFeed(own)
    return () => own.close()
  }, [address])
  const [isCancelling, setCancelling] = useState(false)
  const stoppable = !filters.state || filters.state === 'active' || ACTIVE.includes(filters.state as State)

  return (
    <div class="view">
      <div class="view-head">
        <h1>Jobs</h1>
        {may('operate') && (
          <button type="button" class="danger-quiet" disabled={!stoppable} title={stoppable ? '' : 'Jobs of this state have ended'} onClick={() => setCancelling(true)}>
            {address ? 'Cancel these…' : 'Cancel all…'}
          </button>
        )}
      </div>
      <FilterBar filters={filters} counts={feed?.counts.value ?? {}} onChange={(next) => go(`#/jobs${next.size ? `?${next}` : ''}`)} />
      {feed && <List feed={feed} isFiltered={address !== ''} />}
      {isCancelling && <CancelFiltered filters={filters} onClose={() => setCancelling(false)} />}
    </div>
  )
}

function List({ feed, isFiltered }: { feed: JobsFeed; isFiltered: boolean }): JSX.Element {
  const rows = feed.rows.value
  const fresh = feed.fresh.value
  useEffect(() => {
    if (fresh === 0) return
    const timer = setTimeout(() => say(`${counted(fresh, 'new job')}`), 1500)
    return () => clearTimeout(timer)
  }, [fresh])
  const hasNodes = (now.value?.nodes.length ?? 0) > 0
  // A row draws itself when its job changes; what else changes here draws none of them.
  const drawn = useMemo(() => rows.map((row) => <JobRow key={row.id} row={row} hasNodes={hasNodes} />), [rows, hasNodes])
  const sort = (by: Sorting): void => feed.sort(by)
  const by = feed.sorting.value
  const total = feed.total.value
  const state = feed.state.value

  return (
    <section aria-label="List of jobs">
      <div class="list-head">
        <span class="hint">
          {feed.isLoading.value ? 'Loading…' : `${number(rows.length)} of ${counted(total ?? rows.length, 'job')}`}
          {rows.length < (total ?? 0) && by.key !== 'created' ? ', sorted among these' : ''}
        </span>
        <span class="list-actions">
          {fresh > 0 && (
            <button type="button" class="fresh" onClick={() => feed.arrange()}>
              {`${number(fresh)} new`} <span aria-hidden="true">↑</span>
            </button>
          )}
          <label class="check">
            <input
              type="checkbox"
              checked={feed.follows.value}
              onChange={(event) => {
                feed.follows.value = event.currentTarget.checked
                if (feed.follows.value) feed.arrange()
              }}
            />
            Follow
          </label>
        </span>
      </div>
      {(state === 'refused' || state === 'lost') && feed.why.value && (
        <p class="bar bad" role="alert">
          <span>{feed.why.value}</span>
        </p>
      )}
      {rows.length === 0 && !feed.isLoading.value ? (
        <Nothing isFiltered={isFiltered} />
      ) : (
        <table class={`jobs ${hasNodes ? '' : 'no-nodes'}`}>
          <caption class="unseen">Jobs. Enter opens the focused one; j and k move.</caption>
          <thead>
            <tr>
              <SortHeader name="state" words="State" by={by} onSort={sort} class="c-state" />
              <SortHeader name="type" words="Type" by={by} onSort={sort} class="c-type" />
              <th scope="col" class="c-id">Id</th>
              <th scope="col" class="c-what">What</th>
              <SortHeader name="created" words="Age" by={by} onSort={sort} class="n c-age" />
              <SortHeader name="waited" words="Waited" by={by} onSort={sort} class="n c-waited" />
              <SortHeader name="ran" words="Ran" by={by} onSort={sort} class="n c-ran" />
              <SortHeader name="tokens" words="Tokens" by={by} onSort={sort} class="n c-tokens" />
              <th scope="col" class="c-worker">{hasNodes ? 'Node' : 'Worker'}</th>
            </tr>
          </thead>
          <tbody>{drawn}</tbody>
        </table>
      )}
      <Older feed={feed} />
    </section>
  )
}

function JobRow({ row, hasNodes }: { row: Row; hasNodes: boolean }): JSX.Element {
  const job = row.job.value
  const address = `#/jobs/${job.job_id}`
  return (
    <tr
      data-open={address}
      tabIndex={-1}
      class={row.isGone.value ? 'gone' : ''}
      onClick={(event) => {
        // A link does its own; text that is being marked is no click.
        if ((event.target as HTMLElement).closest('a') || String(getSelection())) return
        go(address)
      }}
    >
      <td class="c-state">
        <StateBadge state={job.state} />
      </td>
      <td class="c-type">{plain(job.type)}</td>
      <th scope="row" class="c-id">
        <a href={address} aria-label={`Job ${shortId(job.job_id)}, ${job.type}, ${job.state}`}>
          <code class="id">{shortId(job.job_id)}</code>
        </a>
      </th>
      <td class="c-what">
        <What job={job} isGone={row.isGone.value} />
      </td>
      <td class="n c-age">
        <Age of={job.created_at} />
      </td>
      <td class="n c-waited">
        <Waited job={job} />
      </td>
      <td class="n c-ran">
        <Ran job={job} />
      </td>
      <td class="n c-tokens">{job.tokens ? number(job.tokens) : ''}</td>
      <td class="c-worker">{hasNodes ? plain(job.node ?? '') : (job.worker_id ?? '')}</td>
    </tr>
  )
}

/** The most telling of what a job has: how it failed, how far it is, where it waits, what it is called. */
function What({ job, isGone }: { job: JobSummary; isGone: boolean }): JSX.Element {
  const tags = Object.entries(job.tags)
  return (
    <span class="what">
      {isGone && <span class="tag quiet">not of this list any more</span>}
      {job.error && job.state !== 'cancelled' && (
        <span class="code" title={plain(job.error.message)}>
          <b>{job.error.code}</b> {plain(job.error.message)}
        </span>
      )}
      {job.state === 'queued' && job.queue && <span class="hint">{place(job.queue)}</span>}
      {job.state === 'running' && job.progress && <Share of={job.progress} />}
      {job.attempt > 1 && <span class="tag">attempt {job.attempt}</span>}
      {tags.map(([name, value]) => (
        <span class="tag" key={name} title={`${plain(name)}=${plain(value)}`}>
          {plain(name)}={plain(value)}
        </span>
      ))}
    </span>
  )
}

function place({ position, detail }: NonNullable<JobSummary['queue']>): string {
  if (detail) return plain(detail)
  if (position === null) return 'waits'
  return position === 0 ? 'next' : `${number(position)} ahead`
}

export function Share({ of }: { of: NonNullable<JobSummary['progress']> }): JSX.Element {
  const { done, total } = of
  const unit = plain(of.unit ?? '')
  if (typeof done !== 'number') return <></>
  if (typeof total !== 'number' || total <= 0) return <span class="hint">{`${number(done)} ${unit}`}</span>
  const share = Math.max(0, Math.min(100, Math.floor((100 * done) / total)))
  const words = `${number(done)} of ${number(total)} ${unit}`.trim()
  return (
    <span class="share" title={words}>
      <span role="progressbar" aria-valuenow={share} aria-valuemin={0} aria-valuemax={100} aria-label={words}>
        <Track share={share} kind="" />
      </span>
      <span class="share-words">{share} %</span>
    </span>
  )
}

function Nothing({ isFiltered }: { isFiltered: boolean }): JSX.Element {
  return (
    <div class="nothing">
      <p>{isFiltered ? 'No job fits these filters.' : 'There are no jobs yet.'}</p>
      {isFiltered ? (
        <button type="button" onClick={() => go('#/jobs')}>
          Clear the filters
        </button>
      ) : (
        mayOperateAll() && (
          <p class="hint">
            <code>killable submit TYPE</code> starts one.
          </p>
        )
      )}
    </div>
  )
}

function Older({ feed }: { feed: JobsFeed }): JSX.Element | null {
  const [isBusy, setBusy] = useState(false)
  if (!feed.hasOlder.value) {
    return feed.rows.value.length >= ROWS_MAX ? <p class="hint list-end">The list ends here; a filter finds older ones.</p> : null
  }
  async function load(): Promise<void> {
    setBusy(true)
    try {
      await feed.older()
    } catch (error) {
      note(messageOf(error), true)
    }
    setBusy(false)
  }
  return (
    <p class="list-end">
      <button type="button" disabled={isBusy} onClick={() => void load()}>
        {isBusy ? 'Loading…' : 'Show older'}
      </button>
    </p>
  )
}

