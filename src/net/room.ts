import type { Run } from '../host/run.ts';
import type { AddressPlan } from '../model/cidr.ts';
import { checkBridgeName, checkRoom } from './bridge.ts';
import { checkTools, listLinks, listRoutes } from './tools.ts';

/**
 * Looks whether the host has the programs the network is made with and room for its bridge, and changes nothing. Gives whether
 * the bridge is there already. Throws NetError in a sentence when something is missing or in the way.
 */
export async function checkHost(
  { run }: { readonly run: Run },
  { bridge, plan }: { readonly bridge: string; readonly plan: AddressPlan },
): Promise<{ readonly there: boolean }> {
  checkBridgeName(bridge);
  await checkTools(run);
  const links = await listLinks(run);
  checkRoom({ bridge, plan }, links, await listRoutes(run));
  return { there: links.some((link) => link.ifname === bridge) };
}
