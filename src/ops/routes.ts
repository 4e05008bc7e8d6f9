import { newId, parseId } from '../base/ids.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import { hostOf, readRouteName, readWakeRules, urlOf, type NewRoute, type Route } from '../model/route.ts';
import { Taken, type NewEvent } from '../store/store.ts';
import type { Caller, Hatch, RouteAt } from './hatch.ts';
import { findVm } from './vms.ts';
import type { World } from './world.ts';

/** The routes part of Hatch. A VM in any state may have some: they stay until they are removed, or their VM is. */
export function routes({
  store,
  settings,
  routeBook,
}: Pick<World, 'store' | 'settings' | 'routeBook'>): Hatch['routes'] {
  const { proxy } = settings;
  const shown = (route: Route): RouteAt => ({ ...route, url: urlOf(route, proxy) });
  const find = async (caller: Caller, id: string): Promise<Route> => {
    const parsed = parseId('rt', id);
    const found = parsed && (await store.routes.get(caller.accountId, parsed));
    if (!found) throw notFound('route', id);
    return found;
  };
  const event = (kind: 'created' | 'removed', route: NewRoute): NewEvent => {
    const host = hostOf(route, proxy);
    const leads = kind === 'created' ? 'leads' : 'does not lead any more';
    return {
      accountId: route.accountId,
      vmId: route.vmId,
      kind: `route.${kind}`,
      message: `${host} ${leads} to port ${route.targetPort}.`,
      data: { route: route.id, host, target_port: route.targetPort },
    };
  };
  return {
    async create(caller, vm, { targetPort, autoWake = true, ...asked }) {
      const { id: vmId, network } = await findVm({ store }, caller, vm);
      if (network === null)
        throw invalid(
          'id',
          `VM ${vm} has no network, so no route can lead to it; it needs "enable_network".`,
        );
      const { newId: make = newId } = caller;
      const routeId = make('rt');
      const again = caller.newId && (await store.routes.get(caller.accountId, routeId));
      if (again) return shown(again);
      const name = readRouteName(asked, proxy.baseDomain);
      const wake = readWakeRules(asked.wake);
      const route = {
        ...name,
        id: routeId,
        accountId: caller.accountId,
        vmId,
        targetPort,
        autoWake,
        wake,
      };
      try {
        const created = await store.routes.create(route, event('created', route));
        routeBook.forget();
        return shown(created);
      } catch (error) {
        throw error instanceof Taken ? nameTaken(error, name.subdomain ?? name.domain) : error;
      }
    },
    get: async (caller, id) => shown(await find(caller, id)),
    async list(caller, { vm, everyone }, page) {
      const vmId = vm === undefined ? undefined : (await findVm({ store }, caller, vm)).id;
      const found = await store.routes.list(
        { accountId: everyone === true ? undefined : caller.accountId, vmId },
        page,
      );
      return found.map(shown);
    },
    async patch(caller, id, { targetPort, autoWake, wake }) {
      const route = await find(caller, id);
      const changed = await store.routes.update(caller.accountId, route.id, {
        ...(targetPort === undefined ? {} : { targetPort }),
        ...(autoWake === undefined ? {} : { autoWake }),
        ...(wake === undefined ? {} : { wake: readWakeRules(wake) }),
      });
      routeBook.forget();
      if (!changed) throw notFound('route', id);
      return shown(changed);
    },
    async delete(caller, id) {
      const route = await find(caller, id);
      const removed = await store.routes.remove(caller.accountId, route.id, event('removed', route));
      routeBook.forget();
      if (!removed) throw notFound('route', id);
    },
  };
}

/** It is not said whose it is: that may be another account. */
function nameTaken({ field, cause }: Taken, value: string): Failure {
  return new Failure('already_exists', `"${field}" cannot be "${value}": a route has it already.`, {
    details: { field, value },
    cause,
  });
}
