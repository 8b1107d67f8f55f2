// Dark or light: as the system is, or as chosen here.
import { signal } from '@preact/signals'

const KEPT = 'killable.theme'
export type Theme = 'system' | 'light' | 'dark'
const NEXT: Record<Theme, Theme> = { system: 'light', light: 'dark', dark: 'system' }

function kept(): Theme {
  const found = localStorage.getItem(KEPT)
  return found === 'light' || found === 'dark' ? found : 'system'
}

export const theme = signal<Theme>(kept())
theme.subscribe((chosen) => {
  if (chosen === 'system') delete document.documentElement.dataset['theme']
  else document.documentElement.dataset['theme'] = chosen
})

export function nextTheme(): void {
  theme.value = NEXT[theme.value]
  localStorage.setItem(KEPT, theme.value)
}
