import { Failure } from './failure.ts';
import type { Quotas } from './records.ts';

/** What an account has of each, or would have more of. */
export interface QuotaUse {
  readonly vms: number;
  readonly vcpus: number;
  readonly memMib: number;
}

/** How each quota is called on the wire, and in a sentence. */
const QUOTAS = {
  vms: { name: 'vms', unit: 'VMs' },
  vcpus: { name: 'vcpus', unit: 'vCPUs' },
  memMib: { name: 'mem_mib', unit: 'MiB of memory' },
} as const satisfies Record<keyof Quotas, { readonly name: string; readonly unit: string }>;

/** What holds for an account: its own quotas, and the server's where it has none. null: no limit. */
export function effectiveLimits(own: Quotas, server: Quotas): Quotas {
  return {
    vms: own.vms ?? server.vms,
    vcpus: own.vcpus ?? server.vcpus,
    memMib: own.memMib ?? server.memMib,
  };
}

/**
 * Why an account that uses `use` may not have `adding` more: a `quota_exceeded` naming which, used and limit; undefined
 * when it may. What is not added to is not looked at, so an account over a lowered quota can still shrink.
 */
export function checkQuota(use: QuotaUse, limits: Quotas, adding: QuotaUse): Failure | undefined {
  for (const which of ['vms', 'vcpus', 'memMib'] as const) {
    const limit = limits[which];
    if (limit === null || adding[which] <= 0 || use[which] + adding[which] <= limit) continue;
    const { name, unit } = QUOTAS[which];
    return new Failure(
      'quota_exceeded',
      `The account uses ${use[which]} of at most ${limit} ${unit}, and this needs ${adding[which]} more; delete VMs or ask the operator for a larger quota.`,
      { details: { quota: name, used: use[which], limit } },
    );
  }
  return undefined;
}
