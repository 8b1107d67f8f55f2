// The processes that run jobs, what they use, and who has to go.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { json } from '../http'
import { now, usedBy } from '../now_feed'
import { note } from '../parts/announce'
import { Age } from '../parts/age'
import { Panel, Track } from '../parts/panel'
import { Question } from '../parts/question'
import { Table } from '../parts/table'
import { mayOperateAll } from '../session'
import { bytes, coarse, counted, duration, number, percent, plain, shortId } from '../spelling'
import type { Node, Worker } from '../types'

type Asked = { what: 'kill'; worker: Worker } | { what: 'drain' } | { what: 'undrain' } | { what: 'node'; node: Node; drains: boolean }

export function WorkersView(): JSX.Element {
  const [asked, ask] = useState<Asked | null>(null)
  const found = now.value
  if (!found?.workers) return <p class="loading">Waiting for the first measurement…</p>
  const mayKill = mayOperateAll()
  const workers = [...found.workers].sort((a, b) => order(a) - order(b) || numberOf(a) - numberOf(b))
  const retired = found.retired ?? []
  const used = usedBy(found.pools)
  return (
    <div class="view">
      <div class="view-head">
        <h1>Workers</h1>
        <span class="hint">{`${counted(workers.length, 'process', 'processes')}, ${percent(used.cpu)} of one core, ${bytes(used.memory)}`}</span>
        {mayKill &&
          (found.server.draining ? (
            <button type="button" onClick={() => ask({ what: 'undrain' })}>
              Accept jobs again…
            </button>
          ) : (
            <button type="button" class="danger-quiet" onClick={() => ask({ what: 'drain' })}>
              Drain…
            </button>
          ))}
      </div>
      <Table
        of="workers"
        class="workers"
        rows={workers}
        keyOf={(worker) => `${worker.node ?? ''} ${worker.worker_id}`}
        linkOf={(worker) => worker.job_id && `#/jobs/${worker.job_id}`}
        columns={[
          { words: 'Worker', cell: (worker) => <>{plain(worker.worker_id)} <span class="hint lo">pid {worker.pid ?? '–'}</span></> },
          { words: 'State', kind: 'marks', cell: (worker) => <Standing state={worker.state} /> },
          { words: 'Job', kind: 'wide cuts', cell: (worker) => worker.job_id && <JobLink id={worker.job_id} type={worker.type ?? ''} /> },
          { words: 'CPU', kind: 'n', cell: (worker) => <Meter percents={worker.cpu_percent ?? null} /> },
          { words: 'Memory', kind: 'n', cell: (worker) => bytes(worker.memory_bytes) },
          { words: 'Processes', kind: 'n lo', cell: (worker) => worker.processes ?? '–' },
          { words: 'Threads', kind: 'n lo', cell: (worker) => worker.threads ?? '–' },
          { words: 'Jobs', kind: 'n lo', cell: (worker) => number(worker.jobs) },
          { words: 'Age', kind: 'n lo', cell: (worker) => coarse(worker.age_s * 1000) },
          { words: 'Pool', kind: 'lo', cell: (worker) => plain(worker.pool) },
          found.nodes.length > 0 && { words: 'Node', kind: 'mid', cell: (worker) => plain(worker.node ?? '') },
          mayKill && {
            words: 'Kill',
            kind: 'act',
            cell: (worker) => <AskButton words="Kill…" label={`Kill ${worker.worker_id}…`} onClick={() => ask({ what: 'kill', worker })} />,
          },
        ]}
      />
      {found.nodes.length > 0 && <Nodes nodes={found.nodes} mayDrain={mayKill} onAsk={ask} />}
      <Panel title="Not reused">
        {retired.length === 0 ? (
          <p class="empty">No worker was retired: every job left its worker as it found it.</p>
        ) : (
          <Table
            of="retired workers"
            rows={retired}
            keyOf={(each) => `${each.worker_id} ${each.at}`}
            linkOf={(each) => `#/jobs/${each.job_id}`}
            columns={[
              { words: 'Worker', cell: (each) => plain(each.worker_id) },
              { words: 'Why', kind: 'wide wraps', cell: (each) => plain(each.why) },
              { words: 'Last job', cell: (each) => <JobLink id={each.job_id} type="" /> },
              { words: 'Ago', kind: 'n', cell: (each) => <Age of={each.at} /> },
            ]}
          />
        )}
      </Panel>
      {asked && <Asking asked={asked} onClose={() => ask(null)} />}
    </div>
  )
}

function order(worker: Worker): number {
  return ['quarantined', 'stopping', 'busy', 'spawning', 'idle', 'leaving'].indexOf(worker.state)
}

function numberOf(worker: Worker): number {
  return Number(worker.worker_id.replace(/\D+/g, '')) || 0
}

/** How a worker or a node is. */
function Standing({ state }: { state: string }): JSX.Element {
  return <span class={`standing w-${state}`}>{state}</span>
}

