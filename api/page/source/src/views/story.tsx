// What `killable explain` tells of a job.
import type { JSX } from 'preact'
import { plain } from '../spelling'
import type { Story } from '../types'

const WORDS: Record<string, string> = { change: 'What to change' }
const LEFT_OUT = new Set(['tokens', 'printed', 'where'])
/** Output and stack have panels of their own. */

export function StoryPanel({ story }: { story: Story | null }): JSX.Element | null {
  if (story === null) return null
  return (
    <section class="panel story" aria-labelledby="story-title">
      <h2 id="story-title">Story</h2>
      <dl>
        {story.paragraphs
          .filter((each) => !LEFT_OUT.has(each.title))
          .map((each) => (
            <div key={each.title} class={`paragraph ${each.title}`}>
              <dt>{WORDS[each.title] ?? each.title}</dt>
              <dd>
                {plain(each.text)}
                {each.lines.length > 0 && <pre class="text small">{plain(each.lines.join('\n'))}</pre>}
              </dd>
            </div>
          ))}
      </dl>
    </section>
  )
}
