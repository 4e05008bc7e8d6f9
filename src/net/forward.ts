import { join } from 'node:path';
import { readIfThere, remove, writeFileAtomic } from '../host/files.ts';
import { bootId } from '../host/process.ts';
import type { Run } from '../host/run.ts';
import { tableName } from './rules.ts';
import { command, nftApply, nftList, type NftObject } from './tools.ts';

/**
 * What has to be changed outside our own tables so that guests' traffic passes: the kernel's forwarding switch (per network
 * namespace), and two rules in every other firewall that drops what it does not know: in nftables a drop there beats our accept.
 * Those rules bear a comment, by which they are found and removed again. They let all of the bridge's traffic pass, since our own
 * tables say what may; and they are written as iptables writes its own, which would otherwise refuse to show its table.
 */
const SWITCH = '/proc/sys/net/ipv4/ip_forward';

interface Chain {
  readonly family: string;
  readonly table: string;
  readonly name: string;
  readonly hook: 'forward' | 'input';
}

interface Place {
  readonly run: Run;
  readonly bridge: string;
  readonly folder: string;
}

/** Switches forwarding on and remembers that it was off. Gives what it did, if anything. */
export async function ensureForwarding({ run, folder }: Omit<Place, 'bridge'>): Promise<string | undefined> {
  if (await forwards(run)) {
    // A note of another boot says nothing about who switched it on in this one.
    const note = await readIfThere(noteFile(folder));
    if (note !== undefined && note !== (await bootId())) await remove(noteFile(folder));
    return undefined;
  }
  await writeFileAtomic(noteFile(folder), await bootId());
  await command(run, ['tee', SWITCH], { input: '1\n' });
  return 'switched IPv4 forwarding on';
}

/** Whether the kernel forwards IPv4. */
export async function forwards(run: Run): Promise<boolean> {
  return (await command(run, ['cat', SWITCH])).trim() === '1';
}

/** Switches forwarding off again if it was we who switched it on, and no other server's tables are there. */
export async function restoreForwarding({ run, bridge, folder }: Place): Promise<void> {
  const note = await readIfThere(noteFile(folder));
  if (note === undefined) return;
  const tables = (await nftList(run, 'tables')) ?? [];
  const others = tables.some(({ table }) => {
    const name = table?.['name'];
    return typeof name === 'string' && /^hatch(_|$)/.test(name) && name !== tableName(bridge);
  });
  if (note === (await bootId()) && !others) await command(run, ['tee', SWITCH], { input: '0\n' });
  await remove(noteFile(folder));
}

function noteFile(folder: string): string {
  return join(folder, 'forwarding-was-off');
}

/** Adds our rules to the other firewalls that lack them; gives what it did. */
export async function ensurePassage({ run, bridge }: Omit<Place, 'folder'>): Promise<readonly string[]> {
  const did: string[] = [];
  for (const chain of strangersChains((await nftList(run, 'chains')) ?? [], tableName(bridge))) {
    const listing = (await nftList(run, 'chain', chain.family, chain.table, chain.name)) ?? [];
    const missing = passageRules(chain, bridge).length - ourRules(listing, bridge).length;
    if (missing === 0) continue;
    await nftApply(
      run,
      [...removal(chain, listing, bridge), ...passageRules(chain, bridge)]
        .map((line) => line + '\n')
        .join(''),
    );
    did.push(`let the bridge's traffic pass chain ${chain.name} of table ${chain.family} ${chain.table}`);
  }
  return did;
}

/** Removes our rules from all other firewalls. */
export async function removePassage({ run, bridge }: Omit<Place, 'folder'>): Promise<void> {
  const places = new Map<string, Chain>();
  for (const { chain } of (await nftList(run, 'chains')) ?? []) {
    const [family, table, name] = [chain?.['family'], chain?.['table'], chain?.['name']].map(String);
    if ((family !== 'ip' && family !== 'inet') || table === undefined || name === undefined) continue;
    places.set(`${family} ${table} ${name}`, { family, table, name, hook: 'forward' });
  }
  for (const chain of places.values()) {
    if (chain.table === tableName(bridge)) continue;
    const listing = (await nftList(run, 'chain', chain.family, chain.table, chain.name)) ?? [];
    await nftApply(
      run,
      removal(chain, listing, bridge)
        .map((line) => line + '\n')
        .join(''),
    );
  }
}

/**
 * The chains of others that would drop what guests send: base chains with a policy of drop, Docker's own chain for such rules
 * in place of the one it belongs to, and firewalld's, which ends in a refusal whatever its policy.
 */
export function strangersChains(listing: readonly NftObject[], ours: string): readonly Chain[] {
  const found: Chain[] = [];
  for (const { chain } of listing) {
    if (chain === undefined) continue;
    const { hook, policy } = chain;
    const [family, table, name] = [String(chain['family']), String(chain['table']), String(chain['name'])];
    if (table === ours || (family !== 'ip' && family !== 'inet') || /^hatch(_|$)/.test(table)) continue;
    if (hook !== 'forward' && hook !== 'input') continue;
    if (policy !== 'drop' && table !== 'firewalld') continue;
    const docker = listing.some(
      ({ chain: other }) =>
        other?.['name'] === 'DOCKER-USER' && other['family'] === family && other['table'] === table,
    );
    found.push({ family, table, name: hook === 'forward' && docker ? 'DOCKER-USER' : name, hook });
  }
  return found;
}

function comment(bridge: string): string {
  return `hatch ${bridge}`;
}

function passageRules({ family, table, name, hook }: Chain, bridge: string): readonly string[] {
  const rule = (match: string): string =>
    `insert rule ${family} ${table} ${name} ${match} accept comment "${comment(bridge)}"`;
  return hook === 'forward'
    ? [rule(`iifname "${bridge}"`), rule(`oifname "${bridge}"`)]
    : [rule(`iifname "${bridge}" meta l4proto udp`)];
}

function ourRules(listing: readonly NftObject[], bridge: string): readonly number[] {
  return listing.flatMap(({ rule }) => {
    const handle = rule?.['handle'];
    return rule?.['comment'] === comment(bridge) && typeof handle === 'number' ? [handle] : [];
  });
}

function removal(
  { family, table, name }: Chain,
  listing: readonly NftObject[],
  bridge: string,
): readonly string[] {
  return ourRules(listing, bridge).map((handle) => `delete rule ${family} ${table} ${name} handle ${handle}`);
}
