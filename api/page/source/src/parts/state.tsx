// A state as a shape, a colour and a word: no colour says something alone.
import type { JSX } from 'preact'
import type { State } from '../types'

const SHAPES: Record<string, JSX.Element> = {
  queued: <circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.6" stroke-dasharray="2.2 1.6" />,
  running: <path d="M3.2 2v8l6.6-4z" fill="currentColor" />,
  stopping: <path d="M2 2h8L6 6l4 4H2l4-4z" fill="currentColor" />,
  completed: <path d="M2 6.4 4.8 9 10 3.2" fill="none" stroke="currentColor" stroke-width="1.9" />,
  failed: <path d="m2.6 2.6 6.8 6.8m0-6.8L2.6 9.4" fill="none" stroke="currentColor" stroke-width="1.9" />,
  cancelled: <path d="M6 1.6a4.4 4.4 0 1 0 0 8.8 4.4 4.4 0 0 0 0-8.8zM3 3l6 6" fill="none" stroke="currentColor" stroke-width="1.6" />,
  timed_out: <path d="M6 1.6a4.4 4.4 0 1 0 0 8.8 4.4 4.4 0 0 0 0-8.8zM6 3.6V6l1.8 1.2" fill="none" stroke="currentColor" stroke-width="1.5" />,
}

export function StateIcon({ state }: { state: string }): JSX.Element {
  const shape = SHAPES[state] ?? <circle cx="6" cy="6" r="3" fill="currentColor" />
  return (
    <svg class={`icon s-${state}`} viewBox="0 0 12 12" width="12" height="12" aria-hidden="true">
      {shape}
    </svg>
  )
}

export function stateWord(state: string): string {
  return state.replace('_', ' ')
}

export function StateBadge({ state }: { state: State | string }): JSX.Element {
  return (
    <span class="state">
      <StateIcon state={state} />
      <span>{stateWord(state)}</span>
    </span>
  )
}
