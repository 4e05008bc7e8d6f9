import type * as common from '../contract/common.ts';
import type { StoredQuery } from '../contract/snapshot.ts';
import type * as contract from '../contract/vm.ts';
import { invalid } from '../model/failure.ts';
import { isTimeZone, type KeepAwake } from '../model/keep-awake.ts';
import type { IdlePolicy } from '../model/vm.ts';
import type { CreateVm, PatchVm, Wait } from '../ops/hatch.ts';

/** How long `?wait=` waits where the caller does not say, in seconds. */
const DEFAULT_WAIT_SECONDS = 60;

/** A create request as the operations take it. */
export function readCreateVm(body: contract.CreateVm): CreateVm {
  return {
    name: body.name,
    snapshotId: body.snapshot_id,
    imageId: body.image_id,
    templateId: body.template_id,
    vcpuCount: body.vcpu_count,
    memMib: body.mem_mib,
    diskMib: body.disk_mib,
    bootArgs: body.boot_args,
    enableNetwork: body.enable_network,
    guestIp: body.guest_ip,
    guestMac: body.guest_mac?.toLowerCase(),
    userData: body.user_data,
    sshAuthorizedKeys: body.ssh_authorized_keys,
    idle: body.idle && readIdle(body.idle),
    autostart: body.autostart,
    labels: body.labels,
  };
}

/** A change of a VM as the operations take it; what was not said stays unsaid. */
export function readPatchVm(body: contract.PatchVm): PatchVm {
  return {
    ...(body.name === undefined ? {} : { name: body.name }),
    ...(body.labels === undefined ? {} : { labels: body.labels }),
    ...(body.idle === undefined ? {} : { idle: body.idle && readIdle(body.idle) }),
    ...(body.autostart === undefined ? {} : { autostart: body.autostart }),
    ...(body.vcpu_count === undefined ? {} : { vcpuCount: body.vcpu_count }),
    ...(body.mem_mib === undefined ? {} : { memMib: body.mem_mib }),
    ...(body.disk_mib === undefined ? {} : { diskMib: body.disk_mib }),
  };
}

/** An idle policy, or a part of one, as the operations take it; what was not said is absent. */
export function readIdle(idle: common.IdlePatch): Partial<IdlePolicy> {
  return {
    ...(idle.timeout_seconds === undefined ? {} : { timeoutSeconds: idle.timeout_seconds }),
    ...(idle.action === undefined ? {} : { action: idle.action }),
    ...(idle.connections === undefined ? {} : { connections: idle.connections }),
    ...(idle.pinned === undefined ? {} : { pinned: idle.pinned }),
    ...(idle.cpu_below === undefined ? {} : { cpuBelow: idle.cpu_below }),
    ...(idle.keep_awake === undefined ? {} : { keepAwake: idle.keep_awake.map(readKeepAwake) }),
  };
}

function readKeepAwake(
  { days, from, to, time_zone: timeZone = 'UTC' }: NonNullable<common.IdlePatch['keep_awake']>[number],
  at: number,
): KeepAwake {
  const field = `idle.keep_awake.${at}`;
  if (!isTimeZone(timeZone))
    throw invalid(
      `${field}.time_zone`,
      `"${field}.time_zone" must be a time zone such as Europe/Berlin or UTC; "${timeZone}" is none that is known here.`,
    );
  if (from === to)
    throw invalid(
      `${field}.to`,
      `"${field}.to" must be another time than "from"; 00:00 to 24:00 is the whole day, and "pinned" is always.`,
    );
  return { days: [...new Set(days)], from, to, timeZone };
}

/** What `?wait=` and `&timeout=` ask for; undefined when they ask for nothing. Throws for a timeout without a wait. */
export function readWait(query: contract.WaitQuery): Wait | undefined {
  if (query.wait === undefined) {
    if (query.timeout !== undefined)
      throw invalid('timeout', 'The query parameter "timeout" goes with "wait=ready" or "wait=running".');
    return undefined;
  }
  return { until: query.wait, timeoutMs: (query.timeout ?? DEFAULT_WAIT_SECONDS) * 1000 };
}

/** As `readWait`, for `?wait=stored`: how many milliseconds. */
export function readStoredWait({ wait, timeout }: StoredQuery): number | undefined {
  if (wait === undefined && timeout !== undefined)
    throw invalid('timeout', 'The query parameter "timeout" goes with "wait=stored".');
  return wait === undefined ? undefined : (timeout ?? DEFAULT_WAIT_SECONDS) * 1000;
}

/** `key=value` filters as labels. Throws when one key is asked for with two values, which no VM can have. */
export function readLabelFilter(filters: readonly string[]): Record<string, string> {
  const labels = new Map<string, string>();
  for (const filter of filters) {
    const mark = filter.indexOf('=');
    const key = filter.slice(0, mark);
    const value = filter.slice(mark + 1);
    if (labels.has(key) && labels.get(key) !== value)
      throw invalid('label', `The query asks for two values of the label "${key}"; a VM has only one.`);
    labels.set(key, value);
  }
  return Object.fromEntries(labels);
}
