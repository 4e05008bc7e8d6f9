import { open, realpath, stat } from 'node:fs/promises';
import { basename, join, posix, resolve } from 'node:path';
import { Option, type Command } from 'commander';
import type { FileFacts } from '../../contract/saved-file.ts';
import { ApiError } from '../http.ts';
import { print, type Act, type Context } from './context.ts';
import { codeOf, moving, openFile, writeWhole } from './local-file.ts';
import { writeContent } from './show-files.ts';
import { formatBytes, UsageError } from './words.ts';

interface CopyFlags {
  readonly mode?: string;
  readonly owner?: string;
  readonly group?: string;
  readonly parents?: true;
  readonly wake?: true;
  readonly recursive?: true;
}

/** Where a file comes from or goes to: a file of a VM, of this machine, or standard input or output. */
type Place =
  | { readonly kind: 'vm'; readonly shown: string; readonly vm: string; readonly path: string }
  | { readonly kind: 'file' | 'stream'; readonly shown: string };

/** A file on its way. */
interface Coming {
  readonly content: AsyncIterable<Uint8Array>;
  readonly bytes: number | undefined;
  /** Its permission bits; undefined where it has none. */
  readonly mode: number | undefined;
}

/** `hatch vm cp`. */
export function copyCommand(vm: Command, act: Act): void {
  vm.command('cp')
    .description(
      'copy a file into or out of a running guest: vm cp notes.txt web:/srv/, vm cp web:/etc/hosts -',
    )
    .argument('<from>', 'a file, VM:/PATH, or - for standard input')
    .argument('<to>', 'a file or folder, VM:/PATH, or - for standard output')
    .option('--mode <octal>', 'its permission bits in the guest (those it has here)')
    .option('--owner <user>', 'its owner in the guest, by name or number (as the file there, else root)')
    .option('--group <group>', 'its group in the guest')
    .option('-p, --parents', 'make the folders it lies in')
    .option('--wake', 'wake the VM for it when it sleeps')
    // What other programs take for folders is answered with how a folder goes.
    .addOption(new Option('-r, --recursive').hideHelp())
    .action(
      act(async (context, from: string, to: string, flags: CopyFlags) => {
        const [source, target] = [placeOf(from), placeOf(to)];
        if (flags.recursive) throw aFolder(from);
        if (source.kind !== 'vm' && target.kind !== 'vm')
          throw new UsageError(
            `Neither "${from}" nor "${to}" is in a VM: write VM:/PATH, such as web:/etc/hosts.`,
          );
        if (target.kind !== 'vm') {
          refuseFlags(flags);
          return fetchFile(context, source, target, flags);
        }
        return sendFile(context, source, target, flags);
      }),
    );
}

/** `VM:/PATH`, `-`, or a file here; one whose name has a colon is written with a `/` before that, as for scp. */
function placeOf(text: string): Place {
  if (text === '-') return { kind: 'stream', shown: text };
  const [, vm, path] = /^([A-Za-z0-9-]+):([^]*)$/.exec(text) ?? [];
  if (vm === undefined || path === undefined) {
    if (text === '') throw new UsageError('A file has no name.');
    return { kind: 'file', shown: text };
  }
  if (!path.startsWith('/'))
    throw new UsageError(
      `"${text}": a path in a VM begins with /, such as ${vm}:/${path}. A file of this machine is written ./${text}.`,
    );
  return { kind: 'vm', shown: text, vm, path };
}

function refuseFlags({ mode, owner, group, parents }: CopyFlags): void {
  const given = Object.entries({ mode, owner, group, parents }).find(([, value]) => value !== undefined);
  if (given) throw new UsageError(`--${given[0]} is for files that are copied into a VM.`);
}

async function sendFile(
  context: Context,
  source: Place,
  target: Place & { readonly kind: 'vm' },
  { mode, owner, group, parents, wake }: CopyFlags,
): Promise<number | undefined> {
  const { client } = context;
  const name = nameOf(source);
  const put = async (path: string): Promise<FileFacts & { readonly path: string }> => {
    const { content, bytes, mode: has } = await openSource(context, source, wake);
    let facts: FileFacts | undefined;
    await moving(context, `Copying ${source.shown}`, content, bytes, async (pieces) => {
      facts = await client.vms.writeFile(target.vm, path, pieces, {
        bytes,
        mode: mode ?? has?.toString(8).padStart(4, '0'),
        owner,
        group,
        parents,
        wake,
      });
    });
    if (!facts) throw new Error('nothing was written');
    return { path, ...facts };
  };
  const within = (): string => {
    if (name === undefined) throw new UsageError(`"${target.shown}" is a folder: name the file in it.`);
    return posix.join(target.path, name);
  };
  const written = target.path.endsWith('/')
    ? await put(within())
    : await put(target.path).catch((error: unknown) => {
        // As cp: into a folder that is there.
        if (
          error instanceof ApiError &&
          error.details['kind'] === 'folder' &&
          error.details['field'] === 'path' &&
          name !== undefined
        )
          return put(within());
        throw error;
      });
  return print(
    context,
    written,
    ({ path, size_bytes, mode: now, uid, gid }) =>
      `${target.vm}:${path} has ${formatBytes(size_bytes)}, mode ${now}, owner ${uid}:${gid}.`,
  );
}

