import type * as account from '../contract/account.ts';
import type * as common from '../contract/common.ts';
import type * as event from '../contract/event.ts';
import type * as image from '../contract/image.ts';
import type * as key from '../contract/key.ts';
import type * as snapshot from '../contract/snapshot.ts';
import type * as metrics from '../contract/metrics.ts';
import type * as template from '../contract/template.ts';
import type * as vm from '../contract/vm.ts';
import type { Account, ApiKey, HatchEvent, Image, Quotas, Template } from '../model/records.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Transfer } from '../ops/archive/archive.ts';
import { OPERATION_NAMES, type IdlePolicy, type Vm } from '../model/vm.ts';
import type { VmMetrics } from '../ops/hatch.ts';

/** Milliseconds since 1970 as RFC 3339 in UTC; whole seconds without a fraction. */
export function rfc3339(ms: number): string {
  return new Date(ms).toISOString().replace('.000Z', 'Z');
}

/**
 * A VM as the API shows it: fields without a value are absent, and so is everything that is the host's own (process, paths,
 * layers) or secret (user data, keys).
 */
export function presentVm(of: Vm): vm.Vm {
  const ready = of.state === 'running' && of.readyAt !== null;
  return {
    id: of.id,
    image_id: of.imageId,
    state: of.state,
    vcpu_count: of.vcpuCount,
    mem_mib: of.memMib,
    ...(of.network
      ? { guest_ip: of.network.ip, guest_mac: of.network.mac, ssh_port: of.network.sshPort }
      : {}),
    enable_network: of.network !== null,
    created_at: rfc3339(of.createdAt),
    updated_at: rfc3339(of.updatedAt),
    ...given('name', of.name),
    ...given('template_id', of.templateId),
    ...given('parent_snapshot_id', of.parentSnapshotId),
    ...given('disk_mib', of.diskMib),
    ...given('boot_args', of.bootArgs),
    ...labels(of.labels),
    ...given('idle', of.idle && presentIdle(of.idle)),
    ...(of.autostart ? { autostart: true } : {}),
    ready,
    ...given('ready_at', ready && of.readyAt !== null ? rfc3339(of.readyAt) : null),
    ...given('operation', of.operation && OPERATION_NAMES[of.operation.verb]),
    ...given(
      'state_reason',
      of.stateReason && {
        code: of.stateReason.code,
        message: of.stateReason.message,
        at: rfc3339(of.stateReason.at),
      },
    ),
    ...given('last_active_at', time(of.lastActiveAt)),
    ...given('vmm', of.vmm),
    ...given('accel', of.accel),
    ...given('host', of.hostId),
  };
}

/** A snapshot as the API shows it, without its files on the host; `transfer`: how far its bytes are on their way. */
export function presentSnapshot(of: Snapshot, transfer?: Transfer): snapshot.Snapshot {
  return {
    id: of.id,
    vm_id: of.vmId,
    ...given('name', of.name),
    created_at: rfc3339(of.createdAt),
    kind: of.kind,
    state: of.state,
    mem_mib: of.memMib,
    logical_bytes: of.logicalBytes,
    ...given('stored_bytes', of.storedBytes),
    ...given('parent_id', of.parentId),
    ...given('verified_at', time(of.verifiedAt)),
    vmm: `${of.savedOn.driver} ${of.savedOn.version}`,
    ...given('problem', of.problem),
    ...given(
      'transfer',
      transfer === undefined
        ? null
        : { direction: transfer.what, done_bytes: transfer.done, total_bytes: transfer.total },
    ),
  };
}

/** An image as the API shows it, without its paths on the host. */
export function presentImage(of: Image): image.Image {
  return {
    id: of.id,
    name: of.id.slice('img-'.length),
    size_bytes: of.sizeBytes,
    ...given('sha256', of.sha256),
    ...given('agent', of.agent),
    default_user: of.defaultUser,
    ...given('boot_args', of.bootArgs),
    created_at: rfc3339(of.createdAt),
  };
}

