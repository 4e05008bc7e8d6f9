import { systemClock } from '../../base/clock.ts';
import { CLOCK_PATH, type FakeFiles } from './identity.ts';

/** What is known of a file beside its content. */
interface Facts {
  readonly mode: string;
  readonly uid: number;
  readonly gid: number;
  /** Of its last change, since 1970. */
  readonly seconds: number;
}

interface OpenFile {
  readonly path: string;
  bytes: Buffer;
  length: number;
  position: number;
  changed: boolean;
}

const FOLDERS = ['/', '/etc', '/home', '/mnt', '/opt', '/root', '/run', '/srv', '/tmp', '/usr', '/var'];
const USERS: Readonly<Record<string, number>> = { root: 0, hatch: 1000 };
/** No bytes of a text that a guest writes begin so: others than UTF-8 are kept as base64 behind it. */
const BYTES_MARK = '\0base64:';
/** What all files of a pretended guest may have: they lie in one file of the host, which is read whole whenever it is looked at. */
const DISK_BYTES = 16 * 1024 * 1024;
const PROGRAMS = ['hatch-file-look', 'hatch-file-make', 'hatch-file-place', 'hatch-file-drop'] as const;

/** The bytes of a pretended guest's file, as it keeps them. */
export function bytesOf(kept: string): Buffer {
  return kept.startsWith(BYTES_MARK)
    ? Buffer.from(kept.slice(BYTES_MARK.length), 'base64')
    : Buffer.from(kept);
}

/** A guest's files once some of them were written, or removed (null). */
export function changed(
  files: Readonly<Record<string, string>>,
  by: Readonly<Record<string, string | null>>,
): Record<string, string> {
  const now: Record<string, string> = { ...files };
  for (const [path, text] of Object.entries(by))
    if (text === null) delete now[path];
    else now[path] = text;
  return now;
}

function keptAs(bytes: Buffer): string {
  const text = bytes.toString('utf8');
  const isText = !text.includes('\0') && Buffer.from(text).equals(bytes);
  return isText ? text : BYTES_MARK + bytes.toString('base64');
}

/**
 * The files of a pretended guest as its agent opens them (guest-file-open and what follows), and the programs of the guest room that look
 * at them and put them in place (guest/file-scripts.ts), which say what those say. It has no links; its folders are those every guest has,
 * those of its files and those that were made.
 */
export class FakeGuestFiles {
  readonly #files: FakeFiles;
  readonly #open = new Map<number, OpenFile>();
  #next = 1000;

  constructor(files: FakeFiles) {
    this.#files = files;
  }

  /** What the agent returns to a command about an open file; a string is why it refuses. undefined: it is no such command. */
  answer(
    command: string,
    args: Readonly<Record<string, unknown>>,
  ): Promise<{ readonly value: unknown } | string> | undefined {
    if (!command.startsWith('guest-file-')) return undefined;
    if (command === 'guest-file-open') return this.#opened(String(args['path']), String(args['mode']));
    return this.#asked(command, Number(args['handle']), args);
  }

  /** What one of the guest room's programs says; undefined: it is another's. */
  run(name: string | undefined, args: readonly string[]): Promise<string> | undefined {
    const [path = '', nonce = '', ...more] = args;
    const beside = `${folderOf(path).replace(/\/$/, '')}/.hatch-file.${nonce}`;
    switch (PROGRAMS.find((one) => one === name)) {
      case 'hatch-file-look':
        return this.#look(path);
      case 'hatch-file-make':
        return this.#make(path, beside, more);
      case 'hatch-file-place':
        return this.#place(path, beside, more[0] ?? '');
      case 'hatch-file-drop':
        return this.#files.change({ [beside]: null, [`\0${beside}`]: null }).then(() => '');
      case undefined:
        return undefined;
    }
  }

