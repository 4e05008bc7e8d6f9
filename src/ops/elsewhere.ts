import { whyNotHost } from '../model/cidr.ts';
import { Failure } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { Taken } from '../store/store.ts';
import type { World } from './world.ts';
import { ownerOf } from './owner.ts';

/** VMs and snapshots of other hosts that have the same database: what may be done with them here, and how one comes here. */

/** Throws `wrong_state` naming its host for a VM that is not this host's. */
export function mustBeHere({ settings }: Pick<World, 'settings'>, vm: Vm): void {
  if (vm.hostId === settings.hostId) return;
  throw elsewhere(vm, `is ${vm.state} on host "${vm.hostId ?? ''}": ask there.`);
}

/** Throws `wrong_state` naming its host for a VM that is neither this host's nor asleep. */
export function mustBeHereOrAsleep(world: Pick<World, 'settings'>, vm: Vm): void {
  if (vm.state !== 'snapshotted') mustBeHere(world, vm);
}

/** Throws `wrong_state` naming its host for a snapshot whose files are on another one alone. */
export function mustBeWithinReach({ settings }: Pick<World, 'settings'>, snapshot: Snapshot): void {
  const { id, hostId, state } = snapshot;
  if (hostId === null || hostId === settings.hostId || state === 'durable') return;
  throw new Failure(
    'wrong_state',
    `Snapshot ${id} is on host "${hostId}" alone, not in the store yet: ask there, or wait until it is durable.`,
    { details: { snapshot: id, state, host: hostId } },
  );
}

/**
 * The VM as this host's own. One that sleeps elsewhere becomes it, with its address, MAC and port, if its snapshot is durable or
 * here and they can be had. Throws `wrong_state`, `busy` or `already_exists` saying what is in the way; then nothing was changed.
 */
export async function claimHere(world: World, vm: Vm): Promise<Vm> {
  const { store, settings } = world;
  if (vm.hostId === settings.hostId) return vm;
  mustBeHereOrAsleep(world, vm);
  const snapshot = vm.snapshotId === null ? null : await store.snapshots.get(vm.snapshotId);
  if (snapshot?.state !== 'durable' && snapshot?.hostId !== settings.hostId)
    throw elsewhere(
      vm,
      `sleeps on host "${vm.hostId ?? ''}", and its snapshot is not in the store: only that host can wake it.`,
    );
  await mustHavePlace(world, vm);
  let claimed: Vm | null;
  try {
    claimed = await store.vms.claim(vm.id, ownerOf(vm), settings.hostId);
  } catch (error) {
    if (!(error instanceof Taken)) throw error;
    throw placeTaken(world, vm, error.field, 'another VM has it here');
  }
  if (claimed) return claimed;
  throw new Failure(
    'busy',
    `VM ${vm.id} of host "${vm.hostId ?? ''}" was just changed or has an operation under way there; ask again when that is done.`,
    { details: { id: vm.id, host: vm.hostId } },
  );
}

async function mustHavePlace({ settings, ports }: World, vm: Vm): Promise<void> {
  const { network } = vm;
  if (network === null) return;
  const { ip, sshPort } = network;
  const why = whyNotHost(settings.plan, ip);
  if (why !== undefined) throw noPlace({ settings }, vm, 'guest_ip', `it ${why.replace(/\.$/, '')}`);
  const { sshPortMin, sshPortMax } = settings;
  if (sshPort < sshPortMin || sshPort > sshPortMax)
    throw noPlace({ settings }, vm, 'ssh_port', `SSH ports here are ${sshPortMin} to ${sshPortMax}`);
  // It may have been this host's before, and its port not have been closed since.
  await ports.close(vm.id);
  if (!(await ports.isFree(sshPort)))
    throw placeTaken({ settings }, vm, 'ssh_port', 'a program on this host listens there');
}

function valueOf({ name, network, id }: Vm, field: Taken['field']): string | number | null {
  const values: Partial<Record<Taken['field'], string | number | null>> = {
    name,
    id,
    guest_ip: network?.ip ?? null,
    guest_mac: network?.mac ?? null,
    ssh_port: network?.sshPort ?? null,
  };
  return values[field] ?? null;
}

function noPlace(
  { settings }: Pick<World, 'settings'>,
  vm: Vm,
  field: Taken['field'],
  why: string,
  code: 'wrong_state' | 'already_exists' = 'wrong_state',
): Failure {
  const value = valueOf(vm, field);
  return new Failure(
    code,
    `VM ${vm.id} of host "${vm.hostId ?? ''}" cannot come to host "${settings.hostId}" with its ${field} ${value ?? ''}: ${why}.`,
    { details: { id: vm.id, field, value, host: vm.hostId } },
  );
}

function placeTaken(world: Pick<World, 'settings'>, vm: Vm, field: Taken['field'], why: string): Failure {
  return noPlace(world, vm, field, why, 'already_exists');
}

function elsewhere(vm: Vm, how: string): Failure {
  return new Failure('wrong_state', `VM ${vm.id} ${how}`, {
    details: { id: vm.id, state: vm.state, host: vm.hostId },
  });
}
