// The processes that run jobs, what they use, and who has to go.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { json, messageOf } from '../http'
import { now } from '../now_feed'
import { note } from '../parts/announce'
import { Age } from '../parts/age'
import { Dialog } from '../parts/dialog'
import { mayOperateAll } from '../session'
import { bytes, coarse, counted, duration, number, percent, plain, shortId } from '../spelling'
import type { Node, Worker } from '../types'

type Asked = { what: 'kill'; worker: Worker } | { what: 'drain' } | { what: 'undrain' } | { what: 'node'; node: Node; drains: boolean }

export function WorkersView(): JSX.Element {
  const [asked, ask] = useState<Asked | null>(null)
  const found = now.value
  if (found === null) return <p class="loading">Waiting for the first measurement…</p>
  const mayKill = mayOperateAll()
  const workers = [...found.workers].sort((a, b) => order(a) - order(b) || numberOf(a) - numberOf(b))
  const cpu = workers.reduce((sum, each) => sum + (each.cpu_percent ?? 0), 0)
  const memory = workers.reduce((sum, each) => sum + (each.memory_bytes ?? 0), 0)
  return (
    <div class="view">
      <div class="view-head">
        <h1>Workers</h1>
        <span class="hint">{`${counted(workers.length, 'process', 'processes')}, ${percent(cpu)} of one core, ${bytes(memory)}`}</span>
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
      <div class="scrolls" tabIndex={0} role="group" aria-label="Table of workers">
        <table class="workers">
          <caption class="unseen">Workers</caption>
          <thead>
            <tr>
              <th scope="col">Worker</th>
              <th scope="col">State</th>
              <th scope="col">Job</th>
              <th scope="col" class="n">CPU</th>
              <th scope="col" class="n">Memory</th>
              <th scope="col" class="n lo">Processes</th>
              <th scope="col" class="n lo">Threads</th>
              <th scope="col" class="n lo">Jobs</th>
              <th scope="col" class="n lo">Age</th>
              <th scope="col" class="lo">Pool</th>
              {found.nodes.length > 0 && <th scope="col">Node</th>}
              {mayKill && <th scope="col"><span class="unseen">Kill</span></th>}
            </tr>
          </thead>
          <tbody>
            {workers.map((worker) => (
              <tr key={`${worker.node ?? ''} ${worker.worker_id}`} {...(worker.job_id ? { 'data-open': `#/jobs/${worker.job_id}`, tabIndex: -1 } : {})}>
                <th scope="row">
                  {plain(worker.worker_id)} <span class="hint lo">pid {worker.pid ?? '–'}</span>
                </th>
                <td>
                  <span class={`worker-state w-${worker.state}`}>{worker.state}</span>
                </td>
                <td class="wide">
                  {worker.job_id && (
                    <a href={`#/jobs/${worker.job_id}`}>
                      {plain(worker.type ?? '')} <code class="id">{shortId(worker.job_id)}</code>
                    </a>
                  )}
                </td>
                <td class="n">
                  <Meter share={worker.cpu_percent ?? 0} words={percent(worker.cpu_percent)} />
                </td>
                <td class="n">{bytes(worker.memory_bytes)}</td>
                <td class="n lo">{worker.processes ?? '–'}</td>
                <td class="n lo">{worker.threads ?? '–'}</td>
                <td class="n lo">{number(worker.jobs)}</td>
                <td class="n lo">{coarse(worker.age_s * 1000)}</td>
                <td class="lo">{plain(worker.pool)}</td>
                {found.nodes.length > 0 && <td>{plain(worker.node ?? '')}</td>}
                {mayKill && (
                  <td class="act">
                    <button type="button" class="small danger-quiet" aria-label={`Kill ${worker.worker_id}…`} onClick={() => ask({ what: 'kill', worker })}>
                      Kill…
                    </button>
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {found.nodes.length > 0 && <Nodes nodes={found.nodes} mayDrain={mayKill} onAsk={ask} />}
      <section class="panel" aria-labelledby="retired-title">
        <h2 id="retired-title">Not reused</h2>
        {found.retired.length === 0 ? (
          <p class="empty">No worker was retired: every job left its worker as it found it.</p>
        ) : (
          <div class="scrolls" tabIndex={0} role="group" aria-label="Table of retired workers">
            <table>
              <thead>
                <tr>
                  <th scope="col">Worker</th>
                  <th scope="col">Why</th>
                  <th scope="col">Last job</th>
                  <th scope="col" class="n">Ago</th>
                </tr>
              </thead>
              <tbody>
                {found.retired.map((each) => (
                  <tr key={`${each.worker_id} ${each.at}`} data-open={`#/jobs/${each.job_id}`} tabIndex={-1}>
                    <th scope="row">{plain(each.worker_id)}</th>
                    <td class="wide wraps">{plain(each.why)}</td>
                    <td>
                      <a href={`#/jobs/${each.job_id}`}>
                        <code class="id">{shortId(each.job_id)}</code>
                      </a>
                    </td>
                    <td class="n">
                      <Age of={each.at} />
                    </td>
                  </tr>
                ))}
              </tbody>
            </table>
          </div>
        )}
      </section>
      {asked && <Question asked={asked} onClose={() => ask(null)} />}
    </div>
  )
}

function order(worker: Worker): number {
  return ['quarantined', 'stopping', 'busy', 'spawning', 'idle', 'leaving'].indexOf(worker.state)
}

function numberOf(worker: Worker): number {
  return Number(worker.worker_id.replace(/\D+/g, '')) || 0
}

function Meter({ share, words }: { share: number; words: string }): JSX.Element {
  return (
    <span class="meter">
      <span class="meter-track lo" aria-hidden="true">
        <span class="meter-fill" style={{ width: `${Math.min(100, share)}%` }} />
      </span>
      {words}
    </span>
  )
}

function Nodes({ nodes, mayDrain, onAsk }: { nodes: Node[]; mayDrain: boolean; onAsk: (asked: Asked) => void }): JSX.Element {
  return (
    <section class="panel" aria-labelledby="nodes-title">
      <h2 id="nodes-title">Nodes</h2>
      <div class="scrolls" tabIndex={0} role="group" aria-label="Table of nodes">
        <table>
          <thead>
            <tr>
              <th scope="col">Node</th>
              <th scope="col">State</th>
              <th scope="col" class="n">Running</th>
              <th scope="col" class="n">Slots</th>
              <th scope="col" class="n lo">Heard</th>
              <th scope="col" class="n lo">Delay</th>
              <th scope="col" class="lo">Detail</th>
              {mayDrain && <th scope="col"><span class="unseen">Drain</span></th>}
            </tr>
          </thead>
          <tbody>
            {nodes.map((node) => (
              <tr key={node.name}>
                <th scope="row">
                  <a href={`#/jobs?node=${encodeURIComponent(node.name)}`}>{plain(node.name)}</a>
                </th>
                <td>
                  <span class={`worker-state w-${node.state}`}>{node.state}</span>
                </td>
                <td class="n">{node.running}</td>
                <td class="n">{node.slots}</td>
                <td class="n lo">{node.heard_s === null ? 'never' : `${duration(node.heard_s * 1000)} ago`}</td>
                <td class="n lo">{node.delay_s === null ? '–' : duration(node.delay_s * 1000)}</td>
                <td class="lo wide wraps">{plain(node.detail)}</td>
                {mayDrain && (
                  <td class="act">
                    <button type="button" class="small danger-quiet" onClick={() => onAsk({ what: 'node', node, drains: node.state !== 'draining' })}>
                      {node.state === 'draining' ? 'Undrain…' : 'Drain…'}
                    </button>
                  </td>
                )}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
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

function Question({ asked, onClose }: { asked: Asked; onClose: () => void }): JSX.Element {
  const [plan] = useState(() => planOf(asked))
  const [error, setError] = useState('')
  const [isBusy, setBusy] = useState(false)
  async function send(): Promise<void> {
    setBusy(true)
    try {
      note(await plan.send())
      onClose()
    } catch (refusal) {
      setError(messageOf(refusal))
      setBusy(false)
    }
  }
  return (
    <Dialog title={plan.title} onClose={onClose}>
      <p>{plan.words}</p>
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      <div class="dialog-actions">
        <button type="button" onClick={onClose}>
          Leave it
        </button>
        <button type="button" class={asked.what === 'undrain' ? 'primary' : 'danger'} disabled={isBusy} onClick={() => void send()}>
          {isBusy ? 'Sending…' : plan.act}
        </button>
      </div>
    </Dialog>
  )
}
