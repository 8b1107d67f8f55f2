// The end of a text that grows as fast as it likes: joined ten times a second, and bounded in what is kept.
// Plain DOM: a drawing adds to one text node, however much has come.
import { plain } from '../spelling'

const BLOCK_CHARS = 1 << 10
/** Text is laid out again by blocks of about this size, which end at a line: at each drawing. */
const LINE_CHARS = 4 << 10
/** A line of this size goes on in another block, behind a word. */
const WORD_CHARS = 32 << 10
/** And a word of this one anywhere. */
const KEPT_CHARS = 192 << 10
/** Some 2,000 lines: more than anybody scrolls back through in a browser; all of it can be downloaded. */
const NEAR_PX = 24
const DRAWN_MS = 100
/** Nobody reads faster, and each drawing has the browser lay out and paint the whole box. */

export class Tail {
  private waiting: string[] = []
  private waitingChars = 0
  private kept = 0
  private block: HTMLElement | null = null
  private blockChars = 0
  private frame = 0
  private timer = 0
  private drawn = -Infinity
  private isAtEnd = true
  private onCut: () => void
  private onAway: (isAway: boolean) => void

  constructor(
    readonly box: HTMLElement,
    told: { onCut: () => void; onAway: (isAway: boolean) => void },
  ) {
    this.onCut = told.onCut
    this.onAway = told.onAway
    box.addEventListener('scroll', this.onScroll, { passive: true })
  }

  private onScroll = (): void => {
    const isAtEnd = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < NEAR_PX
    if (isAtEnd !== this.isAtEnd) {
      this.isAtEnd = isAtEnd
      this.onAway(!isAtEnd)
    }
  }

  push(text: string): void {
    this.waiting.push(text)
    this.waitingChars += text.length
    // What would be cut at once is not kept until a frame, which a hidden tab does not draw.
    if (this.waitingChars > 2 * KEPT_CHARS) {
      const joined = this.waiting.join('').slice(-KEPT_CHARS)
      this.waiting = [joined]
      this.waitingChars = joined.length
      this.onCut()
    }
    if (this.frame || this.timer) return
    const early = this.drawn + DRAWN_MS - performance.now()
    if (early <= 0) this.askForFrame()
    else this.timer = setTimeout(this.askForFrame, early)
  }

  private askForFrame = (): void => {
    this.timer = 0
    this.frame = requestAnimationFrame(() => this.draw())
  }

  private draw(): void {
    this.frame = 0
    this.drawn = performance.now()
    const text = plain(this.waiting.join(''))
    this.waiting = []
    this.waitingChars = 0
    let from = 0
    while (from < text.length) {
      if (this.block === null || this.blockChars >= BLOCK_CHARS) {
        from = this.endBlock(text, from)
        continue // A block without a line's end got a piece: its size is looked at again before the next.
      }
      const part = text.slice(from, from + BLOCK_CHARS)
      this.append(part)
      from += part.length
    }
    this.cut()
    if (this.isAtEnd) this.box.scrollTop = this.box.scrollHeight
  }

  /** Finish the open block where a line or a word ends, and begin another. Returns where the text goes on. */
  private endBlock(text: string, from: number): number {
    let next = from
    if (this.block !== null) {
      const near = text.slice(from, from + LINE_CHARS)
      const line = near.indexOf('\n')
      const word = this.blockChars < LINE_CHARS ? -1 : near.indexOf(' ')
      if (line >= 0) {
        this.append(near.slice(0, line))
        next = from + line + 1
      } else if (word >= 0) {
        next = from + word + 1
        this.append(text.slice(from, next))
      } else if (this.blockChars < WORD_CHARS) {
        next = Math.min(text.length, from + BLOCK_CHARS)
        this.append(text.slice(from, next))
        return next
      }
    }
    this.block = document.createElement('div')
    this.blockChars = 0
    this.box.append(this.block)
    return next
  }

  /** A text for each drawing of a slow job would be twenty thousand of them, and 25 MB: a block has one. */
  private append(text: string): void {
    const last = this.block?.lastChild
    if (last instanceof Text) last.appendData(text)
    else this.block?.append(text)
    this.blockChars += text.length
    this.kept += text.length
  }

  private cut(): void {
    while (this.kept > KEPT_CHARS && this.box.childElementCount > 1) {
      const first = this.box.firstElementChild as HTMLElement
      this.kept -= (first.textContent ?? '').length
      first.remove()
      this.onCut()
    }
  }

  toEnd(): void {
    this.isAtEnd = true
    this.box.scrollTop = this.box.scrollHeight
    this.onAway(false)
  }

  clear(): void {
    this.box.textContent = ''
    this.waiting = []
    this.waitingChars = 0
    this.kept = 0
    this.block = null
    this.blockChars = 0
  }

  close(): void {
    cancelAnimationFrame(this.frame)
    clearTimeout(this.timer)
    this.box.removeEventListener('scroll', this.onScroll)
  }
}
