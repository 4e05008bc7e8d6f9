import { createParser, type EventSourceMessage } from 'eventsource-parser';
import type { Event } from '../contract/event.ts';
import { seg, type CallOptions, type ListOptions, type Transport } from './transport.ts';

/** The calls about what happened, and happens. */
export function eventCalls(transport: Transport) {
  return {
    /** Newest first. `all`: of every account (operators). */
    list: ({
      kind,
      all,
      limit,
      after,
      signal,
    }: ListOptions & {
      readonly kind?: string | undefined;
      readonly all?: boolean | undefined;
    } = {}): Promise<readonly Event[]> =>
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
    }: CallOptions & {
      readonly vm?: string | undefined;
      readonly kind?: string | undefined;
      readonly all?: boolean | undefined;
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
