import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { Command } from 'commander';
import type { ImportedSnapshot } from '../../contract/snapshot.ts';
import { print, type Act } from './context.ts';
import type { Io } from './io.ts';
import { codeOf, moving, openFile, writeWhole } from './local-file.ts';
import { formatBytes, UsageError } from './words.ts';

interface ExportFlags {
  readonly output?: string;
  readonly keyFile?: string;
  readonly plain?: true;
  readonly force?: true;
}
interface ImportFlags {
  readonly name?: string;
  readonly keyFile?: string;
}

/** `hatch snapshot export|import`. */
export function fileCommands(snapshot: Command, act: Act): void {
  snapshot
    .command('export')
    .description(
      'write a snapshot to one file, for another installation; it holds all the guest had in memory',
    )
    .argument('<snapshot>', 'its name or id')
    .option('-o, --output <file>', 'the file, or - for standard output (<snapshot>.hatch)')
    .option(
      '--key-file <file>',
      'encrypt it with this key: 32 random bytes, as openssl rand -hex 32 makes them',
    )
    .option('--plain', 'do not encrypt it although snapshots are encrypted on the server')
    .option('-f, --force', 'replace a file that is there')
    .action(
      act(async (context, idOrName: string, options: ExportFlags) => {
        const { client, io } = context;
        if (options.keyFile !== undefined && options.plain)
          throw new UsageError('--key-file and --plain do not go together.');
        const key = await readKey(io, options.keyFile);
        const found = await client.snapshots.get(idOrName);
        const output = options.output ?? `${found.name ?? found.id}.hatch`;
        const content = client.snapshots.export(found.id, { key, plain: options.plain });
        if (output === '-') {
          if (io.terminal.stdout)
            throw new UsageError(
              'A snapshot is no text for a terminal: name a file with -o, or redirect it.',
            );
          await moving(context, `Exporting ${idOrName}`, content, undefined, async (pieces) => {
            for await (const piece of pieces) await io.outBytes(piece);
          });
          return undefined;
        }
        const path = resolve(io.cwd, output);
        const bytes = await moving(context, `Exporting ${idOrName}`, content, undefined, (pieces) =>
          writeWhole(path, output, pieces, { replace: options.force === true, mode: 0o600 }),
        );
        return print(
          context,
          { snapshot_id: found.id, file: path, bytes },
          () => `Snapshot ${idOrName} is in ${output}: ${formatBytes(bytes)}.`,
        );
      }),
    );

  snapshot
    .command('import')
    .description('make a snapshot, and a VM that sleeps as it, of a file that another installation exported')
    .argument('<file>', 'the file, or - for standard input')
    .option('--name <name>', 'the name of the snapshot (the one it had)')
    .option('--key-file <file>', 'the key it was encrypted with')
    .action(
      act(async (context, file: string, { name, keyFile }: ImportFlags) => {
        const { client, io } = context;
        if (file === '-' && io.terminal.stdin)
          throw new UsageError('Nothing comes from a terminal: name a file, or redirect one.');
        const key = await readKey(io, keyFile);
        const { content, bytes } = file === '-' ? { content: io.inBytes() } : await openFile(io, file);
        let made: ImportedSnapshot | undefined;
        await moving(context, `Importing ${file}`, content, bytes, async (pieces) => {
          made = await client.snapshots.import(pieces, { bytes, name, key });
        });
        return made && print(context, made, showImported);
      }),
    );
}

function showImported({ id, name, vm_id, differences }: ImportedSnapshot): string {
  const called = name === undefined ? `Snapshot ${id}` : `Snapshot ${name} (${id})`;
  if (differences.length > 0)
    return `${called} is here, and VM ${vm_id} sleeps as it. It cannot go on on this server: ${differences.join('; ')}.`;
  return (
    `${called} is here, and VM ${vm_id} sleeps as it.\n` +
    `Wake it: hatch vm start ${vm_id}. Make a copy: hatch vm create --snapshot ${name ?? id}`
  );
}

/** The text of a key's file, as the server is given it. Throws a UsageError for a file that cannot hold a key. */
async function readKey(io: Pick<Io, 'cwd'>, file: string | undefined): Promise<string | undefined> {
  if (file === undefined) return undefined;
  const bytes = await readFile(resolve(io.cwd, file)).catch((error: unknown) => {
    throw new UsageError(`--key-file ${file} cannot be read (${codeOf(error)}).`);
  });
  const text = bytes.toString('latin1').trim();
  if (/^[A-Za-z0-9+/_=-]{43,64}$/.test(text)) return text;
  if (bytes.length === 32) return bytes.toString('hex');
  throw new UsageError(
    `--key-file ${file} must hold 32 random bytes, in hexadecimal or base64: openssl rand -hex 32 makes them.`,
  );
}
