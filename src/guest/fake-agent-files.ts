import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { getSystemErrorMessage } from 'node:util';
import { fieldOf } from './fields.ts';

interface OpenFile {
  position: number;
  readonly read: (at: number, count: number) => Buffer;
  readonly write: (at: number, bytes: Buffer) => void;
  readonly close: () => void;
}

const COMMANDS = [
  'guest-file-open',
  'guest-file-read',
  'guest-file-write',
  'guest-file-seek',
  'guest-file-flush',
  'guest-file-close',
] as const;
export type FileCommand = (typeof COMMANDS)[number];

/** Whether a command of the agent is about an open file. */
export function isFileCommand(command: string): command is FileCommand {
  return COMMANDS.some((one) => one === command);
}

/**
 * The files of a guest whose agent is pretended: guest-file-open and what follows it, with the agent's manners. It has those of `files`,
 * and, where its programs run on this machine, those of this machine.
 */
export class FakeAgentFiles {
  /** By path; what is written goes over what is there when the file is closed. */
  readonly files = new Map<string, string>();
  /** Whether a path that is none of `files` is one of this machine. */
  onThisMachine = false;
  readonly #open = new Map<number, OpenFile>();
  #next = 1000;

  /** How many are open. */
  get openFiles(): number {
    return this.#open.size;
  }

  /** What the agent returns; a string is why it refuses. */
  answer(command: FileCommand, given: unknown): { readonly value: unknown } | string {
    if (command === 'guest-file-open')
      return this.#opened(String(fieldOf(given, 'path')), String(fieldOf(given, 'mode')));
    const handle = Number(fieldOf(given, 'handle'));
    const file = this.#open.get(handle);
    if (!file) return `handle '${handle}' has not been found`;
    switch (command) {
      case 'guest-file-read': {
        const count = Number(fieldOf(given, 'count') ?? 4096);
        const bytes = file.read(file.position, count);
        file.position += bytes.length;
        // As feof(3) has it: only whoever asked for more than there is has met the end.
        const eof = bytes.length < count;
        return { value: { count: bytes.length, 'buf-b64': bytes.toString('base64'), eof } };
      }
      case 'guest-file-write': {
        const bytes = Buffer.from(String(fieldOf(given, 'buf-b64')), 'base64');
        try {
          file.write(file.position, bytes);
        } catch (error) {
          return `failed to write to file: ${wordsOf(error)}`;
        }
        file.position += bytes.length;
        return { value: { count: bytes.length, eof: false } };
      }
      case 'guest-file-seek':
        file.position = Number(fieldOf(given, 'offset'));
        return { value: { position: file.position, eof: false } };
      case 'guest-file-flush':
        return { value: {} };
      case 'guest-file-close':
        this.#open.delete(handle);
        file.close();
        return { value: {} };
    }
  }

  #opened(path: string, mode: string): { readonly value: number } | string {
    const refusal = (why: string): string => `failed to open file '${path}' (mode: '${mode}'): ${why}`;
    const text = this.files.get(path);
    if (text === undefined && !this.onThisMachine) return refusal('No such file or directory');
    let file: OpenFile;
    try {
      file = text === undefined ? onDisk(path, mode) : this.#inMemory(path, Buffer.from(text));
    } catch (error) {
      return refusal(wordsOf(error));
    }
    const handle = this.#next++;
    this.#open.set(handle, file);
    return { value: handle };
  }

  #inMemory(path: string, bytes: Buffer): OpenFile {
    let written: Buffer | undefined;
    return {
      position: 0,
      read: (at, count) => bytes.subarray(at, at + count),
      write: (at, piece) => {
        written = Buffer.concat([(written ?? Buffer.alloc(0)).subarray(0, at), piece]);
      },
      close: () => {
        if (written) this.files.set(path, written.toString('utf8'));
      },
    };
  }
}

function onDisk(path: string, mode: string): OpenFile {
  const fd = openSync(path, mode);
  return {
    position: 0,
    read: (at, count) => {
      const bytes = Buffer.alloc(count);
      let got = 0;
      for (let more = 1; more > 0 && got < count; got += more)
        more = readSync(fd, bytes, got, count - got, at + got);
      return bytes.subarray(0, got);
    },
    write: (at, bytes) => {
      for (let gone = 0; gone < bytes.length;)
        gone += writeSync(fd, bytes, gone, bytes.length - gone, at + gone);
    },
    close: () => closeSync(fd),
  };
}

function wordsOf(error: unknown): string {
  const errno = error instanceof Error && 'errno' in error ? error.errno : undefined;
  return typeof errno === 'number' ? getSystemErrorMessage(errno) : String(error);
}
