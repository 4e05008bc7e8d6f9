import type { VmId } from '../base/ids.ts';
import type { Run } from '../host/run.ts';
import type { AddressPlan } from '../model/cidr.ts';
import { aliasOf } from './bridge.ts';
import { NetError } from './network.ts';
import { command, ipBatch, listLinks } from './tools.ts';

/** Removes the taps of these VMs that are there. Throws NetError where one is a port of somebody else's bridge. */
export async function deleteTaps(run: Run, bridge: string, vmIds: ReadonlySet<VmId>): Promise<void> {
  if (vmIds.size === 0) return;
  const links = await listLinks(run, vmIds.size === 1 ? [...vmIds][0] : undefined);
  const named = links.filter((link) => [...vmIds].some((vmId) => vmId === link.ifname));
  const strange = named.find((link) => link.master !== undefined && link.master !== bridge);
  if (strange)
    throw new NetError(`${strange.ifname} is a port of the bridge ${strange.master}, not of ${bridge}`);
  await ipBatch(
    run,
    named.map((link) => `link del dev ${link.ifname}`),
  );
}

/** Removes our bridge; one that somebody made before us only loses our address. */
export async function deleteBridge(run: Run, bridge: string, plan: AddressPlan): Promise<void> {
  const [there] = await listLinks(run, bridge);
  if (!there || there.linkinfo?.info_kind !== 'bridge') return;
  if (there.ifalias === aliasOf(bridge)) {
    await command(run, ['ip', 'link', 'del', 'dev', bridge]);
  } else if (there.addr_info.some(({ local }) => local === plan.gateway)) {
    // Somebody made the bridge before us: it stays, without our address.
    await command(run, ['ip', 'address', 'del', `${plan.gateway}/${plan.net.prefix}`, 'dev', bridge]);
  }
}
