import { errorFields } from '../../base/logger.ts';
import { parseManifestId, parsePackId } from '../../store/blobs/format.ts';
import { nameOf } from './check.ts';
import type { ArchiveDeps } from './deps.ts';

/** How many blobs are taken away in one go, and how many goes a round has. */
const AT_A_TIME = 200;
const GOES = 10;

/**
 * Takes away what nobody needs and was condemned `graceMs` ago: first the rows say so, then the object goes, then the row says that
 * it is gone. Cut off anywhere, the next round goes on. Gives how many went.
 */
export async function collect(
  { store, home }: Pick<ArchiveDeps, 'store' | 'home'>,
  graceMs: number,
  signal: AbortSignal,
): Promise<number> {
  let went = 0;
  for (let go = 0; go < GOES; go++) {
    const blobs = await store.ledger.collect({ graceMs, limit: AT_A_TIME });
    for (const blob of blobs) {
      signal.throwIfAborted();
      await home.remove(nameOf(blob), signal);
      await store.ledger.gone(blob.id);
      went++;
    }
    if (blobs.length < AT_A_TIME) break;
  }
  return went;
}

/**
 * Removes objects whose rows say they are gone: a put that was thought lost may arrive after all. What no row knows is left alone, for
 * it may be another installation's. Gives how many there were.
 */
export async function sweep(
  { store, home, log }: Pick<ArchiveDeps, 'store' | 'home' | 'log'>,
  signal: AbortSignal,
): Promise<number> {
  let swept = 0;
  for await (const { name } of home.list('a/', signal)) {
    signal.throwIfAborted();
    const last = name.slice(name.lastIndexOf('/') + 1);
    const id = parsePackId(last) ?? parseManifestId(last);
    const blob = id === undefined ? null : await store.ledger.get(id);
    if (blob?.state !== 'deleted' || nameOf(blob) !== name) continue;
    try {
      await home.remove(name, signal);
      swept++;
    } catch (error) {
      signal.throwIfAborted();
      log.warn({ blob: last, ...errorFields(error) }, 'could not remove what is left of a blob');
    }
  }
  return swept;
}
