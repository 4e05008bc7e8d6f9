import { invalid } from './failure.ts';
import type { IdlePolicy } from './vm.ts';

/** What a caller asked for; what is absent or undefined was not said. */
export interface CreateRequest {
  readonly name?: string | undefined;
  readonly imageId?: string | undefined;
  readonly vcpuCount?: number | undefined;
  readonly memMib?: number | undefined;
  readonly diskMib?: number | undefined;
  readonly bootArgs?: string | undefined;
  readonly enableNetwork?: boolean | undefined;
  readonly guestIp?: string | undefined;
  readonly guestMac?: string | undefined;
  readonly userData?: string | undefined;
  readonly sshAuthorizedKeys?: readonly string[] | undefined;
  readonly idle?: Partial<IdlePolicy> | undefined;
  readonly autostart?: boolean | undefined;
  readonly labels?: Readonly<Record<string, string>> | undefined;
}

/** The part of a template that serves where a request is silent. */
export interface TemplateDefaults {
  readonly imageId: string | null;
  readonly vcpuCount: number | null;
  readonly memMib: number | null;
  readonly diskMib: number | null;
  readonly userData: string | null;
  readonly bootArgs: string | null;
  readonly idle: IdlePolicy | null;
  readonly labels: Readonly<Record<string, string>>;
}

/** What serves where request and template are silent. */
export interface ServerDefaults {
  readonly imageId: string;
  readonly vcpuCount: number;
  readonly memMib: number;
  readonly idle: IdlePolicy;
}

/** What the VM is to be, with nothing left open but what the image decides (null). */
export interface MergedCreate {
  readonly name: string | null;
  readonly imageId: string;
  readonly vcpuCount: number;
  readonly memMib: number;
  readonly diskMib: number | null;
  readonly bootArgs: string | null;
  readonly userData: string | null;
  /** null: the server's policy. */
  readonly idle: IdlePolicy | null;
  readonly autostart: boolean;
  readonly labels: Readonly<Record<string, string>>;
  readonly enableNetwork: boolean;
  /** null: the next free one. */
  readonly guestIp: string | null;
  /** null: one is made. */
  readonly guestMac: string | null;
  readonly sshAuthorizedKeys: readonly string[];
}

/** Most labels a VM has, its template's included. */
export const MOST_LABELS = 32;

/** What an idle policy is where neither request, template nor configuration says anything. */
export const DEFAULT_IDLE: IdlePolicy = {
  timeoutSeconds: 2700,
  action: 'snapshot',
  connections: 'hold',
  pinned: false,
  cpuBelow: null,
  keepAwake: [],
};

/** An idle policy with the given fields changed. */
export function mergeIdle(from: IdlePolicy, patch: Partial<IdlePolicy>): IdlePolicy {
  return {
    timeoutSeconds: patch.timeoutSeconds ?? from.timeoutSeconds,
    action: patch.action ?? from.action,
    connections: patch.connections ?? from.connections,
    pinned: patch.pinned ?? from.pinned,
    // null is said, too.
    cpuBelow: patch.cpuBelow === undefined ? from.cpuBelow : patch.cpuBelow,
    keepAwake: patch.keepAwake ?? from.keepAwake,
  };
}

/**
 * Makes one whole of a request, its template and the server's defaults: what the request says wins, then the template,
 * then the defaults; labels are put together, an idle policy field by field. An empty `userData` means none, even where the
 * template has some. Throws `invalid_request` for an address on a VM without a network, and for too many labels.
 */
export function mergeCreate(
  request: CreateRequest,
  template: TemplateDefaults | null,
  defaults: ServerDefaults,
): MergedCreate {
  const enableNetwork = request.enableNetwork ?? true;
  if (!enableNetwork) {
    if (request.guestIp !== undefined) throw withoutNetwork('guest_ip');
    if (request.guestMac !== undefined) throw withoutNetwork('guest_mac');
  }
  const labels = { ...template?.labels, ...request.labels };
  if (Object.keys(labels).length > MOST_LABELS)
    throw invalid('labels', `A VM may have at most ${MOST_LABELS} labels, those of its template included.`, {
      limit: MOST_LABELS,
    });
  const userData = request.userData ?? template?.userData ?? null;
  return {
    name: request.name ?? null,
    imageId: request.imageId ?? template?.imageId ?? defaults.imageId,
    vcpuCount: request.vcpuCount ?? template?.vcpuCount ?? defaults.vcpuCount,
    memMib: request.memMib ?? template?.memMib ?? defaults.memMib,
    diskMib: request.diskMib ?? template?.diskMib ?? null,
    bootArgs: request.bootArgs ?? template?.bootArgs ?? null,
    userData: userData === '' ? null : userData,
    idle: request.idle ? mergeIdle(template?.idle ?? defaults.idle, request.idle) : (template?.idle ?? null),
    autostart: request.autostart ?? false,
    labels,
    enableNetwork,
    guestIp: request.guestIp ?? null,
    guestMac: request.guestMac?.toLowerCase() ?? null,
    sshAuthorizedKeys: request.sshAuthorizedKeys ?? [],
  };
}

/** What a request for a copy of a snapshot must not say: the snapshot says it. */
const SAID_BY_SNAPSHOT = [
  ['imageId', 'image_id'],
  ['templateId', 'template_id'],
  ['vcpuCount', 'vcpu_count'],
  ['memMib', 'mem_mib'],
  ['bootArgs', 'boot_args'],
  ['userData', 'user_data'],
  ['sshAuthorizedKeys', 'ssh_authorized_keys'],
] as const;

/** Throws `invalid_request` naming the field when a request for a copy says what the snapshot says already. */
export function refuseWithSnapshot(
  request: Readonly<Partial<Record<(typeof SAID_BY_SNAPSHOT)[number][0], unknown>>>,
): void {
  for (const [key, field] of SAID_BY_SNAPSHOT) {
    if (request[key] === undefined) continue;
    throw invalid(
      field,
      `"${field}" cannot be said with "snapshot_id": a copy has what the snapshot has. Leave it out.`,
    );
  }
}

function withoutNetwork(field: 'guest_ip' | 'guest_mac'): Error {
  return invalid(
    field,
    `"${field}" needs a network, and "enable_network" is false: leave one of the two out.`,
  );
}
