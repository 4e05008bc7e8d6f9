import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { Vm } from '../../src/contract/vm.ts';
import { exists, readIfThere } from '../../src/host/files.ts';
import { commandLine } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { dhcpFiles } from '../../src/net/dhcp-server.ts';
import { readLeases } from '../../src/net/dnsmasq.ts';

/** What a VM may have on its host. */
export type Trace = 'folder' | 'process' | 'tap' | 'filter' | 'reservation' | 'lease' | 'ssh port';

/**
 * What a VM has on the host now, looked up without asking hatchd: in /proc, in the namespace we are in, and in the files of the
 * data folder.
 */
export async function tracesOf(
  data: string,
  { id, guest_ip, guest_mac, ssh_port }: Pick<Vm, 'id' | 'guest_ip' | 'guest_mac' | 'ssh_port'>,
): Promise<readonly Trace[]> {
  const dhcp = dhcpFiles(join(data, 'net'));
  const leases = readLeases((await readIfThere(dhcp.leases)) ?? '');
  const reservations = (await readIfThere(dhcp.hosts)) ?? '';
  const rules = (await run(['nft', 'list', 'ruleset'])).stdout;
  const found: Record<Trace, boolean> = {
    folder: await exists(join(data, 'vms', id)),
    process: (await hypervisorOf(id)) !== undefined,
    tap: (await run(['ip', 'link', 'show', 'dev', id], { okExitCodes: [0, 1] })).exitCode === 0,
    filter: rules.includes(id),
    reservation: [id, guest_mac, guest_ip && `,${guest_ip},`].some((it) => it && reservations.includes(it)),
    lease: leases.some(({ ip, mac }) => ip === guest_ip || mac === guest_mac),
    'ssh port': ssh_port !== undefined && (await accepts('127.0.0.1', ssh_port)),
  };
  return (Object.keys(found) as Trace[]).filter((trace) => found[trace]);
}

/** The process that runs a VM, by its name in the command line, and its arguments; undefined when none does. */
export async function hypervisorOf(
  id: string,
): Promise<{ readonly pid: number; readonly argv: readonly string[] } | undefined> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)) {
    const argv = await commandLine(pid);
    if (argv?.includes(`hatch-${id}`)) return { pid, argv };
  }
  return undefined;
}

async function accepts(host: string, port: number): Promise<boolean> {
  const socket = connect({ host, port });
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}
