// A question before something that cannot be taken back. The browser's own dialog: focus stays in it, Esc leaves it.
import type { ComponentChildren, JSX } from 'preact'
import { useEffect, useId, useRef } from 'preact/hooks'

interface Shown {
  title: string
  onClose: () => void
  children: ComponentChildren
  wide?: boolean
}

export function Dialog({ title, onClose, children, wide }: Shown): JSX.Element {
  const own = useRef<HTMLDialogElement>(null)
  const named = useId()
  useEffect(() => {
    const before = document.activeElement as HTMLElement | null
    own.current?.showModal()
    return () => before?.focus?.()
  }, [])
  return (
    <dialog
      ref={own}
      class={wide ? 'wide' : ''}
      aria-labelledby={named}
      onCancel={(event) => {
        event.preventDefault()
        onClose()
      }}
      onClick={(event) => {
        if (event.target === own.current) onClose()
      }}
    >
      <div class="dialog-body">
        <h2 id={named}>{title}</h2>
        {children}
      </div>
    </dialog>
  )
}
