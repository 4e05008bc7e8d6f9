import { readFile } from 'node:fs/promises';
import { VmmError, type MachineSpec } from './driver.ts';

/**
 * Throws VmmError when a machine's tap is not there. A VMM that runs as root and opens a tap that is missing makes it
 * (TUNSETIFF, Documentation/networking/tuntap.rst), on no bridge: the guest would be without network and nobody would know.
 */
export async function mustHaveTap({ network }: Pick<MachineSpec, 'network'>): Promise<void> {
  if (network === null) return;
  // Of the network namespace we are in, as the VMM will be; /sys/class/net is that of whoever mounted it.
  const devices = await readFile('/proc/self/net/dev', 'utf8');
  const names = devices.split('\n').map((line) => line.split(':')[0]?.trim());
  if (!names.includes(network.tap)) throw new VmmError(`there is no network device ${network.tap}`);
}
