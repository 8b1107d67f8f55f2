// A small chart of one measure over the last minutes: a line for each series, its scale, what it is now.
import type { JSX } from 'preact'
import { useState } from 'preact/hooks'
import { counted } from '../spelling'

export interface Series {
  name: string
  values: (number | null)[]
}

interface Drawn {
  title: string
  /** Seconds since 1970 of each value. */
  times: number[]
  series: Series[]
  spell: (value: number) => string
  /** The least that the scale reaches, so that noise is not drawn as high as the chart. */
  atLeast: number
  /** Whether each value holds until the next. */
  stepped?: boolean
  spanS: number
}

const WIDTH = 300
const HEIGHT = 64

export function Chart({ title, times, series, spell, atLeast, stepped, spanS }: Drawn): JSX.Element {
  const [pointed, point] = useState<number | null>(null)
  const end = times[times.length - 1] ?? 0
  const x = (index: number): number => WIDTH * (1 - (end - (times[index] ?? end)) / spanS)
  const most = Math.max(atLeast, ...series.map((each) => each.values.reduce<number>((a, b) => Math.max(a, b ?? 0), 0)))
  const y = (value: number): number => HEIGHT - 1 - (value / most) * (HEIGHT - 6)
  const at = pointed ?? times.length - 1
  const shown = series.map((each) => ({ name: each.name, value: each.values[at] ?? null }))
  const words = shown.map((each) => `${each.name} ${each.value === null ? 'none' : spell(each.value)}`).join(', ')

  function find(event: { currentTarget: SVGSVGElement; clientX: number }): void {
    const box = event.currentTarget.getBoundingClientRect()
    const moment = end - spanS * (1 - (event.clientX - box.left) / box.width)
    let best = times.length - 1
    for (let index = times.length - 1; index >= 0; index--) {
      if (Math.abs((times[index] ?? 0) - moment) <= Math.abs((times[best] ?? 0) - moment)) best = index
    }
    point(best >= 0 ? best : null)
  }

  return (
    <figure class="chart">
      <figcaption>
        <span class="chart-title">{title}</span>
        <span class="chart-most">{`to ${spell(most)}`}</span>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        preserveAspectRatio="none"
        role="img"
        aria-label={`${title} over the last ${counted(Math.round(spanS / 60), 'minute')}. Now: ${words}`}
        onPointerMove={find}
        onPointerLeave={() => point(null)}
      >
        <path class="grid" d={`M0 ${HEIGHT / 2}H${WIDTH}M0 ${HEIGHT - 0.5}H${WIDTH}`} />
        {series[0] && <path class="area c0" d={area(series[0].values, x, y, stepped ?? false)} />}
        {series.map((each, index) => (
          <path key={each.name} class={`line c${index % 6}`} d={path(each.values, x, y, stepped ?? false)} />
        ))}
        {pointed !== null && <path class="pointer" d={`M${x(pointed)} 0V${HEIGHT}`} />}
      </svg>
      <div class="chart-legend" aria-hidden="true">
        {shown.map((each, index) => (
          <span key={each.name}>
            <i class={`key c${index % 6}`} />
            {each.name} <b>{each.value === null ? '–' : spell(each.value)}</b>
          </span>
        ))}
        {pointed !== null && <span class="chart-when">{`${Math.round(end - (times[pointed] ?? end))} s ago`}</span>}
      </div>
    </figure>
  )
}

/** Below the first line, as far as it has no gap. */
function area(values: (number | null)[], x: (i: number) => number, y: (v: number) => number, stepped: boolean): string {
  const first = values.findIndex((each) => each !== null)
  if (first < 0 || values.slice(first).includes(null)) return ''
  return `${path(values, x, y, stepped)}V${HEIGHT}H${x(first).toFixed(1)}Z`
}

function path(values: (number | null)[], x: (i: number) => number, y: (v: number) => number, stepped: boolean): string {
  let drawn = ''
  let isDown = false
  let before = 0
  for (let index = 0; index < values.length; index++) {
    const value = values[index]
    if (value === null || value === undefined) {
      isDown = false
      continue
    }
    const [px, py] = [x(index).toFixed(1), y(value).toFixed(1)]
    if (!isDown) drawn += `M${px} ${py}`
    else drawn += stepped && value !== before ? `H${px}V${py}` : `L${px} ${py}`
    isDown = true
    before = value
  }
  return drawn
}
