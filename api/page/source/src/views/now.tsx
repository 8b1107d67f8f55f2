// The server at a glance: what waits, what runs, what fails, and how it came to be so.
import type { JSX } from 'preact'
import { useEffect, useState } from 'preact/hooks'
import { JobsFeed } from '../jobs_feed'
import { endedEarly, history, now } from '../now_feed'
import { Chart, type Series } from '../parts/chart'
import { Age } from '../parts/age'
import { Panel, Track } from '../parts/panel'
import { StateIcon } from '../parts/state'
import { Table } from '../parts/table'
import { bytes, coarse, counted, duration, number, percent, plain, shortId } from '../spelling'
import { type Now, type PoolNow, type State, stateOfCode } from '../types'

const SPANS = [60, 300, 900]
const LATEST = 8

export function NowView(): JSX.Element {
  const found = now.value
  if (found === null) return <p class="loading">Waiting for the first measurement…</p>
  return (
    <div class="view">
      <h1 class="unseen">Now</h1>
      <Tiles now={found} />
      <Charts />
      <div class="columns">
        <div>
          <Pools pools={found.pools} />
          <Waiting now={found} />
        </div>
        <div>
          {found.jobs.ended && <Endings ended={found.jobs.ended} />}
          <LatestFailures />
        </div>
      </div>
    </div>
  )
}

function Tiles({ now: { jobs, queue, pools, server } }: { now: Now }): JSX.Element {
  const busy = pools.reduce((sum, each) => sum + each.busy, 0)
  // Idle workers beyond these are spares: they start no job before another has ended.
  const slots = pools.reduce((sum, each) => sum + each.workers, 0)
  let all = 0
  const ended = { completed: 0, cancelled: 0, failed: 0, timed_out: 0 } as Record<State, number>
  for (const [code, count] of Object.entries(jobs.ended ?? {})) {
    ended[stateOfCode(code)] += count
    all += count
  }
  return (
    <section aria-label="In numbers">
      <ul class="tiles">
        <Tile words="Queued" value={number(jobs.queued)} state="queued" link="#/jobs?state=queued">
          {queue.oldest_s === null || jobs.queued === 0 ? 'nothing waits' : `the oldest for ${coarse(queue.oldest_s * 1000)}`}
        </Tile>
        <Tile words="Running" value={number(jobs.running)} state="running" link="#/jobs?state=running">
          {`${busy} of ${counted(slots, 'slot')} busy`}
        </Tile>
        <Tile words="Stopping" value={number(jobs.stopping)} state="stopping" link="#/jobs?state=stopping">
          {jobs.stopping ? 'being ended' : 'none'}
        </Tile>
        <Tile words="Failed" value={jobs.ended === null ? '–' : number(ended.failed)} state="failed" link="#/jobs?state=failed">
          {jobs.ended === null ? 'known to keys that see all jobs' : `${ended.timed_out ? `and ${number(ended.timed_out)} timed out, ` : ''}of ${number(all)} ended`}
        </Tile>
        <Tile words="Server CPU" value={percent(server.cpu_percent)} link="#/workers">
          {`${bytes(server.memory_bytes)}, up ${coarse(server.uptime_s * 1000)}`}
        </Tile>
      </ul>
    </section>
  )
}

interface TileShown {
  words: string
  value: string
  state?: string
  link: string
  children: string
}

function Tile({ words, value, state, link, children }: TileShown): JSX.Element {
  return (
    <li>
      <a class="tile" href={link}>
        <span class="tile-words">
          {state && <StateIcon state={state} />} {words}
        </span>
        <span class={`tile-value ${value === '0' ? 'none' : ''}`}>{value}</span>
        <span class="tile-more">{children}</span>
      </a>
    </li>
  )
}

function Charts(): JSX.Element {
  const [chosenS, setSpan] = useState(300)
  const all = history.value
  const end = all[all.length - 1]?.at ?? 0
  // A page that was just opened has not much to show yet: that is drawn large.
  const spanS = Math.max(60, Math.min(chosenS, end - (all[0]?.at ?? end)))
  const points = all.filter((each) => each.at > end - spanS)
  const times = points.map((each) => each.at)
  const names = [...new Set(points.flatMap((each) => Object.keys(each.pools)))].sort()
  const ofPools = (value: (pool: NonNullable<(typeof points)[0]['pools'][string]>) => number | null): Series[] =>
    names.map((name) => ({
      name: plain(name),
      values: points.map((each) => {
        const pool = each.pools[name]
        return pool ? value(pool) : null
      }),
    }))
  const shared = { times, spanS }
  return (
    <Panel
      title="Over time"
      hint={`last ${Math.round(spanS / 60)} min`}
      aside={
        <div class="choices" role="group" aria-label="Span">
          {SPANS.map((each) => (
            <button key={each} type="button" aria-pressed={chosenS === each} onClick={() => setSpan(each)}>
              {each / 60} min
            </button>
          ))}
        </div>
      }
    >
      <div class="charts">
        <Chart {...shared} title="Jobs" spell={(v) => number(Math.round(v))} atLeast={4} stepped
          series={[{ name: 'running', values: points.map((p) => p.running) }, { name: 'queued', values: points.map((p) => p.queued) }]} />
        <Chart {...shared} title="CPU" spell={percent} atLeast={100}
          series={[...ofPools((p) => p.cpu), { name: 'server', values: points.map((p) => p.serverCpu) }]} />
        <Chart {...shared} title="Memory" spell={bytes} atLeast={64 * 2 ** 20}
          series={[...ofPools((p) => p.memory), { name: 'server', values: points.map((p) => p.serverMemory) }]} />
        <Chart {...shared} title="Busy workers" spell={(v) => number(Math.round(v))} atLeast={2} stepped series={ofPools((p) => p.busy)} />
        <Chart {...shared} title="Recovery" spell={duration} atLeast={20} stepped series={ofPools((p) => p.recovery)} />
        <Chart {...shared} title="Workers ended early" spell={(v) => number(Math.round(v))} atLeast={2} stepped series={ofPools((p) => p.endedEarly)} />
      </div>
    </Panel>
  )
}

