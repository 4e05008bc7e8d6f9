import { setTimeout as sleep } from 'node:timers/promises';
import type { Command } from 'commander';
import type { Snapshot } from '../../contract/snapshot.ts';
import { print, waiting, type Act, type Context } from './context.ts';
import { removeAll, type RemoveOptions } from './remove.ts';
import { showDiff, showFiles, writeContent } from './show-files.ts';
import { fileCommands } from './snapshot-file.ts';
import { showSaved, showSnapshot, showSnapshots, transferOf } from './show-snapshot.ts';
import { showOutcome, showVms } from './show-vm.ts';
import { readWait, withWait, type WaitFlags } from './vm.ts';
import { parseSeconds, parseWhole, UsageError } from './words.ts';

const PROGRESS_MS = 1000;

/** `hatch vm snapshot|restore|fork`. */
export function savingCommands(vm: Command, act: Act): void {
  vm.command('snapshot')
    .description('save a running VM: it sleeps then, its memory freed, or goes on')
    .argument('<vm>', 'its name or id')
    .option('--name <name>', "the snapshot's name, unique in the account")
    .option('--keep-running', 'let the VM go on afterwards')
    .option('--stored', 'wait until the snapshot is safe in the store')
    .option('--timeout <duration>', 'how long to wait for that at most (60s)')
    .action(
      act(async (context, name: string, options: SaveOptions) => {
        if (options.timeout !== undefined && !options.stored)
          throw new UsageError('--timeout goes with --stored.');
        const timeout =
          options.timeout === undefined ? undefined : parseSeconds('--timeout', options.timeout);
        const work = context.client.vms.snapshot(name, {
          ...(options.name === undefined ? {} : { name: options.name }),
          ...(options.keepRunning ? { keep_running: true } : {}),
        });
        const made = await waiting(context, `Saving ${name}`, work);
        const shown = options.stored ? await untilStored(context, made, timeout) : made;
        return print(context, shown, (one) => showSaved(one, name, options.keepRunning === true));
      }),
    );

  withWait(vm.command('restore'))
    .description('wake a sleeping VM, or put it back to an earlier snapshot of its own')
    .argument('<vm>', 'its name or id')
    .argument('[snapshot]', "a snapshot's name or id (the one it sleeps as)")
    .option('--discard', 'lose what is on the disk of a stopped VM now')
    .action(
      act(async (context, name: string, snapshot: string | undefined, options: RestoreFlags) => {
        const request = {
          ...(snapshot === undefined ? {} : { snapshot_id: snapshot }),
          ...(options.discard ? { discard: true } : {}),
        };
        const work = context.client.vms.restore(name, request, readWait(options));
        return print(context, await waiting(context, `Waking ${name}`, work), showOutcome);
      }),
    );

  withWait(vm.command('fork'))
    .description('copy a running or sleeping VM; each copy is a VM of its own')
    .argument('<vm>', 'its name or id')
    .option('--count <n>', 'how many copies (1)')
    .option('--name <name>', "the copy's name; several are numbered: name-1, name-2...")
    .option('--sleep', 'let a running VM sleep afterwards')
    .action(
      act(async (context, name: string, options: ForkFlags) => {
        const request = {
          ...(options.count === undefined ? {} : { count: parseWhole('--count', options.count) }),
          ...(options.name === undefined ? {} : { name: options.name }),
          ...(options.sleep ? { keep_running: false } : {}),
        };
        const work = context.client.vms.fork(name, request, readWait(options));
        const made = await waiting(context, `Copying ${name}`, work);
        return print(context, made, (list) => showVms(list, context.io.now()));
      }),
    );
}

interface SaveOptions {
  readonly name?: string;
  readonly keepRunning?: true;
  readonly stored?: true;
  readonly timeout?: string;
}
interface RestoreFlags extends WaitFlags {
  readonly discard?: true;
}
interface ForkFlags extends WaitFlags {
  readonly count?: string;
  readonly name?: string;
  readonly sleep?: true;
}

