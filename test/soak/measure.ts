import assert from 'node:assert/strict';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { run } from '../../src/host/run.ts';
import { CLASSES, SMALL_LEFT } from '../../src/ops/archive/choose-packs.ts';
import { qemus, type Hatchd } from '../support/hatchd.ts';
import { processesIn } from '../support/netns.ts';

const MIB = 2 ** 20;
/** Packs below so many bytes are small. */
const SMALL = CLASSES.at(-1) ?? 0;

interface Weight {
  readonly files: number;
  /** Blocks, not sizes: holes are free. */
  readonly bytes: number;
}

/** What there is of hatchd and of everything it made. */
export interface Measure {
  readonly rss: number;
  readonly openFiles: number;
  readonly threads: number;
  /** By the folder directly below the data folder. */
  readonly files: Readonly<Record<string, Weight>>;
  readonly rows: Readonly<Record<string, number>>;
  /** Packs and manifests by the database, that are not removed. */
  readonly blobs: number;
  readonly blobBytes: number;
  readonly packs: number;
  /** Those that are small, and so are merged where there are many. */
  readonly smallPacks: number;
  readonly links: number;
  readonly rules: number;
  readonly processes: number;
  readonly guests: number;
}

/** Looks at a daemon, its data folder and the network namespace we are in. */
export async function measure(hatchd: Pick<Hatchd, 'data'>, pid: number): Promise<Measure> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const field = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1]);
  const files: Record<string, Weight> = {};
  for (const name of await readdir(hatchd.data)) files[name] = await weigh(join(hatchd.data, name));
  const { stdout: rules } = await run(['nft', 'list', 'ruleset']);
  return {
    rss: field('VmRSS') * 1024,
    openFiles: (await readdir(`/proc/${pid}/fd`)).length,
    threads: field('Threads'),
    files,
    ...inDatabase(join(hatchd.data, 'hatch.db')),
    links: (await readdir('/sys/class/net')).length,
    rules: rules.split('\n').length,
    processes: (await processesIn('/proc/self/ns/net')).length,
    guests: (await qemus()).size,
  };
}

function inDatabase(path: string): Pick<Measure, 'rows' | 'blobs' | 'blobBytes' | 'packs' | 'smallPacks'> {
  const db = new DatabaseSync(path, { readOnly: true });
  try {
    const rows: Record<string, number> = {};
    for (const { name } of db.prepare(`select name from sqlite_master where type = 'table'`).all())
      if (typeof name === 'string')
        rows[name] = Number(db.prepare(`select count(*) as n from "${name}"`).get()?.['n']);
    const [all, packs, small] = [
      `state <> 'deleted'`,
      `state = 'live' and kind = 'pack'`,
      `state = 'live' and kind = 'pack' and bytes < ${SMALL}`,
    ].map((which) =>
      db.prepare(`select count(*) as n, coalesce(sum(bytes), 0) as bytes from blobs where ${which}`).get(),
    );
    return {
      rows,
      blobs: Number(all?.['n']),
      blobBytes: Number(all?.['bytes']),
      packs: Number(packs?.['n']),
      smallPacks: Number(small?.['n']),
    };
  } finally {
    db.close();
  }
}

async function weigh(path: string): Promise<Weight> {
  const there = await stat(path).catch(() => undefined);
  if (!there) return { files: 0, bytes: 0 };
  if (!there.isDirectory()) return { files: 1, bytes: there.blocks * 512 };
  const inside = await Promise.all((await readdir(path)).map((name) => weigh(join(path, name))));
  return inside.reduce((sum, { files, bytes }) => ({ files: sum.files + files, bytes: sum.bytes + bytes }), {
    files: 0,
    bytes: 0,
  });
}

/** One line for people. */
export function describe(measured: Measure): string {
  const { rss, openFiles, threads, files, rows, blobs, packs, smallPacks, links, processes } = measured;
  const weights = Object.entries(files)
    .filter(([, { bytes }]) => bytes > MIB / 8)
    .map(([name, { files, bytes }]) => `${name} ${files} files ${mib(bytes)}`);
  const counts = Object.entries(rows).map(([name, count]) => `${name} ${count}`);
  return [
    `hatchd ${mib(rss)}, ${openFiles} files open, ${threads} threads`,
    weights.join(', '),
    `${blobs} blobs (${packs} packs, ${smallPacks} of them small), ${links} links, ${processes} processes`,
    `rows: ${counts.join(', ')}`,
  ].join('; ');
}

