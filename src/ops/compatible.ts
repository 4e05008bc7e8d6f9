import { Failure } from '../model/failure.ts';
import type { SavedOn, Snapshot } from '../model/snapshot.ts';
import type { Driver } from '../vmm/driver.ts';

/** What of a saved machine differs from what this host has to offer, in words; empty when it can go on here. */
export function differences(
  driver: Pick<Driver, 'name' | 'accel' | 'cpu'>,
  savedOn: SavedOn,
): readonly string[] {
  if (savedOn.driver !== driver.name)
    return [`it was saved by ${savedOn.driver} ${savedOn.version}, and guests here run on ${driver.name}`];
  if (savedOn.accel !== driver.accel)
    return [`it was saved under ${savedOn.accel}, and guests here run under ${driver.accel}`];
  const found: string[] = [];
  const { cpu } = savedOn;
  if (cpu.model !== driver.cpu.model)
    found.push(`its processor is "${cpu.model}", and the one here is "${driver.cpu.model}"`);
  const missing = cpu.flags.filter((flag) => !driver.cpu.flags.includes(flag));
  if (missing.length > 0)
    found.push(
      `its processor can ${missing.slice(0, 8).join(', ')}${missing.length > 8 ? '...' : ''}, and the one here cannot`,
    );
  return found;
}

/** Throws `incompatible_snapshot` saying what differs when a snapshot cannot go on under this driver; nothing was touched. */
export function mustFitHere(driver: Pick<Driver, 'name' | 'accel' | 'cpu'>, { id, savedOn }: Snapshot): void {
  const found = differences(driver, savedOn);
  if (found.length === 0) return;
  throw new Failure('incompatible_snapshot', `Snapshot ${id} cannot go on here: ${found.join('; ')}.`, {
    details: { snapshot: id, differences: found },
  });
}

/** Throws `no_guest_agent` for a guest that cannot be told who it is from now on. */
export function mustHaveAgent({ id, guest }: Snapshot): void {
  if (guest.agent) return;
  throw new Failure(
    'no_guest_agent',
    `The agent in snapshot ${id} had not answered when it was saved: a copy could not be given an identity of its own. Restore it where it was saved instead, or install qemu-guest-agent in the guest and save it again.`,
    { details: { snapshot: id } },
  );
}
