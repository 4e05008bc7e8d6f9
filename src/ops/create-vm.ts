import { newId, parseImageId, parseTemplateId, type ImageId, type TemplateId } from '../base/ids.ts';
import { exists } from '../host/files.ts';
import { mergeCreate } from '../model/create-request.ts';
import { invalid } from '../model/failure.ts';
import type { Image, Template } from '../model/records.ts';
import type { Vm } from '../model/vm.ts';
import { checkUserData } from '../model/user-data.ts';
import type { Caller, CreateVm, Wait } from './hatch.ts';
import { copyFrom } from './copy-vm.ts';
import { mustBoot } from './image-kernel.ts';
import { waitFor } from './vms.ts';
import type { World } from './world.ts';
import { visibleAccounts } from './settings.ts';
import { addressesAsked, type Wanted } from './claim-vm.ts';
import { flyCreate } from './fly-create.ts';

const MIB = 1024 * 1024;
/** Makes a VM and starts it: row, address, MAC and port in one transaction, then the host's part, step by step. */
export async function createVm(world: World, caller: Caller, request: CreateVm, wait?: Wait): Promise<Vm> {
  const { newId: make = newId } = caller;
  const id = make('vm');
  // Asked for again, after a crash.
  if (caller.newId && (await world.store.vms.get(id))) return waitFor(world, id, wait);
  if (request.snapshotId !== undefined)
    return copyFrom(world, caller, request, request.snapshotId, { id, wait });
  const wanted = await plan(world, caller, request);
  await flyCreate(world, caller, wanted, id);
  return waitFor(world, id, wait);
}

/** What the request asks for, with template and defaults filled in, checked against what is there. */
async function plan(world: World, caller: Caller, request: CreateVm): Promise<Wanted> {
  const { store, settings } = world;
  const template = await templateOf({ store, settings }, caller, request.templateId);
  const merged = mergeCreate(request, template, {
    imageId: 'img-default',
    vcpuCount: settings.defaultVcpuCount,
    memMib: settings.defaultMemMib,
    idle: settings.idle,
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
    autostart: merged.autostart,
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