function Pools({ pools }: { pools: PoolNow[] }): JSX.Element {
  return (
    <Panel title="Pools">
      <Table
        of="pools"
        rows={pools}
        keyOf={(pool) => pool.name}
        columns={[
          { words: 'Pool', cell: (pool) => <>{plain(pool.name)}{pool.state && pool.state !== 'ready' && <span class="tag bad">{pool.state}</span>}</> },
          {
            words: 'Busy',
            kind: 'n',
            cell: (pool) => <span title={`${pool.busy} of at most ${counted(pool.workers, 'job')} at once`}>{`${pool.busy}/${pool.workers}`}</span>,
          },
          { words: 'Idle', kind: 'n', cell: (pool) => pool.idle },
          { words: 'Starting', kind: 'n lo', cell: (pool) => pool.starting },
          { words: 'Queued', kind: 'n', cell: (pool) => pool.queued },
          {
            words: 'Recovery',
            kind: 'n lo',
            cell: ({ recovery_ms: { last, p50 } }) => <span title={`median ${duration(p50)}`}>{duration(last)}</span>,
          },
          {
            words: 'Ended early',
            kind: 'n',
            cell: (pool) => <span title={reasons(pool.replaced)}>{number(endedEarly(pool))}</span>,
          },
          { words: 'Zygote restarts', kind: 'n lo', cell: (pool) => <span title="of the process that its workers are forked from">{pool.restarts}</span> },
        ]}
      />
    </Panel>
  )
}

/** Why workers have ended, the most frequent reason first. */
function reasons(replaced: Record<string, number>): string {
  const found = Object.entries(replaced).filter(([, count]) => count > 0)
  return found.sort(([, a], [, b]) => b - a).map(([why, count]) => `${count} ${why.replace('_', ' ')}`).join(', ')
}

function Waiting({ now: { queue } }: { now: Now }): JSX.Element {
  const types = Object.entries(queue.by_type).sort(([, a], [, b]) => b - a)
  return (
    <Panel title="Queue by type" aside={queue.depth > 0 && <span class="hint">{`${counted(queue.depth, 'job')}, ${bytes(queue.bytes)} of input`}</span>}>
      {types.length === 0 ? (
        <p class="empty">Nothing waits.</p>
      ) : (
        <Bars of={types} link={(type) => `#/jobs?state=queued&type=${encodeURIComponent(type)}`} kind={() => 'queued'} />
      )}
    </Panel>
  )
}

function Endings({ ended }: { ended: Record<string, number> }): JSX.Element {
  const codes = Object.entries(ended)
    .filter(([code]) => code !== 'completed')
    .sort(([, a], [, b]) => b - a)
  return (
    <Panel title="Endings by code" aside={<span class="hint">{`${number(ended['completed'] ?? 0)} completed since the start`}</span>}>
      {codes.length === 0 ? (
        <p class="empty">Every job that has ended has completed.</p>
      ) : (
        <Bars of={codes} link={(code) => `#/jobs?code=${encodeURIComponent(code)}`} kind={stateOfCode} />
      )}
    </Panel>
  )
}

interface BarsShown {
  of: [string, number][]
  link: (name: string) => string
  kind: (name: string) => string
}

function Bars({ of, link, kind }: BarsShown): JSX.Element {
  const most = Math.max(...of.map(([, count]) => count), 1)
  return (
    <ul class="bars-list">
      {of.map(([name, count]) => (
        <li key={name}>
          <a href={link(name)}>
            <span class="bar-name">{plain(name)}</span>
            <Track share={Math.max(1, (100 * count) / most)} kind={`s-${kind(name)}`} />
            <span class="bar-count">{number(count)}</span>
          </a>
        </li>
      ))}
    </ul>
  )
}

function LatestFailures(): JSX.Element {
  const [feed, setFeed] = useState<JobsFeed | null>(null)
  useEffect(() => {
    const own = new JobsFeed({ state: 'failed' }, LATEST)
    own.follows.value = true
    setFeed(own)
    return () => own.close()
  }, [])
  const rows = feed?.rows.value.slice(0, LATEST) ?? []
  return (
    <Panel title="Latest failures" aside={<a class="more" href="#/jobs?state=failed">All</a>}>
      {rows.length === 0 ? (
        <p class="empty">{feed?.isLoading.value === false ? 'No job has failed.' : 'Loading…'}</p>
      ) : (
        <ul class="failures">
          {rows.map(({ id, job }) => (
            <li key={id}>
              <a href={`#/jobs/${id}`}>
                <StateIcon state={job.value.state} />
                <span class="failure-type">{plain(job.value.type)}</span>
                <code class="id">{shortId(id)}</code>
                <span class="failure-why">
                  <b>{job.value.error?.code}</b> {plain(job.value.error?.message ?? '')}
                </span>
                <span class="failure-age">{job.value.ended_at && <Age of={job.value.ended_at} />}</span>
              </a>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  )
}