async function fetchFile(
  context: Context,
  source: Place,
  target: Place,
  { wake }: CopyFlags,
): Promise<number | undefined> {
  const { content, bytes: total, mode = 0o644 } = await openSource(context, source, wake);
  const what = `Copying ${source.shown}`;
  if (target.kind === 'stream') {
    await moving(context, what, content, total, (pieces) => writeContent(context.io, pieces));
    return undefined;
  }
  const local = await localTarget(context, target.shown, nameOf(source) ?? '');
  const bytes = await moving(context, what, content, total, (pieces) =>
    local.isFile
      ? writeWhole(local.path, local.shown, pieces, { replace: true, mode: mode & 0o777 })
      : writeInto(local.path, local.shown, pieces),
  );
  return print(
    context,
    { file: local.path, bytes },
    () => `${local.shown} has ${formatBytes(bytes)} of ${source.shown}.`,
  );
}

async function openSource({ client, io }: Context, source: Place, wake: true | undefined): Promise<Coming> {
  if (source.kind === 'vm') {
    const file = await client.vms.readFile(source.vm, source.path, { wake });
    return { content: file.content, bytes: file.size_bytes, mode: Number.parseInt(file.mode, 8) & 0o777 };
  }
  if (source.kind === 'file') {
    const there = await stat(resolve(io.cwd, source.shown)).catch(() => undefined);
    if (there?.isDirectory()) throw aFolder(source.shown);
    return openFile(io, source.shown);
  }
  if (io.terminal.stdin) throw new UsageError('Nothing comes from a terminal: name a file, or redirect one.');
  return { content: io.inBytes(), bytes: undefined, mode: undefined };
}

/** Where a file is written here: beside what is in its place, or into what is no file, as a terminal or /dev/null. */
async function localTarget(
  { io }: Context,
  shown: string,
  name: string,
): Promise<{ readonly path: string; readonly shown: string; readonly isFile: boolean }> {
  const path = resolve(io.cwd, shown);
  const there = await stat(path).catch(() => undefined);
  if (there?.isDirectory()) {
    const inside = await stat(join(path, name)).catch(() => undefined);
    if (inside?.isDirectory())
      throw new UsageError(`${join(shown, name)} is a folder: name the file to write.`);
    return { path: join(path, name), shown: join(shown, name), isFile: inside?.isFile() ?? true };
  }
  if (shown.endsWith('/')) throw new UsageError(`There is no folder ${shown}`);
  return { path: there ? await realpath(path) : path, shown, isFile: there?.isFile() ?? true };
}

async function writeInto(path: string, shown: string, pieces: AsyncIterable<Uint8Array>): Promise<void> {
  const file = await open(path, 'w').catch((error: unknown) => {
    throw new UsageError(`${shown} cannot be written (${codeOf(error)}).`);
  });
  try {
    for await (const piece of pieces) await file.writeFile(piece);
  } finally {
    await file.close();
  }
}

/** What a file is called where it is put into a folder; undefined for what has no name. */
function nameOf(source: Place): string | undefined {
  if (source.kind === 'stream') return undefined;
  return source.kind === 'vm' ? posix.basename(source.path) : basename(source.shown);
}

function aFolder(shown: string): UsageError {
  const [, vm, path = ''] = /^([A-Za-z0-9-]+):([^]*)$/.exec(shown) ?? [];
  const how =
    vm === undefined
      ? `tar -cf - ${shown} | hatch vm cp - VM:/tmp/it.tar; hatch vm exec VM -- tar -xf /tmp/it.tar -C /srv`
      : `hatch vm exec ${vm} -- tar -cf /tmp/it.tar ${path}; hatch vm cp ${vm}:/tmp/it.tar .`;
  return new UsageError(`${shown}: vm cp copies files, not folders. A folder goes as one file: ${how}`);
}
