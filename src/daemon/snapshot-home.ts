import { open } from 'node:fs/promises';
import { isErrno } from '../base/errno.ts';
import { openFolderHome } from '../store/blobs/folder-home.ts';
import type { BlobHome } from '../store/blobs/home.ts';
import { parseMasterKey, type MasterKey } from '../store/blobs/keys.ts';
import type { Values } from './config.ts';
import type { SnapshotStore } from './config-values.ts';
import type { DataFolder } from './data-folder.ts';

export interface OpenHome {
  readonly home: BlobHome;
  /** For people: `dir:/var/lib/hatch/snapshots`, `s3://bucket/prefix`. */
  readonly name: string;
  close(): void;
}

type Settings = Pick<
  Values,
  | 'HATCH_SNAPSHOT_STORE'
  | 'HATCH_S3_ENDPOINT'
  | 'HATCH_S3_REGION'
  | 'HATCH_S3_ACCESS_KEY'
  | 'HATCH_S3_SECRET_KEY'
>;

/** Where snapshots are to be stored. */
export function whereSnapshots(
  { HATCH_SNAPSHOT_STORE: where }: Pick<Values, 'HATCH_SNAPSHOT_STORE'>,
  data: Pick<DataFolder, 'snapshots'>,
): SnapshotStore {
  return where ?? { kind: 'dir', path: data.snapshots };
}

/**
 * Opens where snapshots are stored. A folder is made; a bucket must be there, and nothing of it is asked yet. `patienceMs`: how
 * long one call of a bucket goes on trying. Throws BlobError when a folder cannot be used.
 */
export async function openHome(
  values: Settings,
  data: Pick<DataFolder, 'snapshots'>,
  { patienceMs }: { readonly patienceMs?: number } = {},
): Promise<OpenHome> {
  const where = whereSnapshots(values, data);
  if (where.kind === 'dir')
    return { home: await openFolderHome(where.path), name: `dir:${where.path}`, close: () => undefined };
  const { HATCH_S3_ACCESS_KEY: accessKeyId, HATCH_S3_SECRET_KEY: secretAccessKey } = values;
  // The client takes a good part of a second to load.
  const { openS3Home } = await import('../store/blobs/s3-home.ts');
  const home = openS3Home({
    bucket: where.bucket,
    prefix: where.prefix,
    endpoint: values.HATCH_S3_ENDPOINT,
    region: values.HATCH_S3_REGION,
    credentials:
      accessKeyId === undefined || secretAccessKey === undefined
        ? undefined
        : { accessKeyId, secretAccessKey },
    ...(patienceMs === undefined ? {} : { patienceMs }),
  });
  return { home, name: `s3://${where.bucket}/${where.prefix}`, close: () => home.close() };
}

/** The operator's key, and whether others than its owner may read its file. */
export interface SnapshotKey {
  readonly key: MasterKey;
  readonly open: boolean;
}

/** Reads HATCH_SNAPSHOT_KEY_FILE; undefined: none is set. Throws an Error in a sentence. */
export async function readSnapshotKey({
  HATCH_SNAPSHOT_KEY_FILE: path,
}: Pick<Values, 'HATCH_SNAPSHOT_KEY_FILE'>): Promise<SnapshotKey | undefined> {
  if (path === undefined) return undefined;
  const fail = (why: string, cause: unknown): Error =>
    new Error(`HATCH_SNAPSHOT_KEY_FILE ${path} ${why}`, { cause });
  try {
    const file = await open(path, 'r');
    try {
      // More than any key has: what is no key is not read whole.
      const { buffer, bytesRead } = await file.read(Buffer.alloc(1024), 0, 1024, 0);
      const { mode } = await file.stat();
      return { key: parseMasterKey(buffer.subarray(0, bytesRead)), open: (mode & 0o077) !== 0 };
    } finally {
      await file.close();
    }
  } catch (error) {
    if (isErrno(error, 'ENOENT'))
      throw fail(`is not there; \`openssl rand -hex 32 > ${path}\` makes one`, error);
    if (isErrno(error, 'EISDIR')) throw fail('is a folder; it must be a file', error);
    if (error instanceof Error && 'code' in error)
      throw fail(`cannot be read (${String(error.code)})`, error);
    throw fail(`is no key: ${error instanceof Error ? error.message : String(error)}`, error);
  }
}
