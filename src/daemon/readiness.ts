import { deadline, DeadlineExceeded } from '../base/deadline.ts';
import type { World } from '../ops/world.ts';
import type { Driver } from '../vmm/driver.ts';

/** Whoever asks whether the server is ready waits no longer than this for a database that is silent. */
const PING_MS = 3000;

/** What is missing for the server to be ready, in sentences; nothing when it is. */
export async function readiness(
  { store, net, ports, settings }: Pick<World, 'store' | 'net' | 'ports' | 'settings'>,
  late: { readonly driver: Driver | undefined },
  problems: { readonly start: string | undefined },
): Promise<
  readonly { readonly part: 'store' | 'network' | 'vmm' | 'image' | 'start'; readonly problem: string }[]
> {
  const found: { part: 'store' | 'network' | 'vmm' | 'image' | 'start'; problem: string }[] = [];
  if (problems.start !== undefined) return [{ part: 'start', problem: problems.start }];
  try {
    await deadline('its answer', PING_MS, () => store.ping());
  } catch (error) {
    found.push({
      part: 'store',
      problem:
        error instanceof DeadlineExceeded
          ? `The database has not answered within ${PING_MS / 1000} s.`
          : `The database does not answer: ${error instanceof Error ? error.message : String(error)}`,
    });
  }
  for (const problem of await net.health()) found.push({ part: 'network', problem });
  try {
    await ports.isFree(settings.sshPortMin);
  } catch (error) {
    found.push({ part: 'network', problem: error instanceof Error ? error.message : String(error) });
  }
  if (!late.driver) found.push({ part: 'vmm', problem: 'No hypervisor is usable.' });
  return found;
}
