// Which view is shown, and with which filters: both stand in the fragment, so a view can be linked to and gone back from.
import { computed, signal } from '@preact/signals'

export interface Route {
  view: 'now' | 'jobs' | 'job' | 'workers'
  id: string
  query: URLSearchParams
}

function read(): Route {
  const [path = '', query = ''] = location.hash.replace(/^#\/?/, '').split('?', 2)
  const [first = '', second = ''] = path.split('/')
  const search = new URLSearchParams(query)
  if (first === 'jobs' && second) return { view: 'job', id: safeDecode(second), query: search }
  if (first === 'jobs' || first === 'workers') return { view: first, id: '', query: search }
  return { view: 'now', id: '', query: search }
}

function safeDecode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

export const route = signal(read())
export const view = computed(() => route.value.view)
addEventListener('hashchange', () => {
  route.value = read()
})

export function go(address: string, replace = false): void {
  if (replace) history.replaceState(null, '', address)
  else location.hash = address
  // At once: who acts next acts on it, and the browser tells only later.
  route.value = read()
}

/** The list as it was left, for the way back from a job. */
export const lastJobs = signal('#/jobs')
route.subscribe((at) => {
  if (at.view === 'jobs') lastJobs.value = location.hash || '#/jobs'
})

/** Set by the key that asks for the search from another view; the search takes it when it is there. */
export const wantsSearch = signal(false)
