import { newId, parseImageId, parseTemplateId, type ImageId, type TemplateId } from '../base/ids.ts';
import type { Account, Image, Template } from '../model/records.ts';
import type { NewVm } from '../model/vm.ts';
import type { Store } from './store.ts';

/** An account, a host and an image of their own, and VMs that fit there. */
export interface Place {
  readonly account: Account;
  readonly hostId: string;
  readonly image: Image;
  /** A VM to make: `img-default`, 1 vCPU, 512 MiB, and the next addresses and port of the place. */
  readonly newVm: (overrides?: Partial<NewVm>) => NewVm;
}

export const NO_LIMITS = { vms: null, vcpus: null, memMib: null };

/** Makes an account, a host and its image `img-default`, for tests that need VMs. */
export async function furnish(store: Store, name: string = newId('acct')): Promise<Place> {
  const account = await store.accounts.create({ name, quotas: NO_LIMITS });
  const hostId = `host-of-${name}`;
  await store.hosts.register({ id: hostId, bootId: 'boot-1' });
  const image = await store.images.put(newImage(account, 'default'));
  let made = 0;
  return {
    account,
    hostId,
    image,
    newVm(overrides = {}) {
      made += 1;
      return {
        id: newId('vm'),
        accountId: account.id,
        hostId,
        name: null,
        imageId: image.id,
        templateId: null,
        vcpuCount: 1,
        memMib: 512,
        diskMib: null,
        bootArgs: null,
        network: {
          ip: `10.0.${made >> 8}.${made & 255}`,
          mac: `02:fc:00:00:${hex(made >> 8)}:${hex(made & 255)}`,
          sshPort: 2200 + made,
        },
        sshAuthorizedKeys: [],
        idle: null,
        autostart: false,
        labels: {},
        userData: null,
        ...overrides,
      };
    },
  };
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, '0');
}

/** An image to register in an account. */
export function newImage(
  account: Pick<Account, 'id'>,
  name: string,
  overrides: Partial<Image> = {},
): Omit<Image, 'createdAt'> {
  return {
    accountId: account.id,
    id: imageId(name),
    kernelPath: '/images/vmlinuz',
    vmlinuxPath: null,
    initrdPath: null,
    rootfsPath: '/images/rootfs.ext4',
    rootfsFormat: 'raw',
    bootArgs: null,
    defaultUser: 'debian',
    agent: null,
    sizeBytes: 2 * 1024 ** 3,
    sha256: null,
    ...overrides,
  };
}

/** A template to make in an account; it says nothing. */
export function newTemplate(
  account: Pick<Account, 'id'>,
  name: string,
  overrides: Partial<Template> = {},
): Omit<Template, 'createdAt' | 'updatedAt'> {
  return {
    accountId: account.id,
    id: templateId(name),
    description: null,
    imageId: null,
    vcpuCount: null,
    memMib: null,
    diskMib: null,
    userData: null,
    bootArgs: null,
    idle: null,
    labels: {},
    ...overrides,
  };
}

/** `img-<name>`; throws when the name will not do. */
export function imageId(name: string): ImageId {
  const id = parseImageId(`img-${name}`);
  if (!id) throw new Error(`img-${name} is no image id`);
  return id;
}

/** `tpl-<name>`; throws when the name will not do. */
export function templateId(name: string): TemplateId {
  const id = parseTemplateId(`tpl-${name}`);
  if (!id) throw new Error(`tpl-${name} is no template id`);
  return id;
}
