import type * as contract from '../contract/route.ts';
import type { WakeRules } from '../model/route.ts';
import type { RouteAt } from '../ops/hatch.ts';
import { rfc3339 } from './present.ts';

/** A route as the API shows it, with where the proxy answers for it. */
export function presentRoute(of: RouteAt): contract.Route {
  return {
    id: of.id,
    vm_id: of.vmId,
    ...(of.subdomain === null ? { domain: of.domain } : { subdomain: of.subdomain }),
    url: of.url,
    target_port: of.targetPort,
    auto_wake: of.autoWake,
    ...(of.wake === null ? {} : { wake: presentWake(of.wake) }),
    created_at: rfc3339(of.createdAt),
    updated_at: rfc3339(of.updatedAt),
  };
}

function presentWake({ methods, paths, cidrs, dailyBudget }: WakeRules): contract.WakeRules {
  return {
    ...(methods === undefined ? {} : { methods: [...methods] }),
    ...(paths === undefined ? {} : { paths: [...paths] }),
    ...(cidrs === undefined ? {} : { cidrs: [...cidrs] }),
    ...(dailyBudget === undefined ? {} : { daily_budget: dailyBudget }),
  };
}