  async #opened(path: string, mode: string): Promise<{ readonly value: unknown } | string> {
    const kept = await this.#files.read(path);
    if (kept === undefined)
      return `failed to open file '${path}' (mode: '${mode}'): No such file or directory`;
    const bytes = bytesOf(kept);
    const handle = this.#next++;
    this.#open.set(handle, { path, bytes, length: bytes.length, position: 0, changed: false });
    return { value: handle };
  }

  async #asked(
    command: string,
    handle: number,
    args: Readonly<Record<string, unknown>>,
  ): Promise<{ readonly value: unknown } | string> {
    const file = this.#open.get(handle);
    if (!file) return `handle '${handle}' has not been found`;
    switch (command) {
      case 'guest-file-read': {
        const count = Number(args['count'] ?? 4096);
        const piece = file.bytes.subarray(file.position, Math.min(file.position + count, file.length));
        file.position += piece.length;
        return {
          value: { count: piece.length, 'buf-b64': piece.toString('base64'), eof: piece.length < count },
        };
      }
      case 'guest-file-write': {
        const piece = Buffer.from(String(args['buf-b64']), 'base64');
        write(file, piece);
        return { value: { count: piece.length, eof: false } };
      }
      case 'guest-file-seek':
        file.position = Number(args['offset']);
        return { value: { position: file.position, eof: false } };
      case 'guest-file-flush':
        return (await this.#save(file)) ? { value: {} } : 'failed to flush file: No space left on device';
      case 'guest-file-close':
        this.#open.delete(handle);
        return (await this.#save(file)) ? { value: {} } : 'failed to close handle: No space left on device';
      default:
        return `The command ${command} has not been found`;
    }
  }

  /** Whether its disk had room for what was written. */
  async #save(file: OpenFile): Promise<boolean> {
    if (!file.changed) return true;
    file.changed = false;
    const all = await this.#files.all();
    // One that was removed meanwhile is no more in any folder.
    if (all[file.path] === undefined) return true;
    const others = Object.entries(all).filter(([path]) => path !== file.path);
    const used = others.reduce((sum, [, text]) => sum + text.length, 0);
    if (used + file.length > DISK_BYTES) return false;
    await this.#files.change({ [file.path]: keptAs(file.bytes.subarray(0, file.length)) });
    return true;
  }

  async #look(path: string): Promise<string> {
    const kept = await this.#files.read(path);
    return told(await this.#files.all(), path, kept, systemClock.now());
  }

  async #make(
    path: string,
    beside: string,
    [owner = '', group = '', parents = '']: readonly string[],
  ): Promise<string> {
    const all = await this.#files.all();
    if (isFolder(all, path)) return 'folder\n\n';
    if (path.startsWith('/dev/')) return 'other\n\n';
    const folder = folderOf(path);
    if (/^\/(?:proc|sys)(?:\/|$)/.test(folder)) return 'refused\ncannot create: Permission denied\n';
    const isThere = isFolder(all, folder);
    for (let at = folder; !isThere && at !== '/'; at = folderOf(at))
      if (all[at] !== undefined) return `refused\n${at}: Not a directory\n`;
    if (!isThere && parents === '') return 'no-folder\n\n';
    const there = factsIn(all, path);
    const ids = { uid: idOf(owner), gid: idOf(group) };
    if (ids.uid === undefined) return `nobody\nchown: invalid user: '${owner}'\n`;
    if (ids.gid === undefined) return `nobody\nchown: invalid group: '${group}'\n`;
    const facts = { mode: '600', uid: ids.uid ?? there?.uid ?? 0, gid: ids.gid ?? there?.gid ?? 0 };
    await this.#files.change({
      ...(isThere ? {} : { [`\0${folder}/`]: '' }),
      [beside]: '',
      [`\0${beside}`]: keptFacts(all, facts),
    });
    return `made ${all[path] === undefined ? '' : (there?.mode ?? '644')}\n${beside}\n`;
  }

  async #place(path: string, beside: string, mode: string): Promise<string> {
    const all = await this.#files.all();
    const kept = all[beside];
    if (kept === undefined) return 'refused\nchmod: cannot access: No such file or directory\n';
    if (isFolder(all, path)) return 'folder\n\n';
    const { uid, gid } = factsIn(all, beside) ?? { uid: 0, gid: 0 };
    const changes = {
      [path]: kept,
      [`\0${path}`]: keptFacts(all, { mode: mode.replace(/^0+(?=.)/, ''), uid, gid }),
      [beside]: null,
      [`\0${beside}`]: null,
    };
    await this.#files.change(changes);
    return told(changed(all, changes), path, kept, systemClock.now());
  }
}

type Files = Readonly<Record<string, string>>;

/** What is said of a file. */
function told(all: Files, path: string, kept: string | undefined, now: number): string {
  if (isFolder(all, path)) return 'folder\n\n';
  if (path.startsWith('/dev/')) return 'other\n\n';
  if (kept === undefined) return 'missing\n\n';
  const { mode, uid, gid, seconds } = factsIn(all, path) ?? {
    ...{ mode: '644', uid: 0, gid: 0 },
    seconds: Math.floor(now / 1000),
  };
  // What the kernel makes when it is read says no size.
  const size = path.startsWith('/proc/') ? 0 : bytesOf(kept).length;
  return `file ${mode} ${size} ${uid} ${gid} ${seconds}\n\n`;
}

/** As they lie beside the file, changed by the guest's own clock, where it was ever set. */
function keptFacts(all: Files, facts: Omit<Facts, 'seconds'>): string {
  const seconds = Number(all[CLOCK_PATH] ?? Math.floor(systemClock.now() / 1000));
  return JSON.stringify({ ...facts, seconds });
}

function factsIn(all: Files, path: string): Facts | undefined {
  const kept = all[`\0${path}`];
  return kept === undefined ? undefined : (JSON.parse(kept) as Facts);
}

function isFolder(all: Files, path: string): boolean {
  if (FOLDERS.includes(path)) return true;
  const within = path.endsWith('/') ? path : `${path}/`;
  return Object.keys(all).some((one) => one.startsWith(within) || one.startsWith(`\0${within}`));
}

function write(file: OpenFile, piece: Buffer): void {
  const end = file.position + piece.length;
  if (end > file.bytes.length) {
    const grown = Buffer.alloc(Math.max(end, 2 * file.bytes.length));
    file.bytes.copy(grown, 0, 0, file.length);
    file.bytes = grown;
  }
  piece.copy(file.bytes, file.position);
  file.position = end;
  file.length = Math.max(file.length, end);
  file.changed = true;
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/')) || '/';
}

/** The number of a user or group; null: none was named, undefined: there is none of this name. */
function idOf(name: string): number | null | undefined {
  if (name === '') return null;
  return /^\d+$/.test(name) ? Number(name) : USERS[name];
}
