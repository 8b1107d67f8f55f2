// A part of a view, with its title: a region for those who do not see it.
import type { ComponentChildren, JSX } from 'preact'
import { useId } from 'preact/hooks'

interface Shown {
  title: string
  hint?: string
  /** What stands at the end of the title's line. */
  aside?: ComponentChildren
  class?: string
  children: ComponentChildren
}

export function Panel({ title, hint, aside, class: kind, children }: Shown): JSX.Element {
  const named = useId()
  return (
    <section class={`panel ${kind ?? ''}`} aria-labelledby={named}>
      <div class="panel-head">
        <h2 id={named}>{title}</h2>
        {hint && <span class="hint">{hint}</span>}
        {aside && <div class="aside">{aside}</div>}
      </div>
      {children}
    </section>
  )
}

/** Names and values. */
export function Facts({ of, class: kind }: { of: [string, ComponentChildren][]; class?: string }): JSX.Element {
  return (
    <dl class={`facts ${kind ?? ''}`}>
      {of.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  )
}

/** Text that scrolls by itself, by keys, too. */
export function Text({ label, children }: { label: string; children: ComponentChildren }): JSX.Element {
  return (
    <pre class="text" tabIndex={0} role="group" aria-label={label}>
      {children}
    </pre>
  )
}

/** A share of something as a bar; what it says in words stands beside it. */
export function Track({ share, kind }: { share: number; kind: string }): JSX.Element {
  return (
    <span class={`track ${kind}`} aria-hidden="true">
      <span style={{ width: `${Math.max(0, Math.min(100, share))}%` }} />
    </span>
  )
}
