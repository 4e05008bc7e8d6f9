import type { Bodies, Body } from './bodies.ts';

/** One call of the API, read and found well-formed. */
export type Call =
  | { readonly name: 'getInfo' | 'getVersion' | 'getVmConfig' | 'getMachine' | 'getMmds' }
  | { readonly name: 'getBalloon' | 'getBalloonStatistics' | 'getHinting' | 'stopHinting' | 'getHotplug' }
  | { readonly name: 'startHinting' }
  | { readonly name: 'delete'; readonly kind: 'drive' | 'network' | 'pmem'; readonly id: string }
  | { [K in Exclude<keyof Bodies, 'hinting'>]: { readonly name: K; readonly body: Body<K> } }[Exclude<
      keyof Bodies,
      'hinting'
    >]
  | { readonly name: 'patchMmds'; readonly body: unknown };

/** A call that was refused: its text goes out as `fault_message`. */
export class Refused extends Error {
  override readonly name = 'Refused';
  readonly status: 400 | 413;
  constructor(message: string, status: 400 | 413 = 400) {
    super(message);
    this.status = status;
  }
}

/** What a call is answered: nothing (204) or a JSON text (200). */
export type Reply = string | void;

export const PRE_BOOT = 'The requested operation is not supported before starting the microVM.';
export const POST_BOOT = 'The requested operation is not supported after starting the microVM.';