/** `hatch snapshot ls|get|rename|verify|rm|files|cat|diff|export|import`. */
export function snapshotCommands(snapshot: Command, act: Act): void {
  snapshot
    .command('ls')
    .alias('list')
    .description('list snapshots, newest first')
    .option('--vm <vm>', 'only those of this VM')
    .option('--limit <n>', 'at most so many')
    .option('--all', 'of every account (operators)')
    .option('-q, --quiet', 'only ids')
    .action(
      act(async (context, { vm, all, quiet, ...options }: ListFlags) => {
        if (vm !== undefined && all) throw new UsageError('--vm and --all do not go together.');
        const limit = options.limit === undefined ? undefined : parseWhole('--limit', options.limit);
        const found = await (vm === undefined
          ? context.client.snapshots.list({ all, limit })
          : context.client.vms.snapshots(vm, { limit }));
        if (quiet && !context.json) {
          for (const { id } of found) context.io.out(`${id}\n`);
          return undefined;
        }
        return print(context, found, (list) => showSnapshots(list, context.io.now(), vm));
      }),
    );

  snapshot
    .command('get')
    .description('show one snapshot')
    .argument('<snapshot>', 'its name or id')
    .action(
      act(async (context, name: string) =>
        print(context, await context.client.snapshots.get(name), (one) =>
          showSnapshot(one, context.io.now()),
        ),
      ),
    );

  snapshot
    .command('rename')
    .description('name a snapshot')
    .argument('<snapshot>', 'its name or id')
    .argument('<name>', 'the new name; "" takes it away')
    .action(
      act(async (context, snapshotName: string, name: string) => {
        const patch = { name: name === '' ? null : name };
        const changed = await context.client.snapshots.update(snapshotName, patch);
        return print(context, changed, (one) =>
          one.name === undefined
            ? `Snapshot ${one.id} has no name now.`
            : `Snapshot ${one.id} is named ${one.name} now.`,
        );
      }),
    );

  snapshot
    .command('verify')
    .description('prove a snapshot: wake it apart from everything, ask its agent, destroy it again')
    .argument('<snapshot>', 'its name or id')
    .action(
      act(async (context, name: string) => {
        const proven = await waiting(context, `Proving ${name}`, context.client.snapshots.verify(name));
        return print(context, proven, (one) => `Snapshot ${one.id} woke, and its guest answered.`);
      }),
    );

  snapshot
    .command('rm')
    .alias('delete')
    .description('remove snapshots for good')
    .argument('<snapshot...>', 'names or ids')
    .option('-y, --yes', 'do not ask')
    .option('-f, --force', 'the same')
    .action(
      act((context, names: readonly string[], options: RemoveOptions) =>
        removeAll(context, names, options, {
          question: `Remove ${names.length === 1 ? 'snapshot' : 'snapshots'} ${names.join(', ')} for good?`,
          remove: (name) => context.client.snapshots.delete(name),
        }),
      ),
    );

  lookCommands(snapshot, act);
  fileCommands(snapshot, act);
}

/** `hatch snapshot files|cat|diff`. */
function lookCommands(snapshot: Command, act: Act): void {
  snapshot
    .command('files')
    .description('list a folder on the disk of a snapshot; nothing is woken')
    .argument('<snapshot>', 'its name or id')
    .argument('[path]', 'the folder (/)')
    .option('--base64', 'the path is base64 of its bytes, as the listing shows those that are no text')
    .option('--limit <n>', 'at most so many')
    .action(
      act(async (context, name: string, path: string | undefined, options: LookFlags) => {
        const asked = { ...readPath(path, options), ...readLimit(options) };
        const work = context.client.snapshots.files(name, asked);
        return print(context, await waiting(context, `Looking into ${name}`, work), showFiles);
      }),
    );

  snapshot
    .command('cat')
    .description('write a file on the disk of a snapshot to standard output')
    .argument('<snapshot>', 'its name or id')
    .argument('<path>', 'the file')
    .option('--base64', 'the path is base64 of its bytes')
    .action(
      act(async (context, name: string, path: string, options: LookFlags) => {
        const content = context.client.snapshots.readFile(name, readPath(path, options));
        await writeContent(context.io, content);
        return undefined;
      }),
    );

  snapshot
    .command('diff')
    .description('list what is another on the disk of a second snapshot')
    .argument('<before>', 'its name or id')
    .argument('<after>', 'its name or id')
    .option('--path <path>', 'only what is there (/)')
    .option('--base64', 'the path is base64 of its bytes')
    .option('--limit <n>', 'at most so many changes (1000)')
    .action(
      act(async (context, before: string, after: string, options: LookFlags & { path?: string }) => {
        const asked = { ...readPath(options.path, options), ...readLimit(options) };
        const work = context.client.snapshots.diff(before, after, asked);
        return print(context, await waiting(context, `Comparing ${before} with ${after}`, work), showDiff);
      }),
    );
}

interface LookFlags {
  readonly base64?: true;
  readonly limit?: string;
}

function readPath(path: string | undefined, { base64 }: LookFlags) {
  if (path === undefined) return {};
  return base64 ? { path_base64: path } : { path };
}

function readLimit({ limit }: LookFlags): { limit?: number } {
  return limit === undefined ? {} : { limit: parseWhole('--limit', limit) };
}

interface ListFlags {
  readonly vm?: string;
  readonly limit?: string;
  readonly all?: true;
  readonly quiet?: true;
}

/** The snapshot once it is durable; on a terminal, how many of its bytes are there stands there meanwhile. */
async function untilStored(
  context: Context,
  { id }: Snapshot,
  timeout: number | undefined,
): Promise<Snapshot> {
  const { client, io } = context;
  const ended = new AbortController();
  let progress = '';
  const work = client.snapshots
    .get(id, { wait: 'stored', ...(timeout === undefined ? {} : { timeout }) })
    .finally(() => ended.abort());
  const watch = async (): Promise<void> => {
    while (!ended.signal.aborted) {
      await sleep(PROGRESS_MS, undefined, { signal: ended.signal });
      progress = transferOf(await client.snapshots.get(id, { signal: ended.signal })) ?? '';
    }
  };
  // What only shows how far it is must not be what fails.
  const watching = io.terminal.stderr ? watch().catch(() => undefined) : undefined;
  try {
    return await waiting(context, () => `Storing ${id}${progress && `: ${progress}`}`, work);
  } finally {
    await watching;
  }
}
