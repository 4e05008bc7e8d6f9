import { Type } from 'typebox';
import { Deleted, ListQuery } from '../contract/common.ts';
import {
  CreateRoute,
  PatchRoute,
  Route,
  RouteListQuery,
  RouteParams,
  type WakeRules,
} from '../contract/route.ts';
import { VmParams } from '../contract/vm.ts';
import type * as model from '../model/route.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, demand, READ, WRITE } from './auth.ts';
import { answerPage } from './page.ts';
import { presentRoute } from './present-route.ts';

const tags = ['Routes'];

/** Host names that lead to guests. */
export function routeRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.post(
    '/vms/:id/routes',
    {
      config: { idempotent: true, access: WRITE, errors: ['already_exists'] },
      schema: {
        operationId: 'createRoute',
        tags,
        summary: 'Lead a host name to a port of a VM',
        description:
          'In whatever state the VM is; it needs a network. With neither `subdomain` nor `domain` a subdomain is made.',
        params: VmParams,
        body: CreateRoute,
        response: { 201: Route },
      },
    },
    async (request, reply) => {
      const { subdomain, domain, target_port: targetPort, auto_wake: autoWake, wake } = request.body;
      const asked = { subdomain, domain, targetPort, autoWake, wake: wake && readWake(wake) };
      const route = await hatch.routes.create(callerOf(request), request.params.id, asked);
      reply.code(201).header('location', `/routes/${route.id}`);
      return presentRoute(route);
    },
  );

  app.get(
    '/vms/:id/routes',
    {
      config: { access: READ },
      schema: {
        operationId: 'listVmRoutes',
        tags,
        summary: 'List a VM’s routes',
        params: VmParams,
        querystring: ListQuery,
        response: { 200: Type.Array(Route) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { id: vm } = request.params;
      const found = await answerPage(request, reply, (page) => hatch.routes.list(caller, { vm }, page));
      return found.map(presentRoute);
    },
  );

  app.get(
    '/routes',
    {
      config: { access: READ },
      schema: {
        operationId: 'listRoutes',
        tags,
        summary: 'List routes',
        querystring: RouteListQuery,
        response: { 200: Type.Array(Route) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const { all = false } = request.query;
      if (all) demand(caller, 'operator', 'A list of all accounts');
      const found = await answerPage(request, reply, (page) =>
        hatch.routes.list(caller, { everyone: all }, page),
      );
      return found.map(presentRoute);
    },
  );

  app.get(
    '/routes/:id',
    {
      config: { access: READ },
      schema: {
        operationId: 'getRoute',
        tags,
        summary: 'See a route',
        params: RouteParams,
        response: { 200: Route },
      },
    },
    async (request) => presentRoute(await hatch.routes.get(callerOf(request), request.params.id)),
  );

  app.patch(
    '/routes/:id',
    {
      config: { access: WRITE },
      schema: {
        operationId: 'patchRoute',
        tags,
        summary: 'Change a route',
        description: 'Its port and what wakes its VM. Another name is another route.',
        params: RouteParams,
        body: PatchRoute,
        response: { 200: Route },
      },
    },
    async (request) => {
      const { target_port: targetPort, auto_wake: autoWake, wake } = request.body;
      const patch = { targetPort, autoWake, wake: wake && readWake(wake) };
      return presentRoute(await hatch.routes.patch(callerOf(request), request.params.id, patch));
    },
  );

  app.delete(
    '/routes/:id',
    {
      config: { access: WRITE },
      schema: {
        operationId: 'deleteRoute',
        tags,
        summary: 'Remove a route',
        description: 'Its name is free at once, for anyone.',
        params: RouteParams,
        response: { 200: Deleted },
      },
    },
    async (request) => {
      await hatch.routes.delete(callerOf(request), request.params.id);
      return { status: 'deleted' as const };
    },
  );
}

function readWake({ daily_budget: dailyBudget, methods, paths, cidrs }: WakeRules): model.WakeRules {
  return { methods, paths, cidrs, dailyBudget };
}
