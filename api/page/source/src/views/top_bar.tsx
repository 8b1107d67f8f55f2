// The bar at the top, and a bar below it when something is wrong with the connection.
import type { JSX } from 'preact'
import { useEffect } from 'preact/hooks'
import { aheadMs, second } from '../clock'
import { signOut } from '../http'
import { connection, degraded, isOutdated, now, restarted, tryAgain } from '../now_feed'
import { note } from '../parts/announce'
import { lastJobs, route } from '../router'
import { info, key, role } from '../session'
import { coarse, moment } from '../spelling'
import { nextTheme, theme } from '../theme'
import { isHelpShown } from './help'

const CLOCK_OFF_MS = 30_000
/** A clock that is off by less confuses nobody. */
const THEME_WORDS = { system: 'as the system', light: 'light', dark: 'dark' }

export function TopBar(): JSX.Element {
  const at = route.value.view
  return (
    <header class="top">
      <a class="brand" href="#/" aria-label="killable: now">
        <span class="brand-mark" aria-hidden="true" />
        <span class="brand-name">killable</span>
      </a>
      <nav aria-label="Views">
        <a href="#/" aria-current={at === 'now' ? 'page' : undefined}>
          Now
        </a>
        <a href={at === 'job' ? lastJobs.value : '#/jobs'} aria-current={at === 'jobs' || at === 'job' ? 'page' : undefined}>
          Jobs
        </a>
        <a href="#/workers" aria-current={at === 'workers' ? 'page' : undefined}>
          Workers
        </a>
      </nav>
      <div class="top-right">
        <Live />
        <Who />
        <button
          type="button"
          class="plain icon-button"
          onClick={nextTheme}
          aria-label={`Theme: ${THEME_WORDS[theme.value]}. Change it`}
          title={`Theme: ${THEME_WORDS[theme.value]}`}
        >
          <svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">
            <circle cx="8" cy="8" r="5.5" fill="none" stroke="currentColor" stroke-width="1.4" />
            <path d={theme.value === 'light' ? '' : theme.value === 'dark' ? 'M8 2.5a5.5 5.5 0 0 1 0 11a5.5 5.5 0 0 1 0-11z' : 'M8 2.5a5.5 5.5 0 0 1 0 11z'} fill="currentColor" />
          </svg>
        </button>
        <button type="button" class="plain icon-button" aria-label="Keys" title="Keys (?)" onClick={() => (isHelpShown.value = true)}>
          ?
        </button>
        {key.value && (
          <button type="button" class="plain sign-out" onClick={() => signOut('You have signed out.')}>
            Sign out
          </button>
        )}
      </div>
    </header>
  )
}

function Live(): JSX.Element {
  const { state } = connection.value
  const isLive = state === 'live'
  const words = isLive ? (now.value?.server.draining ? 'draining' : 'live') : state === 'refused' ? 'refused' : 'connecting'
  const title = now.value ? `killable ${now.value.server.version}, up for ${coarse(now.value.server.uptime_s * 1000)}` : ''
  return (
    <span class={`live ${isLive ? (now.value?.server.draining ? 'draining' : 'on') : 'off'}`} title={title}>
      <i aria-hidden="true" /> {words}
    </span>
  )
}

function Who(): JSX.Element | null {
  const caller = info.value?.caller
  if (!caller) return null
  const own = caller.visibility === 'own' ? ', own jobs only' : ''
  return (
    <span class="who" title={`Signed in with the key ${caller.name}: ${role.value}${own}`}>
      <b>{caller.name}</b> <span class="role">{role.value}</span>
    </span>
  )
}

/** Says what is wrong, and how it goes on. */
export function ConnectionBar(): JSX.Element {
  const { state, why, againAt } = connection.value
  useEffect(() => {
    if (!restarted.value) return
    note(`The server was started anew at ${moment(restarted.value)}; this page goes on with it.`)
  }, [restarted.value])
  if (state === 'lost') second.value
  const wait = Math.max(0, Math.ceil((againAt - Date.now()) / 1000))
  return (
    <div role="status" class="bars">
      {state === 'lost' && (
        <p class="bar bad">
          <span>
            {why} What is shown is from before. Trying again {wait > 0 ? `in ${wait} s` : 'now'}.
          </span>
          <button type="button" onClick={tryAgain}>
            Try now
          </button>
        </p>
      )}
      {state === 'refused' && (
        <p class="bar bad">
          <span>{why}</span>
        </p>
      )}
      {isOutdated.value && (
        <p class="bar">
          <span>The server has another version now.</span>
          <button type="button" onClick={() => location.reload()}>
            Load its page
          </button>
        </p>
      )}
      {now.value?.server.draining && (
        <p class="bar warn">
          <span>The server is draining: it accepts no new jobs.</span>
        </p>
      )}
      {state === 'live' &&
        degraded.value.map((trouble) => (
          <p class="bar warn" key={trouble}>
            <span>Degraded: {trouble}</span>
          </p>
        ))}
      {Math.abs(aheadMs.value) > CLOCK_OFF_MS && (
        <p class="bar">
          <span>
            The clock of this machine is {coarse(Math.abs(aheadMs.value))} {aheadMs.value > 0 ? 'behind' : 'ahead of'} the server's. Ages
            and durations are by the server's.
          </span>
        </p>
      )}
    </div>
  )
}
