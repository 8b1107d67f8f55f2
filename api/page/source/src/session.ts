// Who is signed in. The key is kept in the tab's sessionStorage and sent in Authorization: never in an address.
import { computed, signal } from '@preact/signals'
import type { Info, Role } from './types'

const KEPT = 'killable.key'
const RANKS: Role[] = ['read', 'submit', 'operate']

export const key = signal(sessionStorage.getItem(KEPT) ?? '')
export const info = signal<Info | null>(null)
/** Why the page asks for a key; null: it does not. */
export const asked = signal<string | null>(null)

export function keep(given: string): void {
  key.value = given
  if (given) sessionStorage.setItem(KEPT, given)
  else sessionStorage.removeItem(KEPT)
}

/** What the key may do; a server without keys lets everyone do everything. An unknown role may read. */
export const role = computed<Role>(() => {
  if (info.value === null) return 'read'
  return info.value.caller ? info.value.caller.role : 'operate'
})
export const seesAll = computed(() => info.value?.caller?.visibility !== 'own')

export function may(needed: Role): boolean {
  return RANKS.indexOf(role.value) >= RANKS.indexOf(needed)
}

/** Whether it may do what concerns the jobs of all keys. */
export function mayOperateAll(): boolean {
  return may('operate') && seesAll.value
}
