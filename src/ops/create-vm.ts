import { newId, parseImageId, parseTemplateId, type ImageId, type TemplateId } from '../base/ids.ts';
import { exists } from '../host/files.ts';
import { firstFree, makeMac, parseMac, whyNotHost } from '../model/cidr.ts';
import { mergeCreate, type MergedCreate } from '../model/create-request.ts';
import { Failure, invalid } from '../model/failure.ts';
import type { Image, Operation, Template } from '../model/records.ts';
import type { NewVm, Vm, VmNetwork } from '../model/vm.ts';
import { checkUserData } from '../model/user-data.ts';
import { Taken } from '../store/store.ts';
import type { Caller, CreateVm, Wait } from './hatch.ts';
import { effectiveLimits } from '../model/quota.ts';
import { copyFrom } from './copy-vm.ts';
import { mustBoot } from './image-kernel.ts';
import { carryOutBoot } from './start-vm.ts';
import { waitFor } from './vms.ts';
import { visibleAccounts, type World } from './world.ts';

const MIB = 1024 * 1024;
/** How often a chosen address or port may turn out to be somebody else's before we give up. */
const TRIES = 50;

/** Makes a VM and starts it: row, address, MAC and port in one transaction, then the host's part, step by step. */
export async function createVm(world: World, caller: Caller, request: CreateVm, wait?: Wait): Promise<Vm> {
  if (request.snapshotId !== undefined) return copyFrom(world, caller, request, request.snapshotId, wait);
  const wanted = await plan(world, caller, request);
  const id = newId('vm');
  await world.flights.fly(
    id,
    'create',
    () => claim(world, caller, wanted, id),
    (operation, signal) => carryOutBoot(world, operation, signal),
  );
  return waitFor(world, id, wait);
}

/** A VM to make, its addresses perhaps left to us. */
export type Wanted = Omit<NewVm, 'id' | 'network'> & {
  readonly network: { readonly ip: string | null; readonly mac: string | null } | null;
};

/** What the request asks for, with template and defaults filled in, checked against what is there. */
async function plan(world: World, caller: Caller, request: CreateVm): Promise<Wanted> {
  const { store, settings } = world;
  const template = await templateOf({ store, settings }, caller, request.templateId);
  const merged = mergeCreate(request, template, {
    imageId: 'img-default',
    vcpuCount: settings.defaultVcpuCount,
    memMib: settings.defaultMemMib,
  });
  if (merged.userData !== null) checkUserData(merged.userData);
  const image = await imageNamed(world, caller, merged.imageId, 'image_id');
  await mustBoot(world.driver, image);
  const imageMib = Math.ceil(image.sizeBytes / MIB);
  if (merged.diskMib !== null && merged.diskMib < imageMib) {
    throw invalid('disk_mib', `"disk_mib" must be at least the image's size, ${imageMib} MiB.`, {
      minimum: imageMib,
    });
  }
  return {
    accountId: caller.accountId,
    hostId: settings.hostId,
    name: merged.name,
    imageId: image.id,
    templateId: template?.id ?? null,
    vcpuCount: merged.vcpuCount,
    memMib: merged.memMib,
    diskMib: merged.diskMib,
    bootArgs: merged.bootArgs,
    sshAuthorizedKeys: merged.sshAuthorizedKeys,
    idle: merged.idle,
    autostart: false,
    labels: merged.labels,
    userData: merged.userData,
    network: merged.enableNetwork ? addressesAsked(settings.plan, merged) : null,
  };
}

/** The template a request names, if any. Throws `invalid_request` naming template_id when it is unknown. */
async function templateOf(
  { store, settings }: Pick<World, 'store' | 'settings'>,
  caller: Caller,
  id: string | undefined,
): Promise<Template | null> {
  if (id === undefined) return null;
  const parsed: TemplateId | undefined = parseTemplateId(id);
  const found = parsed && (await store.templates.get(visibleAccounts(settings, caller.accountId), parsed));
  if (!found) throw invalid('template_id', `There is no template "${id}"; \`GET /templates\` lists them.`);
  return found;
}

/** The image a request names. Throws `invalid_request` naming the field when it is unknown, or how to get a default one. */
export async function imageNamed(
  { store, settings, findDefaultImage }: Pick<World, 'store' | 'settings' | 'findDefaultImage'>,
  caller: Caller,
  id: string,
  field: string,
): Promise<Image> {
  const parsed: ImageId | undefined = parseImageId(id);
  const look = async (): Promise<Image | null | undefined> =>
    parsed && store.images.get(visibleAccounts(settings, caller.accountId), parsed);
  const found = await look();
  // The default image's files are each host's own: another one's were written down last where they are not here.
  const own = found?.id !== 'img-default' || (await exists(found.rootfsPath));
  if (found && own) return found;
  if (id === 'img-default') {
    // It may have been built since the server started.
    await findDefaultImage();
    const since = await look();
    if (since) return since;
  }
  if (id === 'img-default') {
    throw invalid(
      field,
      'No image_id was given and no default image is configured. Set HATCH_DEFAULT_KERNEL_PATH and HATCH_DEFAULT_ROOTFS_PATH, or run `hatchd image build`.',
    );
  }
  throw invalid(field, `There is no image "${id}"; \`GET /images\` lists them.`);
}

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

/** Inserts the row; what the caller left to us is chosen anew when somebody was faster. */
export async function claim(world: World, caller: Caller, wanted: Wanted, id: Vm['id']): Promise<Operation> {
  const { store, settings } = world;
  const account = await store.accounts.get(caller.accountId);
  if (!account) throw new Failure('unauthorized', 'The account of this key is gone.');
  const limits = effectiveLimits(account.quotas, settings.limits);
  const passedOver = new Set<number>();
  for (let tries = 0; tries < TRIES; tries++) {
    const network = wanted.network === null ? null : await choose(world, wanted.network, passedOver);
    try {
      const made = await store.vms.create({ ...wanted, id, network }, { limits, args: {} });
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
  const asked: Record<Taken['field'], string | null> = {
    name: wanted.name,
    guest_ip: wanted.network?.ip ?? null,
    guest_mac: wanted.network?.mac ?? null,
    ssh_port: null,
    id: null,
  };
  const value = asked[error.field];
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
