// What narrows the list: a search, the states with their counts, and a field for each other filter.
import type { JSX } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { json } from '../http'
import { type Filters, filtersOf, queryOf } from '../jobs_feed'
import { now } from '../now_feed'
import { StateIcon, stateWord } from '../parts/state'
import { route, wantsSearch } from '../router'
import { number } from '../spelling'
import { ACTIVE, STATES } from '../types'

interface Shown {
  filters: Filters
  counts: Record<string, number>
  onChange: (next: URLSearchParams) => void
}

const TYPING_MS = 250
/** A search is asked when the typing rests. */
const FIELDS = ['type', 'tag', 'tenant', 'node', 'code'] as const
const HINTS = { type: 'any', tag: 'name:value', tenant: 'any', node: 'any', code: 'such as exception' }
let knownTypes: string[] = []

export function FilterBar({ filters, counts, onChange }: Shown): JSX.Element {
  const [isOpen, setOpen] = useState(FIELDS.some((name) => filters[name]))
  const [types, setTypes] = useState(knownTypes)
  useEffect(() => {
    if (wantsSearch.peek()) document.getElementById('search')?.focus()
    wantsSearch.value = false
  }, [])
  useEffect(() => {
    json<{ job_types: { name: string }[] }>('/v1/job-types').then(
      (found) => setTypes((knownTypes = found.job_types.map((each) => each.name))),
      () => undefined,
    )
  }, [])
  const set = (name: keyof Filters, value: string): void => {
    // Of now, not of what is drawn: a search that was being typed is sent by the click on a state.
    const next = queryOf(filtersOf(route.peek().query))
    if (value) next.set(name, value)
    else next.delete(name)
    onChange(next)
  }
  const active = ACTIVE.reduce((sum, state) => sum + (counts[state] ?? 0), 0)
  const codes = Object.keys(now.value?.jobs.ended ?? {}).filter((code) => code !== 'completed')
  const nodes = now.value?.nodes.map((node) => node.name) ?? []
  const options: Partial<Record<keyof Filters, string[]>> = { type: types, code: codes, node: nodes }
  const set_ = FIELDS.filter((name) => filters[name]).length

  return (
    <search class="filters">
      <div class="filter-line">
        <Typed id="search" label="Search" kind="search" value={filters.search ?? ''} hint="Search id, type, tag, error" onChange={(value) => set('search', value)} />
        <button type="button" aria-expanded={isOpen} aria-controls="more-filters" onClick={() => setOpen(!isOpen)}>
          Filters{set_ ? ` · ${set_}` : ''}
        </button>
        {queryOf(filters).size > 0 && (
          <button type="button" class="plain" onClick={() => onChange(new URLSearchParams())}>
            Clear
          </button>
        )}
      </div>
      <div class="states" role="group" aria-label="State">
        <Chip words="All" isOn={!filters.state} onClick={() => set('state', '')} />
        <Chip words="active" isOn={filters.state === 'active'} count={active} onClick={() => set('state', 'active')} />
        {STATES.map((state) => (
          <Chip key={state} words={stateWord(state)} state={state} isOn={filters.state === state} count={counts[state] ?? 0} onClick={() => set('state', filters.state === state ? '' : state)} />
        ))}
      </div>
      <div id="more-filters" class="fields" hidden={!isOpen}>
        {FIELDS.map((name) => (
          <Typed key={name} id={`filter-${name}`} label={name[0]?.toUpperCase() + name.slice(1)} value={filters[name] ?? ''} hint={HINTS[name]} options={options[name] ?? []} onChange={(value) => set(name, value)} />
        ))}
      </div>
    </search>
  )
}

interface ChipShown {
  words: string
  state?: string
  isOn: boolean
  count?: number
  onClick: () => void
}

function Chip({ words, state, isOn, count, onClick }: ChipShown): JSX.Element {
  return (
    <button type="button" class="chip" aria-pressed={isOn} onClick={onClick}>
      {state && <StateIcon state={state} />} {words} {count !== undefined && <span class="chip-count">{number(count)}</span>}
    </button>
  )
}

interface TypedShown {
  id: string
  label: string
  kind?: 'text' | 'search'
  value: string
  hint: string
  options?: string[]
  onChange: (value: string) => void
}

function Typed({ id, label, kind = 'text', value, hint, options, onChange }: TypedShown): JSX.Element {
  const [text, setText] = useState(value)
  const timer = useRef(0)
  const sent = useRef(value)
  // What comes back of what was typed here must not undo what was typed since.
  useEffect(() => {
    if (value !== sent.current) setText(value)
    sent.current = value
  }, [value])
  const send = (typed: string): void => {
    clearTimeout(timer.current)
    if (typed === sent.current) return
    sent.current = typed
    onChange(typed)
  }
  useEffect(() => () => clearTimeout(timer.current), [])
  return (
    <div class={kind === 'search' ? 'field search' : 'field'}>
      <label for={id} class={kind === 'search' ? 'unseen' : ''}>
        {label}
      </label>
      <input
        id={id}
        type={kind}
        value={text}
        placeholder={hint}
        autocomplete="off"
        spellcheck={false}
        list={options?.length ? `${id}-options` : undefined}
        onInput={(event) => {
          const typed = event.currentTarget.value
          setText(typed)
          clearTimeout(timer.current)
          timer.current = setTimeout(() => send(typed.trim()), TYPING_MS) as unknown as number
        }}
        onChange={(event) => send(event.currentTarget.value.trim())}
      />
      {options && options.length > 0 && (
        <datalist id={`${id}-options`}>
          {options.map((each) => (
            <option key={each} value={each} />
          ))}
        </datalist>
      )}
    </div>
  )
}