/** A template as the API shows it; its user data may be secret and is shown only `withUserData`. */
export function presentTemplate(of: Template, withUserData: boolean): template.Template {
  return {
    id: of.id,
    name: of.id.slice('tpl-'.length),
    ...given('description', of.description),
    ...given('image_id', of.imageId),
    ...given('vcpu_count', of.vcpuCount),
    ...given('mem_mib', of.memMib),
    ...given('disk_mib', of.diskMib),
    ...given('user_data', withUserData ? of.userData : null),
    ...given('boot_args', of.bootArgs),
    ...given('idle', of.idle && presentIdle(of.idle)),
    ...labels(of.labels),
    created_at: rfc3339(of.createdAt),
    updated_at: rfc3339(of.updatedAt),
  };
}

/** A key as the API shows it; its secret is known only while it is made. */
export function presentKey(of: ApiKey): key.Key {
  return {
    id: of.id,
    account_id: of.accountId,
    name: of.name,
    scopes: [...of.scopes],
    prefix: of.prefix,
    ...given('expires_at', time(of.expiresAt)),
    ...given('revoked_at', time(of.revokedAt)),
    ...given('last_used_at', time(of.lastUsedAt)),
    created_at: rfc3339(of.createdAt),
  };
}

/** Quotas as the API shows them. */
export function presentQuotas(of: Quotas): account.Quotas {
  return { vms: of.vms, vcpus: of.vcpus, mem_mib: of.memMib };
}

/** An account as the API shows it. */
export function presentAccount(of: Account): account.Account {
  return { id: of.id, name: of.name, quotas: presentQuotas(of.quotas), created_at: rfc3339(of.createdAt) };
}

/** An event as the API shows it. */
export function presentEvent(of: HatchEvent): event.Event {
  return {
    id: of.id,
    kind: of.kind,
    ...given('vm_id', of.vmId),
    message: of.message,
    data: { ...of.data },
    at: rfc3339(of.at),
  };
}

/** What a VM has used, as the API shows it; without a network there is no net part. */
export function presentMetrics({ vmId, at, memMib, machine, traffic }: VmMetrics): metrics.VmMetrics {
  return {
    vm_id: vmId,
    at: rfc3339(at),
    uptime_seconds: hundredths(machine.uptimeSeconds),
    cpu_seconds: hundredths(machine.cpuSeconds),
    memory: { mem_mib: memMib, resident_bytes: machine.rssBytes },
    block: { read_bytes: machine.blockReadBytes, written_bytes: machine.blockWriteBytes },
    ...given(
      'net',
      traffic && {
        received_bytes: traffic.receivedBytes,
        received_packets: traffic.receivedPackets,
        sent_bytes: traffic.sentBytes,
        sent_packets: traffic.sentPackets,
      },
    ),
  };
}

/** The kernel counts in hundredths of a second. */
function hundredths(seconds: number): number {
  return Math.round(seconds * 100) / 100;
}

function presentIdle(of: IdlePolicy): common.Idle {
  return {
    timeout_seconds: of.timeoutSeconds,
    action: of.action,
    connections: of.connections,
    pinned: of.pinned,
    ...given('cpu_below', of.cpuBelow),
    ...(of.keepAwake.length === 0
      ? {}
      : {
          keep_awake: of.keepAwake.map(({ days, from, to, timeZone }) => ({
            days: [...days],
            from,
            to,
            time_zone: timeZone,
          })),
        }),
  };
}

function labels(of: Readonly<Record<string, string>>): { labels?: Record<string, string> } {
  return Object.keys(of).length === 0 ? {} : { labels: { ...of } };
}

function time(ms: number | null): string | null {
  return ms === null ? null : rfc3339(ms);
}

/** The field, or nothing where it has no value. */
function given<K extends string, T>(name: K, value: T | null): { [key in K]?: T } {
  const out: { [key in K]?: T } = {};
  if (value !== null) out[name] = value;
  return out;
}
