// The certificate as a picture: each step of an end on one axis of time since the request.
import type { JSX } from 'preact'
import { Facts, Panel } from '../parts/panel'
import { duration, plain } from '../spelling'
import type { Certificate } from '../types'

const STEPS: [string, string][] = [
  ['requested', 'stop requested'],
  ['term_sent', 'SIGTERM sent'],
  ['delivered', 'signal delivered'],
  ['acknowledged', 'job acknowledged'],
  ['kill_sent', 'SIGKILL sent'],
  ['exited', 'process ended'],
  ['reaped', 'exit collected'],
  ['tree_empty', 'tree empty'],
  ['slot_ready', 'next worker ready'],
]

export function CertificatePicture({ certificate, isWhole }: { certificate: Certificate; isWhole: boolean }): JSX.Element | null {
  const at = (name: string): number | null => (typeof certificate[name] === 'number' ? (certificate[name] as number) : null)
  const steps = STEPS.flatMap(([name, words]) => {
    const ms = at(name)
    return ms === null ? [] : [{ name, words, ms }]
  })
  if (steps.length === 0) return null
  const wasAsked = at('requested') !== null
  const most = Math.max(...steps.map((each) => each.ms), 0.001)
  const isProven = at('tree_empty') !== null
  const kill = at('kill_sent')
  const verdict = isProven ? `dead after ${duration(at('tree_empty'))}` : isWhole ? 'NOT PROVEN DEAD' : 'ending…'
  const facts: [string, string][] = []
  const tell = (name: string, words: string, spell: (value: unknown) => string = (value) => plain(value)): void => {
    const value = certificate[name]
    if (value !== undefined && value !== null && value !== '') facts.push([words, spell(value)])
  }
  tell('cause', 'Cause')
  tell('by', 'By')
  tell('grace_s', 'Grace', (value) => `${String(value)} s`)
  tell('exit_signal', 'Ended by')
  tell('exit_code', 'Exit code')
  tell('processes_swept', 'Processes swept')
  tell('proof', 'Proof')
  tell('unproven', 'Unproven')
  return (
    <Panel
      title="Certificate"
      class="certificate"
      aside={
        <span class={`verdict ${isProven ? 'proven' : isWhole ? 'unproven' : 'pending'}`} role="status">
          {verdict}
        </span>
      }
    >
      <table class="axis">
        <caption class="unseen">{wasAsked ? 'Steps of the end, with their time since the request' : 'Steps of the end, with their time since the exit'}</caption>
        <colgroup>
          <col class="axis-step" />
          <col />
          <col class="axis-time" />
        </colgroup>
        <tbody>
          {steps.map((each) => (
            <tr key={each.name} class={`step-${each.name}`}>
              <th scope="row">{each.words}</th>
              <td class="axis-track">
                {each.name === 'term_sent' && <span class="axis-grace" style={{ left: share(each.ms, most), width: `calc(${share((kill ?? at('exited') ?? most) - each.ms, most)})` }} />}
                {each.name !== 'requested' && wasAsked && <span class="axis-way" style={{ width: share(each.ms, most) }} />}
                <span class="axis-dot" style={{ left: share(each.ms, most) }} />
              </td>
              <td class="n">{precise(each.ms)}</td>
            </tr>
          ))}
        </tbody>
      </table>
      <Facts of={facts} class="tight" />
    </Panel>
  )
}

/** Precise enough to tell consecutive steps apart. */
function precise(ms: number): string {
  return ms < 9999.5 ? `${ms.toFixed(1)} ms` : `${(ms / 1000).toFixed(3)} s`
}

function share(ms: number, most: number): string {
  return `${Math.max(0, Math.min(100, (100 * ms) / most)).toFixed(2)}%`
}
