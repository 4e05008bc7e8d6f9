import { closeSync, fstatSync, openSync } from 'node:fs';
import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';
import { osError } from './musl.ts';

export type DriveConfig = Body<'drive'>;

/** Throws what Firecracker says of a backing file that it cannot open. */
function openBacking(path: string, readOnly: boolean): number {
  try {
    const fd = openSync(path, readOnly ? 'r' : 'r+');
    fstatSync(fd);
    return fd;
  } catch (error) {
    throw new Error(`Virtio backend error: Error manipulating the backing file: ${osError(error)} ${path}`, {
      cause: error,
    });
  }
}

/** A block device: its file is open from the moment it is made. */
export class Block {
  config: DriveConfig;
  #fd: number;

  /** Throws an Error with what Firecracker says. */
  constructor(config: DriveConfig) {
    // vhost-user needs a program behind the socket, which nobody here is.
    if (config.path_on_host === null || config.socket !== null) throw new Error('Invalid block config.');
    this.config = config;
    this.#fd = openBacking(config.path_on_host, config.is_read_only ?? false);
  }

  /** Opens another file in its place, or the same anew. Throws an Error with what Firecracker says. */
  replace(path: string): void {
    const fd = openBacking(path, this.config.is_read_only ?? false);
    closeSync(this.#fd);
    this.#fd = fd;
    this.config = { ...this.config, path_on_host: path };
  }

  get bytes(): number {
    return fstatSync(this.#fd).size;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** The drives, in the order the guest sees them: the root device is always the first. */
export class Blocks {
  #list: readonly Block[] = [];

  get list(): readonly Block[] {
    return this.#list;
  }

  get root(): Block | undefined {
    return this.#list.find((block) => block.config.is_root_device);
  }

  find(id: string): Block | undefined {
    return this.#list.find((block) => block.config.drive_id === id);
  }

  /** Adds a drive, or puts it in the place of the one with its id. Throws Refused. */
  put(config: DriveConfig, { pmemRoot }: { readonly pmemRoot: boolean }): void {
    if (config.is_root_device && pmemRoot)
      throw new Refused(
        'Drive config error: Attempt to add block as a root device while the root device defined as a pmem device',
      );
    const before = this.find(config.drive_id);
    if (config.is_root_device && this.root && this.root !== before)
      throw new Refused('Drive config error: A root block device already exists!');
    const block = this.#open(config);
    before?.close();
    const others = this.#list.map((one) => (one === before ? block : one));
    const all = before ? others : [...others, block];
    this.#list = [
      ...all.filter((one) => one.config.is_root_device),
      ...all.filter((one) => !one.config.is_root_device),
    ];
  }

  #open(config: DriveConfig): Block {
    try {
      return new Block(config);
    } catch (error) {
      throw new Refused(`Drive config error: Unable to create the virtio block device: ${osError(error)}`);
    }
  }

  /** Opens what a snapshot recorded, by the paths in it. Throws an Error with what Firecracker says. */
  restore(configs: readonly DriveConfig[]): void {
    for (const config of configs) this.#list = [...this.#list, new Block(config)];
  }

  remove(id: string): void {
    this.find(id)?.close();
    this.#list = this.#list.filter((block) => block.config.drive_id !== id);
  }
}
