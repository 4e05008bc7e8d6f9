import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CreateVm, PatchVm } from '../../contract/vm.ts';
import { readIdle, type IdleOptions } from './idle-options.ts';
import type { Io } from './io.ts';
import { parseMib, parsePairs, parseWhole, UsageError } from './words.ts';

/** What `vm create` and `template create|update` share, as typed. */
export interface SizeOptions extends IdleOptions {
  readonly image?: string;
  readonly cpus?: string;
  readonly memory?: string;
  readonly disk?: string;
  readonly bootArgs?: string;
  readonly userData?: string;
  readonly label?: readonly string[];
}

export interface CreateOptions extends SizeOptions {
  readonly name?: string;
  readonly template?: string;
  /** A copy of it: its keys are in it already. */
  readonly snapshot?: string;
  readonly ip?: string;
  readonly mac?: string;
  readonly autostart?: boolean;
  /** False with --no-network. */
  readonly network: boolean;
  /** Files; false with --no-ssh-key, undefined when nothing was said. */
  readonly sshKey?: readonly string[] | false;
}

/** The fields of a VM or a template that were given. Throws a UsageError naming the option. */
export async function readSizes(options: SizeOptions, io: Io) {
  const { image, cpus, memory, disk, bootArgs, userData, label } = options;
  const idle = readIdle(options);
  return {
    ...(image === undefined ? {} : { image_id: imageId(image) }),
    ...(cpus === undefined ? {} : { vcpu_count: parseWhole('--cpus', cpus) }),
    ...(memory === undefined ? {} : { mem_mib: parseMib('--memory', memory) }),
    ...(disk === undefined ? {} : { disk_mib: parseMib('--disk', disk) }),
    ...(bootArgs === undefined ? {} : { boot_args: bootArgs }),
    ...(userData === undefined ? {} : { user_data: await readInput('--user-data', userData, io) }),
    ...(label === undefined ? {} : { labels: parsePairs('--label', label) }),
    ...(idle === undefined ? {} : { idle }),
  };
}

/** The request that `vm create` makes. Throws a UsageError naming the option. */
export async function readCreate(options: CreateOptions, io: Io): Promise<CreateVm> {
  const { name, template, snapshot, ip, mac, network } = options;
  const wantsKeys = (network && snapshot === undefined) || options.sshKey;
  const keys = wantsKeys ? await readKeys(options.sshKey, io) : [];
  return {
    ...(name === undefined ? {} : { name }),
    ...(template === undefined ? {} : { template_id: templateId(template) }),
    ...(snapshot === undefined ? {} : { snapshot_id: snapshot }),
    ...(await readSizes(options, io)),
    ...(ip === undefined ? {} : { guest_ip: ip }),
    ...(mac === undefined ? {} : { guest_mac: mac }),
    ...(network ? {} : { enable_network: false }),
    ...(options.autostart === true ? { autostart: true } : {}),
    ...(keys.length === 0 ? {} : { ssh_authorized_keys: [...keys] }),
  };
}

/** Whether a VM of the default image is asked for, and no key or user data that could let somebody in. */
export function letsNobodyIn(request: CreateVm): boolean {
  return (['ssh_authorized_keys', 'user_data', 'template_id', 'snapshot_id', 'image_id'] as const).every(
    (field) => request[field] === undefined,
  );
}

export interface UpdateOptions extends IdleOptions {
  /** An empty one takes the name away. */
  readonly name?: string;
  readonly cpus?: string;
  readonly memory?: string;
  readonly disk?: string;
  readonly label?: readonly string[];
  readonly autostart?: boolean;
}

/** The change that `vm update` asks for. Throws a UsageError naming the option, or when nothing was given. */
export function readUpdate(options: UpdateOptions): PatchVm {
  const { name, cpus, memory, disk, label } = options;
  const idle = readIdle(options);
  const patch: PatchVm = {
    ...(name === undefined ? {} : { name: name === '' ? null : name }),
    ...(cpus === undefined ? {} : { vcpu_count: parseWhole('--cpus', cpus) }),
    ...(memory === undefined ? {} : { mem_mib: parseMib('--memory', memory) }),
    ...(disk === undefined ? {} : { disk_mib: parseMib('--disk', disk) }),
    ...(label === undefined ? {} : { labels: parsePairs('--label', label) }),
    ...(idle === undefined ? {} : { idle }),
    ...(options.autostart === undefined ? {} : { autostart: options.autostart }),
  };
  if (Object.keys(patch).length === 0)
    throw new UsageError('Say what is to change: --name, --cpus, --memory, --disk...');
  return patch;
}

/** `img-default` for `default` as for `img-default`. */
export function imageId(text: string): string {
  return text.startsWith('img-') ? text : `img-${text}`;
}

/** `tpl-web` for `web` as for `tpl-web`. */
export function templateId(text: string): string {
  return text.startsWith('tpl-') ? text : `tpl-${text}`;
}

async function readInput(option: string, file: string, io: Io): Promise<string> {
  if (file === '-') {
    const said = await io.readStdin();
    if (said === '') throw new UsageError(`${option} - was given nothing on standard input.`);
    return said;
  }
  try {
    return await readFile(join(file.startsWith('/') ? '/' : io.cwd, file), 'utf8');
  } catch (error) {
    throw new UsageError(
      `${option} ${file} cannot be read (${error instanceof Error ? error.message : ''}).`,
      {
        cause: error,
      },
    );
  }
}

/** The keys in the files that were named; where nothing was said, the person's own key, so that `vm ssh` just works. */
async function readKeys(files: readonly string[] | false | undefined, io: Io): Promise<readonly string[]> {
  if (files === false) return [];
  if (files !== undefined) {
    const texts = await Promise.all(files.map((file) => readInput('--ssh-key', file, io)));
    return texts.flatMap((text, index) => keysIn(files[index] ?? '', text));
  }
  for (const name of ['id_ed25519.pub', 'id_ecdsa.pub', 'id_rsa.pub']) {
    try {
      return keysIn(name, await readFile(join(io.home, '.ssh', name), 'utf8'));
    } catch {
      // The person has no key of this kind.
    }
  }
  return [];
}

function keysIn(file: string, text: string): string[] {
  if (text.includes('PRIVATE KEY'))
    throw new UsageError(`--ssh-key ${file} is a private key; give the public one, ${file}.pub.`);
  const keys = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  if (keys.length === 0) throw new UsageError(`--ssh-key ${file} holds no key.`);
  return keys;
}
