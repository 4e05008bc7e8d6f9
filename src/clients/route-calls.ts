import type { Deleted } from '../contract/common.ts';
import type { CreateRoute, PatchRoute, Route } from '../contract/route.ts';
import { seg, type CallOptions, type ListOptions, type Transport } from './transport.ts';

/** The calls about routes. */
export function routeCalls(transport: Transport) {
  return {
    create: (vm: string, request: CreateRoute, { signal }: CallOptions = {}): Promise<Route> =>
      transport.json({ method: 'POST', path: `/vms/${seg(vm)}/routes`, body: request, signal }),
    /** Of one VM, newest first. */
    ofVm: (vm: string, { limit, after, signal }: ListOptions = {}): Promise<readonly Route[]> =>
      transport.list({ method: 'GET', path: `/vms/${seg(vm)}/routes`, query: { limit, after }, signal }),
    /** Newest first. `all`: of every account (operators). */
    list: ({ all, limit, after, signal }: ListOptions & { readonly all?: boolean | undefined } = {}): Promise<
      readonly Route[]
    > => transport.list({ method: 'GET', path: '/routes', query: { all, limit, after }, signal }),
    get: (id: string, { signal }: CallOptions = {}): Promise<Route> =>
      transport.json({ method: 'GET', path: `/routes/${seg(id)}`, signal }),
    update: (id: string, patch: PatchRoute, { signal }: CallOptions = {}): Promise<Route> =>
      transport.json({ method: 'PATCH', path: `/routes/${seg(id)}`, body: patch, signal }),
    delete: (id: string, { signal }: CallOptions = {}): Promise<Deleted> =>
      transport.json({ method: 'DELETE', path: `/routes/${seg(id)}`, signal }),
  };
}
