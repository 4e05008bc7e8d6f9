import type { Snapshot } from '../../contract/snapshot.ts';
import { formatFields, formatTable } from './table.ts';
import { age, formatBytes, formatMib } from './words.ts';

/** Snapshots as a table, or what to do when there are none, of VM `vm` where one was named. `now` in milliseconds. */
export function showSnapshots(snapshots: readonly Snapshot[], now: number, vm?: string): string {
  if (snapshots.length === 0)
    return vm === undefined
      ? 'No snapshots yet. Save a running VM: hatch vm snapshot <vm>'
      : `VM ${vm} has no snapshots yet. Save it while it runs: hatch vm snapshot ${vm}`;
  return formatTable(
    ['NAME', 'ID', 'VM', 'KIND', 'STATE', 'MEMORY', 'SIZE', 'STORED', 'AGE'],
    snapshots.map((one) => [
      one.name,
      one.id,
      one.vm_id,
      one.kind,
      stateOf(one),
      formatMib(one.mem_mib),
      formatBytes(one.logical_bytes),
      one.stored_bytes === undefined ? undefined : formatBytes(one.stored_bytes),
      age(one.created_at, now),
    ]),
  );
}

/** All that is known of one snapshot, a line each. */
export function showSnapshot(one: Snapshot, now: number): string {
  return formatFields({
    Name: one.name,
    Id: one.id,
    VM: one.vm_id,
    Kind: one.kind,
    State: one.state,
    Problem: one.problem,
    Transfer: transferOf(one),
    Memory: formatMib(one.mem_mib),
    Size: `${formatBytes(one.logical_bytes)} of memory and disk`,
    Stored: one.stored_bytes === undefined ? undefined : `${formatBytes(one.stored_bytes)} it added`,
    'Made by': one.vmm,
    After: one.parent_id,
    Made: `${age(one.created_at, now)} ago`,
    Verified: one.verified_at && `${age(one.verified_at, now)} ago`,
  });
}

/** That a VM was saved, what became of it, and what can be done with the snapshot. */
export function showSaved(one: Snapshot, vm: string, keptRunning: boolean): string {
  const name = one.name ?? one.id;
  const who = one.name === undefined ? one.id : `${one.name} (${one.id})`;
  const next = keptRunning
    ? `VM ${vm} goes on. Make a copy: hatch vm create --snapshot ${name}`
    : `VM ${vm} sleeps. Wake it: hatch vm start ${vm}`;
  return `Snapshot ${who} is made: ${formatBytes(one.logical_bytes)} of memory and disk, ${one.state}.\n${next}`;
}

/** How far a snapshot's bytes are: `12M of 2.5G to the store`; undefined when none are on their way. */
export function transferOf({ transfer }: Snapshot): string | undefined {
  if (transfer === undefined) return undefined;
  const where = transfer.direction === 'store' ? 'to the store' : 'from the store';
  return `${formatBytes(transfer.done_bytes)} of ${formatBytes(transfer.total_bytes)} ${where}`;
}

function stateOf({ state, transfer }: Snapshot): string {
  if (transfer === undefined || transfer.total_bytes === 0) return state;
  return `${state} (${Math.floor((100 * transfer.done_bytes) / transfer.total_bytes)} %)`;
}
