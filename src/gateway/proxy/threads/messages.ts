import type { VmId } from '../../../base/ids.ts';
import type { ErrorCode } from '../../../contract/errors.ts';
import type { Route, RouteName } from '../../../model/route.ts';
import type { Visit } from '../../../ops/visits.ts';
import type { Certificate } from '../door.ts';
import type { ProxyOptions } from '../proxy.ts';

/** What a thread is begun with. */
export interface ThreadData {
  readonly options: ProxyOptions;
  readonly place: { readonly host: string; readonly port: number };
  /** That of the daemon's RouteBook. */
  readonly edition: SharedArrayBuffer;
}

/** Where a visit has come to. */
export interface RemoteArrival {
  readonly ip: string;
  readonly wokenMs: number | undefined;
  /** The guest it has come to, by a number; null where it is not known yet. */
  readonly life: number | null;
}

/** What a thread says; `id` numbers what it asks, and the uses that come of it. */
export type FromThread =
  | { readonly kind: 'listening' }
  /** Its clients have been hung up on, and it may be ended. */
  | { readonly kind: 'closed' }
  | { readonly kind: 'not_listening'; readonly message: string; readonly code: string | undefined }
  | { readonly kind: 'route'; readonly id: number; readonly name: RouteName }
  | { readonly kind: 'arrive'; readonly id: number; readonly route: Route; readonly visit: Visit }
  /** Whoever asked has gone; or the use that came of it is over. */
  | { readonly kind: 'end'; readonly id: number }
  | { readonly kind: 'payload'; readonly id: number }
  | { readonly kind: 'renewed'; readonly id: number; readonly wrong: string | undefined }
  | {
      readonly kind: 'log';
      readonly level: 'warn' | 'error';
      readonly fields: object;
      readonly message: string;
    };

/** What it is told. */
export type ToThread =
  | { readonly kind: 'route'; readonly id: number; readonly route: Route | null }
  | { readonly kind: 'arrived'; readonly id: number; readonly arrival: RemoteArrival }
  | { readonly kind: 'failed'; readonly id: number; readonly failure: RemoteFailure }
  /** A guest that visits have come to, before the first of them is told so; `memory`: of a SharedUses. */
  | {
      readonly kind: 'lent';
      readonly life: number;
      readonly vmId: VmId;
      readonly ip: string;
      readonly memory: SharedArrayBuffer;
    }
  /** A guest's life is over. */
  | { readonly kind: 'over'; readonly life: number }
  | { readonly kind: 'renew'; readonly id: number; readonly certificate: Certificate }
  | { readonly kind: 'close' };

/** A Failure, as it goes from one thread to another. */
export interface RemoteFailure {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details: Readonly<Record<string, unknown>>;
  /** All that is known of it, as text for the log. */
  readonly cause: string | undefined;
}