function JobLink({ id, type }: { id: string; type: string }): JSX.Element {
  return (
    <a href={`#/jobs/${id}`}>
      {plain(type)} <code class="id">{shortId(id)}</code>
    </a>
  )
}

function Meter({ percents }: { percents: number | null }): JSX.Element {
  return (
    <span class="meter">
      <Track share={percents ?? 0} kind="lo" />
      <span>{percent(percents)}</span>
    </span>
  )
}

function AskButton({ words, label, onClick }: { words: string; label: string; onClick: () => void }): JSX.Element {
  return (
    <button type="button" class="small danger-quiet" aria-label={label} onClick={onClick}>
      {words}
    </button>
  )
}

function Nodes({ nodes, mayDrain, onAsk }: { nodes: Node[]; mayDrain: boolean; onAsk: (asked: Asked) => void }): JSX.Element {
  return (
    <Panel title="Nodes">
      <Table
        of="nodes"
        rows={nodes}
        keyOf={(node) => node.name}
        columns={[
          { words: 'Node', cell: (node) => <a href={`#/jobs?node=${encodeURIComponent(node.name)}`}>{plain(node.name)}</a> },
          { words: 'State', cell: (node) => <Standing state={node.state} /> },
          { words: 'Running', kind: 'n', cell: (node) => node.running },
          { words: 'Slots', kind: 'n', cell: (node) => node.slots },
          { words: 'Heard', kind: 'n lo', cell: (node) => (node.heard_s === null ? 'never' : `${duration(node.heard_s * 1000)} ago`) },
          { words: 'Delay', kind: 'n lo', cell: (node) => (node.delay_s === null ? '–' : duration(node.delay_s * 1000)) },
          { words: 'Detail', kind: 'lo wide wraps', cell: (node) => plain(node.detail) },
          mayDrain && {
            words: 'Drain',
            kind: 'act',
            cell: (node) => {
              const drains = node.state !== 'draining'
              const words = drains ? 'Drain' : 'Undrain'
              return <AskButton words={`${words}…`} label={`${words} ${plain(node.name)}…`} onClick={() => onAsk({ what: 'node', node, drains })} />
            },
          },
        ]}
      />
    </Panel>
  )
}

interface Plan {
  title: string
  words: string
  act: string
  send: () => Promise<string>
}

function planOf(asked: Asked): Plan {
  switch (asked.what) {
    case 'kill': {
      const { worker } = asked
      const job = worker.job_id ? `Its job, ${plain(worker.type ?? '')} ${shortId(worker.job_id)}, is cancelled by the operator.` : 'It runs no job.'
      return {
        title: `Kill ${worker.worker_id}?`,
        words: `${job} The pool starts another worker in its place.`,
        act: 'Kill the worker',
        send: async () => {
          const gone = await json<Worker>(`/v1/workers/${encodeURIComponent(worker.worker_id)}?reason=${encodeURIComponent('from the page')}`, { method: 'DELETE' })
          return gone.state === 'gone' ? `${worker.worker_id} is dead.` : `${worker.worker_id} is still stopping.`
        },
      }
    }
    case 'drain':
      return {
        title: 'Drain the server?',
        words: 'It accepts no new jobs. What it has already accepted goes on to its end.',
        act: 'Drain',
        send: async () => {
          const left = await json<{ running: number; queued: number }>('/v1/drain', { method: 'POST' })
          return `Draining: ${counted(left.running + left.queued, 'job')} left.`
        },
      }
    case 'undrain':
      return {
        title: 'Accept jobs again?',
        words: 'The drain is taken back: new jobs are accepted at once.',
        act: 'Accept jobs',
        send: async () => {
          await json('/v1/drain', { method: 'DELETE' })
          return 'New jobs are accepted again.'
        },
      }
    case 'node': {
      const { node, drains } = asked
      return {
        title: drains ? `Drain ${plain(node.name)}?` : `Give ${plain(node.name)} jobs again?`,
        words: drains ? 'It gets no more jobs. What runs there goes on to its end.' : 'It gets jobs again at once.',
        act: drains ? 'Drain the node' : 'Undrain the node',
        send: async () => {
          await json(`/v1/nodes/${encodeURIComponent(node.name)}/drain`, { method: drains ? 'POST' : 'DELETE' })
          return drains ? `${plain(node.name)} is draining.` : `${plain(node.name)} gets jobs again.`
        },
      }
    }
  }
}

function Asking({ asked, onClose }: { asked: Asked; onClose: () => void }): JSX.Element {
  const [plan] = useState(() => planOf(asked))
  async function send(): Promise<void> {
    note(await plan.send())
    onClose()
  }
  return (
    <Question title={plan.title} act={plan.act} leave="Leave it" kind={asked.what === 'undrain' ? 'primary' : 'danger'} send={send} onClose={onClose}>
      <p>{plan.words}</p>
    </Question>
  )
}
