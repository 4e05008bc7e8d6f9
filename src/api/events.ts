import { Type } from 'typebox';
import { Event, EventListQuery, VmEventListQuery } from '../contract/event.ts';
import { VmParams } from '../contract/vm.ts';
import type { App } from './app.ts';
import { callerOf, demand, READ } from './auth.ts';
import { answerPage } from './page.ts';
import { followEvents, FOLLOWED, wantsStream, type EventDeps } from './follow-events.ts';
import { presentEvent } from './present.ts';

const tags = ['Inside a VM'];

/** What happened, to one VM or to all of an account. */
export function eventRoutes(app: App, deps: EventDeps): void {
  const { hatch } = deps;
  app.get(
    '/vms/:id/events',
    {
      config: { access: READ, stream: true },
      schema: {
        operationId: 'listVmEvents',
        tags,
        summary: 'List what happened to a VM',
        description: FOLLOWED,
        params: VmParams,
        querystring: VmEventListQuery,
        response: { 200: Type.Array(Event) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const filter = { vm: request.params.id, kind: request.query.kind };
      if (wantsStream(request)) return followEvents(deps, filter, request, reply);
      const events = await answerPage(request, reply, (page) => hatch.events.list(caller, filter, page));
      return events.map(presentEvent);
    },
  );

  app.get(
    '/events',
    {
      config: { access: READ, stream: true },
      schema: {
        operationId: 'listEvents',
        tags,
        summary: 'List what happened in the account',
        description: FOLLOWED,
        querystring: EventListQuery,
        response: { 200: Type.Array(Event) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { kind, all = false } = request.query;
      if (all) demand(caller, 'operator', 'A list of all accounts');
      const filter = { kind, everyone: all };
      if (wantsStream(request)) return followEvents(deps, filter, request, reply);
      const events = await answerPage(request, reply, (page) => hatch.events.list(caller, filter, page));
      return events.map(presentEvent);
    },
  );
}
