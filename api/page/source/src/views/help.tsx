// The keys, on one sheet.
import { signal } from '@preact/signals'
import type { JSX } from 'preact'
import { Dialog } from '../parts/dialog'

export const isHelpShown = signal(false)

const KEYS: [string[], string][] = [
  [['/'], 'Search the jobs'],
  [['j'], 'Next row'],
  [['k'], 'Row before'],
  [['Enter'], 'Open the row'],
  [['Esc'], 'Back to the list; close what is open'],
  [['g', 'n'], 'Now'],
  [['g', 'j'], 'Jobs'],
  [['g', 'w'], 'Workers'],
  [['?'], 'This sheet'],
]

export function Help(): JSX.Element {
  const close = (): void => {
    isHelpShown.value = false
  }
  return (
    <Dialog title="Keys" onClose={close}>
      <dl class="keys">
        {KEYS.map(([keys, words]) => (
          <div key={words}>
            <dt>
              {keys.map((each) => (
                <kbd key={each}>{each}</kbd>
              ))}
            </dt>
            <dd>{words}</dd>
          </div>
        ))}
      </dl>
      <div class="dialog-actions">
        <button type="button" onClick={close}>
          Close
        </button>
      </div>
    </Dialog>
  )
}
