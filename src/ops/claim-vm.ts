import { firstFree, makeMac, parseMac, whyNotHost } from '../model/cidr.ts';
import type { MergedCreate } from '../model/create-request.ts';
import { Failure, invalid } from '../model/failure.ts';
import type { Operation } from '../model/records.ts';
import type { NewVm, Vm, VmNetwork } from '../model/vm.ts';
import { Taken } from '../store/store.ts';
import type { Caller } from './hatch.ts';
import { checkQuota, effectiveLimits } from '../model/quota.ts';
import type { World } from './world.ts';

/** How often a chosen address or port may turn out to be somebody else's before we give up. */
const TRIES = 50;

/** A VM to make, its addresses perhaps left to us. */
export type Wanted = Omit<NewVm, 'id' | 'network'> & {
  readonly network: { readonly ip: string | null; readonly mac: string | null } | null;
};

/** The addresses a request asks for; null where it leaves them to us. */
export function addressesAsked(
  plan: World['settings']['plan'],
  { guestIp, guestMac }: Pick<MergedCreate, 'guestIp' | 'guestMac'>,
): { ip: string | null; mac: string | null } {
  const problem = guestIp === null ? undefined : whyNotHost(plan, guestIp);
  if (problem !== undefined) throw invalid('guest_ip', `"guest_ip" ${problem}`);
  const mac = guestMac === null ? null : parseMac(guestMac);
  if (mac === undefined) {
    throw invalid(
      'guest_mac',
      '"guest_mac" must be six hex pairs with colons, unicast and not all zero, such as 02:fc:00:00:00:01.',
    );
  }
  return { ip: guestIp, mac };
}

/** Quotas and names, looked at before anybody is disturbed; both are looked at again when each copy is made. */
export async function mustBeAllowed(
  { store, settings }: Pick<World, 'store' | 'settings'>,
  { accountId, vcpuCount, memMib }: Pick<Vm, 'accountId' | 'vcpuCount' | 'memMib'>,
  names: readonly (string | null | undefined)[],
): Promise<void> {
  const account = await store.accounts.get(accountId);
  if (!account) throw new Failure('unauthorized', 'The account of this key is gone.');
  const failure = checkQuota(
    await store.vms.use(accountId),
    effectiveLimits(account.quotas, settings.limits),
    { vms: names.length, vcpus: vcpuCount * names.length, memMib: memMib * names.length },
  );
  if (failure) throw failure;
  for (const name of names) {
    if (name === undefined || name === null || !(await store.vms.find(accountId, name))) continue;
    throw new Failure('already_exists', `"name" cannot be "${name}": another VM has it.`, {
      details: { field: 'name', value: name },
    });
  }
}

/** Inserts the row; what the caller left to us is chosen anew when somebody was faster. */
export async function claim(
  world: World,
  caller: Caller,
  wanted: Wanted,
  id: Vm['id'],
  args: Operation['args'] = {},
): Promise<Operation> {
  const { store, settings } = world;
  const account = await store.accounts.get(caller.accountId);
  if (!account) throw new Failure('unauthorized', 'The account of this key is gone.');
  const limits = effectiveLimits(account.quotas, settings.limits);
  const passedOver = new Set<number>();
  for (let tries = 0; tries < TRIES; tries++) {
    const network = wanted.network === null ? null : await choose(world, wanted.network, passedOver);
    try {
      const made = await store.vms.create({ ...wanted, id, network }, { limits, args });
      return made.operation;
    } catch (error) {
      if (!(error instanceof Taken)) throw error;
      const refused = taken(error, wanted);
      if (refused) throw refused;
    }
  }
  throw new Failure('no_capacity', 'Too many VMs are being made at once; ask again in a moment.');
}

function taken(error: Taken, wanted: Wanted): Failure | undefined {
  const asked: Partial<Record<Taken['field'], string | null>> = {
    name: wanted.name,
    guest_ip: wanted.network?.ip ?? null,
    guest_mac: wanted.network?.mac ?? null,
  };
  const value = asked[error.field] ?? null;
  if (value === null) return undefined;
  return new Failure('already_exists', `"${error.field}" cannot be "${value}": another VM has it.`, {
    details: { field: error.field, value },
  });
}

async function choose(
  { store, settings, ports }: World,
  asked: { readonly ip: string | null; readonly mac: string | null },
  passedOver: Set<number>,
): Promise<VmNetwork> {
  const used = await store.vms.taken(settings.hostId);
  const ip = asked.ip ?? firstFree(settings.plan, used.ips);
  if (ip === undefined) {
    throw new Failure(
      'no_capacity',
      `No address is left in ${settings.plan.text}; delete VMs or give HATCH_BRIDGE_CIDR a larger network.`,
    );
  }
  let mac = asked.mac ?? makeMac();
  while (asked.mac === null && used.macs.has(mac)) mac = makeMac();
  for (let port = settings.sshPortMin; port <= settings.sshPortMax; port++) {
    if (used.sshPorts.has(port) || passedOver.has(port)) continue;
    if (await ports.isFree(port)) return { ip, mac, sshPort: port };
    passedOver.add(port);
  }
  throw new Failure(
    'no_capacity',
    `No SSH port is free between ${settings.sshPortMin} and ${settings.sshPortMax}; widen HATCH_SSH_PORT_MIN and HATCH_SSH_PORT_MAX.`,
  );
}
