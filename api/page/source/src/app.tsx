// The frame of the page: who is signed in, the views, what holds for all of them.
import { signal } from '@preact/signals'
import type { JSX } from 'preact'
import { useEffect } from 'preact/hooks'
import { onKey } from './keyboard'
import { json, messageOf } from './http'
import * as feed from './now_feed'
import { Announcements, say } from './parts/announce'
import { route } from './router'
import { asked, info } from './session'
import type { Info } from './types'
import { Help, isHelpShown } from './views/help'
import { JobView } from './views/job'
import { JobsView } from './views/jobs'
import { NowView } from './views/now'
import { SignIn } from './views/signin'
import { ConnectionBar, TopBar } from './views/top_bar'
import { WorkersView } from './views/workers'

const trouble = signal('')
const AGAIN_MS = 2000

/** Find out who we are; a server that does not answer is asked again. */
export async function begin(): Promise<void> {
  try {
    info.value = await json<Info>('/v1/info')
    trouble.value = ''
    asked.value = null
    feed.open()
  } catch (error) {
    if (asked.value !== null) return
    trouble.value = messageOf(error)
    setTimeout(() => void begin(), AGAIN_MS)
  }
}

const TITLES = { now: 'Now', jobs: 'Jobs', job: 'Job', workers: 'Workers' }

export function App(): JSX.Element {
  useEffect(() => {
    void begin()
    addEventListener('keydown', onKey)
    return () => removeEventListener('keydown', onKey)
  }, [])
  const at = route.value
  useEffect(() => {
    document.title = `${TITLES[at.view]} · killable`
    say(TITLES[at.view])
    feed.tellWorkers(at.view === 'workers')
  }, [at.view, at.id])
  useEffect(() => {
    if (asked.value !== null) feed.close()
  }, [asked.value])

  if (asked.value !== null) {
    return (
      <>
        <SignIn why={asked.value} onDone={() => void begin()} />
        <Announcements />
      </>
    )
  }
  if (info.value === null) {
    return (
      <main class="loading">
        <p role="status">{trouble.value || 'Loading…'}</p>
      </main>
    )
  }
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => skipTo(event)}>
        Skip to the content
      </a>
      <TopBar />
      <ConnectionBar />
      <main id="main" tabIndex={-1}>
        {at.view === 'now' && <NowView />}
        {at.view === 'jobs' && <JobsView />}
        {at.view === 'job' && <JobView key={at.id} id={at.id} />}
        {at.view === 'workers' && <WorkersView />}
      </main>
      {isHelpShown.value && <Help />}
      <Announcements />
    </>
  )
}

/** The fragment is the view's: it is not changed for this. */
function skipTo(event: Event): void {
  event.preventDefault()
  document.getElementById('main')?.focus()
}
