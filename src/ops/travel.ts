import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { remove } from '../host/files.ts';
import { Failure, invalid } from '../model/failure.ts';
import { isBlobError } from '../store/blobs/blob-error.ts';
import type { TRAVEL } from './archive/deps.ts';
import { parseMasterKey, type MasterKey } from '../store/blobs/keys.ts';
import type { World } from './world.ts';
import { translate } from './translate.ts';

/** What export and import of snapshots have in common: their key, their folder, their errors. */

/** The header a key comes in, as errors name it. */
export const KEY_HEADER = 'Hatch-Snapshot-Key';

/** Works with a fresh name in the spool, and leaves nothing there. */
export async function inTravelFolder<T>(
  { archive }: Pick<World, 'archive'>,
  prefix: (typeof TRAVEL)[number],
  work: (folder: string) => Promise<T>,
): Promise<T> {
  const folder = join(archive.deps.spoolFolder, prefix + randomBytes(8).toString('hex'));
  try {
    return await work(folder);
  } finally {
    await remove(folder);
  }
}

/** The key a file is to be sealed or opened with. Throws `invalid_request` for what is none; it is never shown. */
export function readFileKey(text: string | undefined): MasterKey | undefined {
  if (text === undefined) return undefined;
  try {
    return parseMasterKey(Buffer.from(text, 'latin1'));
  } catch {
    throw invalid(
      KEY_HEADER,
      `"${KEY_HEADER}" must be 32 random bytes in hexadecimal or base64: openssl rand -hex 32 makes them.`,
    );
  }
}

/** What a caller is told of what went wrong with a file's bytes. */
export function explainFile(error: unknown): Failure {
  if (isBlobError(error, 'damaged', 'missing', 'refused'))
    return invalid('', `The snapshot file is not whole: ${error.message}.`);
  if (isBlobError(error, 'wrong_key'))
    return invalid(KEY_HEADER, `The snapshot file cannot be opened: ${error.message}.`);
  return noSpaceOr(error);
}

/** A full disk as that, anything else as every error is. */
export function noSpaceOr(error: unknown): Failure {
  if (isBlobError(error, 'no_space'))
    return new Failure(
      'no_space',
      "The host's disk is full. Remove VMs, snapshots or images you do not need, or give it more room.",
      { cause: error },
    );
  return translate(error);
}
