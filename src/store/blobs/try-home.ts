import { createHash, randomBytes } from 'node:crypto';
import { damaged, isBlobError } from './blob-error.ts';
import type { BlobHome } from './home.ts';

/**
 * Writes, lists, reads and removes a small blob: whether a home can be used. Throws BlobError with what went wrong first. What
 * it wrote is removed again, unless that is what does not work.
 */
export async function tryHome(home: BlobHome, signal?: AbortSignal): Promise<void> {
  const bytes = randomBytes(1024);
  const name = `trial-${randomBytes(8).toString('hex')}`;
  const sha256 = createHash('sha256').update(bytes).digest('hex');
  try {
    await home.put(name, { bytes }, { sha256, ...(signal && { signal }) });
    const back = await home.getRange(name, 1, bytes.length - 1, signal);
    if (!back.equals(bytes.subarray(1))) throw damaged(`${name} came back as other bytes than were put`);
    let listed = false;
    for await (const found of home.list(name, signal)) listed ||= found.name === name;
    if (!listed) throw damaged(`${name} was put and is not in the list`);
  } catch (error) {
    // Whether it is there is not known; what went wrong first is what is told.
    if (!isBlobError(error, 'refused', 'unreachable')) await home.remove(name).catch(() => undefined);
    throw error;
  }
  await home.remove(name, signal);
  if (await home.head(name, signal)) throw damaged(`${name} was removed and is still there`);
}
