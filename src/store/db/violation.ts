/** The unique constraints by name, and the columns SQLite names them by. The names are the migrations'. */
const UNIQUE = {
  accounts_id: 'accounts.id',
  accounts_name: 'accounts.name',
  api_keys_id: 'api_keys.id',
  api_keys_hash: 'api_keys.hash',
  images_id: 'images.account_id, images.id',
  templates_id: 'templates.account_id, templates.id',
  layers_id: 'layers.id',
  snapshots_id: 'snapshots.id',
  snapshots_name: 'snapshots.account_id, snapshots.name',
  routes_id: 'routes.id',
  routes_subdomain: 'routes.subdomain',
  routes_domain: 'routes.domain',
  vms_id: 'vms.id',
  vms_name: 'vms.account_id, vms.name',
  vms_guest_ip: 'vms.network_id, vms.guest_ip',
  vms_guest_mac: 'vms.network_id, vms.guest_mac',
  vms_ssh_port: 'vms.gateway_id, vms.ssh_port',
  operations_id: 'operations.id',
  operations_unfinished: 'operations.vm_id',
  operation_steps_seq: 'operation_steps.operation_id, operation_steps.seq',
  events_id: 'events.id',
  account_secrets_pkey: 'account_secrets.account_id',
  blobs_pkey: 'blobs.id',
  leases_id: 'leases.id',
  leases_upload: 'leases.vm_id',
  leases_rewrite: 'leases.snapshot_id',
  idempotency_keys_pkey: 'idempotency_keys.account_id, idempotency_keys.key',
} as const;

export type UniqueName = keyof typeof UNIQUE;

/** A write the database refused: a value somebody has (`unique`), or a row that is named or that is not there (`foreign`). */
export class Violation extends Error {
  override readonly name = 'Violation';
  readonly kind: 'unique' | 'foreign';
  /** The unique constraint, where it is one of ours. */
  readonly unique: UniqueName | undefined;
  constructor(kind: 'unique' | 'foreign', unique: UniqueName | undefined, cause: unknown) {
    super(`${kind} constraint${unique === undefined ? '' : ` ${unique}`} violated`, { cause });
    this.kind = kind;
    this.unique = unique;
  }
}

/** The constraint of a name PostgreSQL gave. */
export function uniqueByName(name: string | undefined): UniqueName | undefined {
  return name !== undefined && isUniqueName(name) ? name : undefined;
}

/** The constraint of the columns SQLite gave: `vms.account_id, vms.name`. */
export function uniqueByColumns(columns: string): UniqueName | undefined {
  return Object.keys(UNIQUE)
    .filter(isUniqueName)
    .find((name) => UNIQUE[name] === columns);
}

function isUniqueName(name: string): name is UniqueName {
  return Object.hasOwn(UNIQUE, name);
}

/** Two transactions waited for each other and the database gave one up: it may be tried again from its beginning. */
export class GaveWay extends Error {
  override readonly name = 'GaveWay';
  constructor(cause: unknown) {
    super('the database gave this transaction up for another', { cause });
  }
}
