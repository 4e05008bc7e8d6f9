import type { Insertable, Kysely, Updateable } from 'kysely';
import type { AccountId } from '../../base/ids.ts';
import { DEFAULT_IDLE, mergeIdle } from '../../model/create-request.ts';
import type { IdlePolicy, NewVm, Vm, VmPatch } from '../../model/vm.ts';
import { fromJson, fromJsonOrNull, toFlag, toJson, toJsonOrNull } from './columns.ts';
import type { Tables, VmsTable } from './tables.ts';

/** An idle policy as it was written down, perhaps before it had all its fields. */
export function policyOf(text: VmsTable['idle']): IdlePolicy | null {
  const policy = fromJsonOrNull(text);
  return policy && mergeIdle(DEFAULT_IDLE, policy);
}

/** Selects VMs with the operation under way on them, and without their user data. */
export function selectVms(db: Kysely<Tables>) {
  return db
    .selectFrom('vms')
    .leftJoin('operations', (join) =>
      join.onRef('operations.vm_id', '=', 'vms.id').on('operations.finished_at', 'is', null),
    )
    .select([
      'vms.id',
      'vms.account_id',
      'vms.host_id',
      'vms.epoch',
      'vms.name',
      'vms.image_id',
      'vms.template_id',
      'vms.parent_snapshot_id',
      'vms.state',
      'vms.state_reason',
      'vms.stopped_by',
      'vms.vcpu_count',
      'vms.mem_mib',
      'vms.disk_mib',
      'vms.boot_args',
      'vms.guest_ip',
      'vms.guest_mac',
      'vms.ssh_port',
      'vms.ssh_authorized_keys',
      'vms.idle',
      'vms.autostart',
      'vms.labels',
      'vms.ready_at',
      'vms.last_active_at',
      'vms.leased_until',
      'vms.vmm',
      'vms.accel',
      'vms.process',
      'vms.layer_id',
      'vms.instance_id',
      'vms.snapshot_id',
      'vms.memory_layer_id',
      'vms.created_at',
      'vms.updated_at',
      'operations.id as operation_id',
      'operations.verb as operation_verb',
    ]);
}

type SelectedVm = Awaited<ReturnType<ReturnType<typeof selectVms>['execute']>>[number];

/** A selected row as the VM it is. */
export function toVm(row: SelectedVm): Vm {
  return {
    id: row.id,
    accountId: row.account_id,
    hostId: row.host_id,
    epoch: row.epoch,
    name: row.name,
    imageId: row.image_id,
    templateId: row.template_id,
    parentSnapshotId: row.parent_snapshot_id,
    state: row.state,
    stateReason: fromJsonOrNull(row.state_reason),
    stoppedBy: row.stopped_by,
    vcpuCount: row.vcpu_count,
    memMib: row.mem_mib,
    diskMib: row.disk_mib,
    bootArgs: row.boot_args,
    network:
      row.guest_ip === null || row.guest_mac === null || row.ssh_port === null
        ? null
        : { ip: row.guest_ip, mac: row.guest_mac, sshPort: row.ssh_port },
    sshAuthorizedKeys: fromJson(row.ssh_authorized_keys),
    idle: policyOf(row.idle),
    autostart: row.autostart === 1,
    labels: fromJson(row.labels),
    readyAt: row.ready_at,
    lastActiveAt: row.last_active_at,
    leasedUntil: row.leased_until,
    vmm: row.vmm,
    accel: row.accel,
    process: fromJsonOrNull(row.process),
    layerId: row.layer_id,
    instanceId: row.instance_id ?? row.id,
    snapshotId: row.snapshot_id,
    memoryLayerId: row.memory_layer_id,
    operation:
      row.operation_id === null || row.operation_verb === null
        ? null
        : { id: row.operation_id, verb: row.operation_verb },
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  };
}

/** The first row of a VM: `starting`, of the first epoch, its addresses in its host's own network and gateway. */
export function newRow(
  vm: NewVm,
  {
    hostId,
    imageAccountId,
    templateAccountId,
    now,
  }: {
    readonly hostId: string;
    readonly imageAccountId: AccountId;
    readonly templateAccountId: AccountId | null;
    readonly now: number;
  },
): Insertable<VmsTable> & { readonly epoch: number } {
  const { network } = vm;
  return {
    id: vm.id,
    account_id: vm.accountId,
    host_id: hostId,
    epoch: 1,
    name: vm.name,
    image_account_id: imageAccountId,
    image_id: vm.imageId,
    template_account_id: templateAccountId,
    template_id: vm.templateId,
    parent_snapshot_id: vm.parentSnapshotId ?? null,
    state: 'starting',
    state_reason: null,
    stopped_by: null,
    vcpu_count: vm.vcpuCount,
    mem_mib: vm.memMib,
    disk_mib: vm.diskMib,
    boot_args: vm.bootArgs,
    network_id: network === null ? null : hostId,
    guest_ip: network?.ip ?? null,
    guest_mac: network?.mac ?? null,
    gateway_id: network === null ? null : hostId,
    ssh_port: network?.sshPort ?? null,
    ssh_authorized_keys: toJson(vm.sshAuthorizedKeys),
    idle: toJsonOrNull(vm.idle),
    autostart: toFlag(vm.autostart),
    labels: toJson(vm.labels),
    ready_at: null,
    last_active_at: null,
    leased_until: null,
    vmm: null,
    accel: null,
    process: null,
    layer_id: null,
    instance_id: vm.instanceId ?? null,
    snapshot_id: null,
    memory_layer_id: null,
    created_at: now,
    updated_at: now,
    user_data: toJsonOrNull(vm.userData),
  };
}

/** The columns a patch changes; what it does not name stays. */
export function patchColumns(patch: VmPatch): Updateable<VmsTable> {
  return {
    ...(patch.name === undefined ? {} : { name: patch.name }),
    ...(patch.state === undefined ? {} : { state: patch.state }),
    ...(patch.stateReason === undefined ? {} : { state_reason: toJsonOrNull(patch.stateReason) }),
    ...(patch.stoppedBy === undefined ? {} : { stopped_by: patch.stoppedBy }),
    ...(patch.vcpuCount === undefined ? {} : { vcpu_count: patch.vcpuCount }),
    ...(patch.memMib === undefined ? {} : { mem_mib: patch.memMib }),
    ...(patch.diskMib === undefined ? {} : { disk_mib: patch.diskMib }),
    ...(patch.idle === undefined ? {} : { idle: toJsonOrNull(patch.idle) }),
    ...(patch.autostart === undefined ? {} : { autostart: toFlag(patch.autostart) }),
    ...(patch.labels === undefined ? {} : { labels: toJson(patch.labels) }),
    ...(patch.readyAt === undefined ? {} : { ready_at: patch.readyAt }),
    ...(patch.lastActiveAt === undefined ? {} : { last_active_at: patch.lastActiveAt }),
    ...(patch.vmm === undefined ? {} : { vmm: patch.vmm }),
    ...(patch.accel === undefined ? {} : { accel: patch.accel }),
    ...(patch.process === undefined ? {} : { process: toJsonOrNull(patch.process) }),
    ...(patch.layerId === undefined ? {} : { layer_id: patch.layerId }),
    ...(patch.snapshotId === undefined ? {} : { snapshot_id: patch.snapshotId }),
    ...(patch.memoryLayerId === undefined ? {} : { memory_layer_id: patch.memoryLayerId }),
  };
}
