import { createParser, type EventSourceMessage } from 'eventsource-parser';
import type { Event } from '../contract/event.ts';
import { seg, type CallOptions, type ListOptions, type Transport } from './transport.ts';

/** Which events. */
interface EventChoice {
  readonly kind?: string | undefined;
  /** Of every account (operators). */
  readonly all?: boolean | undefined;
}

/** The calls about what happened, and happens. */
export function eventCalls(transport: Transport) {
  return {
    /** Newest first. `all`: of every account (operators). */
    list: ({ kind, all, limit, after, signal }: ListOptions & EventChoice = {}): Promise<readonly Event[]> =>
      transport.list({ method: 'GET', path: '/events', query: { kind, all, limit, after }, signal }),
    /**
     * Events as they happen, from now on or after the one with the id `since`: of one VM (`vm`: its id or name), of the account, or of
     * all (`all`; operators). Ends when the server closes; throws Unreachable when it is cut off: go on with the id of the last one.
     */
    async *follow({
      vm,
      kind,
      all,
      since,
      signal,
    }: CallOptions &
      EventChoice & {
        readonly vm?: string | undefined;
        readonly since?: string | undefined;
      } = {}): AsyncGenerator<Event> {
      const came: EventSourceMessage[] = [];
      const parser = createParser({ onEvent: (message) => came.push(message) });
      const pieces = transport.follow({
        method: 'GET',
        path: vm === undefined ? '/events' : `/vms/${seg(vm)}/events`,
        query: { kind, all },
        headers: {
          accept: 'text/event-stream',
          ...(since === undefined ? {} : { 'last-event-id': since }),
        },
        signal,
      });
      for await (const piece of pieces) {
        parser.feed(piece);
        // What the server sends is the contract's.
        for (const { data } of came.splice(0)) yield JSON.parse(data) as Event;
      }
    },
  };
}
