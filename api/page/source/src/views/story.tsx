// What `killable explain` tells of a job.
import type { JSX } from 'preact'
import { Panel } from '../parts/panel'
import { plain } from '../spelling'
import type { Story } from '../types'

const LEFT_OUT = new Set(['input', 'tokens', 'printed', 'where', 'change'])
/** Input, output and stack have panels of their own; what to change is told last, with its setting apart. */

export function StoryPanel({ story, isActive }: { story: Story | null; isActive: boolean }): JSX.Element | null {
  if (story === null) return null
  const { setting, words } = story.change
  return (
    <Panel title="Story" class="story">
      <dl>
        {story.paragraphs
          .filter((each) => !LEFT_OUT.has(each.title))
          .map((each) => (
            <div key={each.title} class={`paragraph ${each.title}`}>
              <dt>{each.title}</dt>
              <dd>
                {plain(each.text)}
                {each.lines.length > 0 && <pre class="text small">{plain(each.lines.join('\n'))}</pre>}
              </dd>
            </div>
          ))}
        {!isActive && (
          <div class="paragraph change">
            <dt>What to change</dt>
            <dd>
              {setting && <b>{plain(setting)} </b>}
              {setting ? plain(words) : `Nothing. ${plain(words)}`}
            </dd>
          </div>
        )}
      </dl>
    </Panel>
  )
}
