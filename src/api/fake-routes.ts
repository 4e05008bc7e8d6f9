import type { Clock } from '../base/clock.ts';
import { newId } from '../base/ids.ts';
import { Failure, notFound } from '../model/failure.ts';
import { readRouteName, readWakeRules, urlOf, type ProxyPlace, type Route } from '../model/route.ts';
import type { Vm } from '../model/vm.ts';
import type { Caller, Hatch, RouteAt } from '../ops/hatch.ts';
import { pageOf } from './fake-page.ts';

const PROXY: ProxyPlace = { scheme: 'http', port: 9090, baseDomain: 'hatch.localhost' };

/** Routes in memory, with the rules of the real ones on names, accounts and VMs. */
export function fakeRoutes({
  clock,
  own,
}: {
  readonly clock: Clock;
  readonly own: (caller: Caller, idOrName: string) => Vm;
}): { readonly routes: Hatch['routes']; readonly forget: (vm: Pick<Vm, 'id'>) => void } {
  const rows = new Map<string, Route>();
  const shown = (route: Route): RouteAt => ({ ...route, url: urlOf(route, PROXY) });
  const find = (caller: Caller, id: string): Route => {
    const found = rows.get(id);
    if (found?.accountId !== caller.accountId) throw notFound('route', id);
    return found;
  };
  const routes: Hatch['routes'] = {
    create: async (caller, vm, { targetPort, autoWake = true, wake, ...asked }) => {
      const { id: vmId } = own(caller, vm);
      const name = readRouteName(asked, PROXY.baseDomain);
      const taken = [...rows.values()].some(
        ({ subdomain, domain }) => subdomain === name.subdomain && domain === name.domain,
      );
      const field = name.subdomain === null ? 'domain' : 'subdomain';
      if (taken) throw new Failure('already_exists', 'A route has that name.', { details: { field } });
      const route: Route = {
        ...name,
        id: newId('rt'),
        accountId: caller.accountId,
        vmId,
        targetPort,
        autoWake,
        wake: readWakeRules(wake),
        createdAt: clock.now(),
        updatedAt: clock.now(),
      };
      rows.set(route.id, route);
      return shown(route);
    },
    get: async (caller, id) => shown(find(caller, id)),
    list: async (caller, { vm, everyone }, page) => {
      const vmId = vm === undefined ? undefined : own(caller, vm).id;
      const found = [...rows.values()].filter(
        (route) =>
          (everyone === true || route.accountId === caller.accountId) &&
          (vmId === undefined || route.vmId === vmId),
      );
      return pageOf(found, page).map(shown);
    },
    patch: async (caller, id, { targetPort, autoWake, wake }) => {
      const old = find(caller, id);
      const route: Route = {
        ...old,
        targetPort: targetPort ?? old.targetPort,
        autoWake: autoWake ?? old.autoWake,
        wake: wake === undefined ? old.wake : readWakeRules(wake),
        updatedAt: clock.now(),
      };
      rows.set(route.id, route);
      return shown(route);
    },
    delete: async (caller, id) => void rows.delete(find(caller, id).id),
  };
  return {
    routes,
    forget: (vm) => {
      for (const route of rows.values()) if (route.vmId === vm.id) rows.delete(route.id);
    },
  };
}
