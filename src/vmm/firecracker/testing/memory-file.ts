import {
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readSync,
  writeSync,
} from 'node:fs';
import { Refused } from './calls.ts';
import type { GuestMemory } from './guest.ts';
import { osError } from './musl.ts';

/** The pretended guest's memory begins with this, the length of a JSON text, and that text; the rest is zeros. */
const MARK = Buffer.from('HATCHRAM');
const HEAD = MARK.length + 4;
const CHUNK = Buffer.alloc(4 * 1024 * 1024);

/**
 * Writes a memory file of a guest's size. One of just that size is written over in place, any other is emptied first. With
 * `whole` every byte is written, as Firecracker does; without, the file has one hole. Throws Refused, and leaves what was written.
 */
export function writeMemory(path: string, bytes: number, memory: GuestMemory, whole: boolean): void {
  const step = <T>(name: string, act: () => T): T => {
    try {
      return act();
    } catch (error) {
      throw new Refused(
        name === 'write'
          ? `Create snapshot error: Cannot write memory file: Volatile memory error: ${osError(error)}`
          : `Create snapshot error: Cannot perform ${name} on the memory backing file: ${osError(error)}`,
      );
    }
  };
  const fd = step('open', () => openSync(path, constants.O_WRONLY | constants.O_CREAT, 0o666));
  try {
    if (step('get_metadata', () => fstatSync(fd).size) !== bytes)
      step('truncate', () => ftruncateSync(fd, 0));
    step('set_length', () => ftruncateSync(fd, bytes));
    const text = Buffer.from(JSON.stringify(memory));
    const head = Buffer.alloc(HEAD);
    MARK.copy(head);
    head.writeUInt32LE(text.length, MARK.length);
    step('write', () => {
      let at = writeSync(fd, Buffer.concat([head, text]), 0, HEAD + text.length, 0);
      while (whole && at < bytes) at += writeSync(fd, CHUNK, 0, Math.min(CHUNK.length, bytes - at), at);
    });
    step('sync_all', () => fsyncSync(fd));
  } finally {
    closeSync(fd);
  }
}

/** A memory file that a guest runs on: mapped privately, so what the guest writes never reaches it. */
export class MappedMemory {
  readonly #fd: number;
  readonly #bytes: number;

  /** Throws an Error with what Firecracker says. */
  constructor(path: string, bytes: number) {
    try {
      this.#fd = openSync(path, 'r');
    } catch (error) {
      throw new Error(`Failed to load guest memory: ${osError(error)}`, { cause: error });
    }
    this.#bytes = bytes;
    if (this.isCut()) {
      closeSync(this.#fd);
      throw new Error(
        'Failed to restore guest memory: Total sum of memory regions exceeds largest possible file offset',
      );
    }
  }

  /** The file became shorter than the memory: the next touch is a SIGBUS. */
  isCut(): boolean {
    return fstatSync(this.#fd).size < this.#bytes;
  }

  /** The guest in it; undefined when it holds none that could run. */
  guest(): GuestMemory | undefined {
    const head = Buffer.alloc(HEAD);
    readSync(this.#fd, head, 0, HEAD, 0);
    if (!head.subarray(0, MARK.length).equals(MARK)) return undefined;
    const text = Buffer.alloc(head.readUInt32LE(MARK.length));
    readSync(this.#fd, text, 0, text.length, HEAD);
    try {
      return JSON.parse(text.toString('utf8')) as GuestMemory;
    } catch {
      return undefined;
    }
  }
}