/** What every round leaves: events are kept a month, operations and rests as long as their VM, tombstones of blobs for ever. */
const HISTORY: Readonly<Record<string, number>> = {
  events: 6,
  operations: 3,
  operation_steps: 40,
  vm_rests: 1,
  blobs: 4,
};
/** Disks that stand on each other, at most so many before one is made that stands alone; files of a layer each. */
const CHAIN = 8;
/** hatchd's memory goes up and down by so much without growing. */
const RSS_NOISE = 40 * MIB;

/** So much more is stored of a guest that counts and logs when it has done so for a while. */
const STORED_MIB = 64;

/** Throws an AssertionError that says all that grew between two measures with so many rounds between them. */
export function compare(before: Measure, after: Measure, { rounds }: { readonly rounds: number }): void {
  // Small ones are merged until only so many are left; every other takes its part of what is stored.
  const packs = SMALL_LEFT + Math.ceil((STORED_MIB * MIB) / SMALL);
  const rowsMayGrow = (name: string): number => {
    if (name === 'layers') return CHAIN;
    return name === 'snapshot_blobs' ? packs : (HISTORY[name] ?? 0) * rounds;
  };
  // After so many that stand on each other a disk is made that stands alone, at most as large as all of the image.
  const alone = (before.files['images'] ?? NOTHING).bytes / MIB;
  const mibMayGrow = (name: string): number =>
    (MAY_GROW[name]?.mib ?? 1) + (name === 'layers' || name === 'vms' ? alone : 0);
  const grown: string[] = [];
  const look = (what: string, was: number, is: number, may: number): void => {
    if (is > was + may) grown.push(`${what} grew from ${was} to ${is}, and ${was + may} is the most`);
  };
  look('small packs', 0, after.smallPacks, SMALL_LEFT);
  look("hatchd's memory (MiB)", before.rss / MIB, after.rss / MIB, RSS_NOISE / MIB);
  look('open files', before.openFiles, after.openFiles, 2);
  look('threads', before.threads, after.threads, 0);
  look('links', before.links, after.links, 0);
  look("the rules' lines", before.rules, after.rules, 0);
  look('processes', before.processes, after.processes, 0);
  look('guests', before.guests, after.guests, 0);
  for (const name of new Set([...Object.keys(before.rows), ...Object.keys(after.rows)]))
    look(`rows of ${name}`, before.rows[name] ?? 0, after.rows[name] ?? 0, rowsMayGrow(name));
  for (const name of new Set([...Object.keys(before.files), ...Object.keys(after.files)])) {
    if (name.startsWith('hatch.db')) continue;
    const [was, is] = [before.files[name] ?? NOTHING, after.files[name] ?? NOTHING];
    look(
      `files in ${name}`,
      was.files,
      is.files,
      name === 'snapshots' ? packs : (MAY_GROW[name]?.files ?? 0),
    );
    look(`MiB in ${name}`, was.bytes / MIB, is.bytes / MIB, mibMayGrow(name));
  }
  const home = after.files['snapshots'] ?? NOTHING;
  if (home.files !== after.blobs)
    grown.push(`the store has ${home.files} files, and the database knows of ${after.blobs}`);
  assert.deepEqual(grown, [], grown.join('\n'));
}

const NOTHING: Weight = { files: 0, bytes: 0 };
/** What a guest that counts and logs changes while it does: its disks, its memory, and what is stored of both. */
const MAY_GROW: Readonly<Record<string, { readonly files: number; readonly mib: number }>> = {
  layers: { files: CHAIN, mib: 128 },
  vms: { files: 2, mib: 128 },
  snapshots: { files: 0, mib: STORED_MIB },
};

function mib(bytes: number): string {
  return `${Math.round(bytes / MIB)} MiB`;
}
