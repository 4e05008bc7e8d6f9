import type { VmId } from '../base/ids.ts';
import { mergeIdle, refuseWithSnapshot } from '../model/create-request.ts';
import { Failure, invalid, notFound } from '../model/failure.ts';
import type { Snapshot } from '../model/snapshot.ts';
import type { Vm } from '../model/vm.ts';
import { mustFitHere, mustHaveAgent } from './compatible.ts';
import { mustBeWithinReach } from './elsewhere.ts';
import type { Caller, CreateVm, Wait } from './hatch.ts';
import { findSnapshot } from './snapshots.ts';
import { waitFor } from './vms.ts';
import type { World } from './world.ts';
import { addressesAsked, type Wanted } from './claim-vm.ts';
import { flyCreate } from './fly-create.ts';

/** Makes a VM, under the id that was chosen, that starts as a copy of a snapshot, under an identity of its own. */
export async function copyFrom(
  world: World,
  caller: Caller,
  request: CreateVm,
  snapshotIdOrName: string,
  how: { readonly id: VmId; readonly wait: Wait | undefined },
): Promise<Vm> {
  const snapshot = await findSnapshot(world, caller, snapshotIdOrName).catch((error: unknown) => {
    if (!(error instanceof Failure) || error.code !== 'not_found') throw error;
    throw invalid(
      'snapshot_id',
      `There is no snapshot "${snapshotIdOrName}"; \`GET /snapshots\` lists them.`,
    );
  });
  refuseWithSnapshot(request);
  return copySnapshot(world, caller, snapshot, request, how);
}

/** Makes a VM from a snapshot that was found, under the id that was chosen. Throws `no_guest_agent` for a guest that cannot be told who it is now. */
export async function copySnapshot(
  world: World,
  caller: Caller,
  snapshot: Snapshot,
  request: CreateVm,
  { id, wait }: { readonly id: VmId; readonly wait: Wait | undefined },
): Promise<Vm> {
  mustBeWithinReach(world, snapshot);
  mustFitHere(world.driver, snapshot);
  mustHaveAgent(snapshot);
  await world.archive.bring(snapshot, new AbortController().signal);
  await world.store.snapshots.update(snapshot.id, { usedAt: world.clock.now() });
  const wanted = await wantedCopy(world, caller, snapshot, request);
  await flyCreate(world, caller, wanted, id);
  return waitFor(world, id, wait);
}

async function wantedCopy(
  world: World,
  caller: Caller,
  snapshot: Snapshot,
  request: CreateVm,
): Promise<Wanted> {
  const { store, settings } = world;
  const source = await store.vms.get(snapshot.vmId);
  if (!source) throw notFound('vm', snapshot.vmId);
  const { diskMib = null, enableNetwork = snapshot.guest.mac !== null } = request;
  if (enableNetwork !== (snapshot.guest.mac !== null))
    throw invalid(
      'enable_network',
      `"enable_network" must be ${String(!enableNetwork)}: the saved machine has ${enableNetwork ? 'no' : 'a'} network card.`,
    );
  const least = snapshot.diskMib ?? source.diskMib ?? 0;
  if (diskMib !== null && diskMib < least)
    throw invalid('disk_mib', `"disk_mib" must be at least ${least}: the saved disk is that large.`, {
      minimum: least,
    });
  return {
    accountId: caller.accountId,
    hostId: settings.hostId,
    name: request.name ?? null,
    imageId: snapshot.imageId,
    templateId: source.templateId,
    vcpuCount: snapshot.vcpuCount,
    memMib: snapshot.memMib,
    diskMib: diskMib ?? snapshot.diskMib,
    bootArgs: source.bootArgs,
    sshAuthorizedKeys: source.sshAuthorizedKeys,
    idle: request.idle === undefined ? source.idle : mergeIdle(source.idle ?? settings.idle, request.idle),
    autostart: request.autostart ?? false,
    labels: { ...source.labels, ...request.labels },
    userData: await store.vms.userData(source.id),
    parentSnapshotId: snapshot.id,
    instanceId: snapshot.guest.instanceId,
    network: enableNetwork
      ? addressesAsked(settings.plan, {
          guestIp: request.guestIp ?? null,
          guestMac: request.guestMac ?? null,
        })
      : null,
  };
}
