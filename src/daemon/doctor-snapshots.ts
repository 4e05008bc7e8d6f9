import { exists } from '../host/files.ts';
import { tryHome } from '../store/blobs/try-home.ts';
import type { Values } from './config.ts';
import type { DataFolder } from './data-folder.ts';
import { fail, ok, warn, type Found } from './doctor-finding.ts';
import { openHome, readSnapshotKey, whereSnapshots } from './snapshot-home.ts';

/** How long a store is tried, and how long it may take in all. */
const PATIENCE_MS = 3_000;
const LONGEST_MS = 20_000;

/** Whether the place where snapshots are stored keeps, gives back and removes, and the key they are encrypted with. */
export async function snapshotStore(values: Values, data: DataFolder): Promise<readonly Found[]> {
  return [...(await store(values, data)), ...(await key(values))];
}

async function store(values: Values, data: DataFolder): Promise<readonly Found[]> {
  const where = whereSnapshots(values, data);
  if (where.kind === 'dir' && !(await exists(where.path)))
    return ok(`dir:${where.path} is made at the first start`);
  try {
    const opened = await openHome(values, data, { patienceMs: PATIENCE_MS });
    try {
      await tryHome(opened.home, AbortSignal.timeout(LONGEST_MS));
    } finally {
      opened.close();
    }
    return ok(`${opened.name} keeps, gives back and removes`);
  } catch (error) {
    const late = error instanceof Error && error.name === 'TimeoutError';
    const why = late ? `it takes longer than ${LONGEST_MS / 1000} s` : told(error);
    const named = where.kind === 'dir' ? `dir:${where.path}` : `s3://${where.bucket}/${where.prefix}`;
    return fail(`${named} cannot be used: ${why}`);
  }
}

async function key(values: Values): Promise<readonly Found[]> {
  try {
    const found = await readSnapshotKey(values);
    if (!found) return ok('stored snapshots are not encrypted (HATCH_SNAPSHOT_KEY_FILE is not set)');
    const under = `stored snapshots are encrypted under the key ${found.key.id}`;
    return found.open
      ? warn(`${under}, and others than its owner may read its file; chmod 600 it`)
      : ok(`${under}; keep a copy of it elsewhere`);
  } catch (error) {
    return fail(told(error));
  }
}

function told(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
