import { readdir } from 'node:fs/promises';
import { parseId } from '../base/ids.ts';
import { readIfThere, writeFileAtomic } from '../host/files.ts';
import type { Hosts } from '../store/store.ts';
import { whyNotWritten, type DataFolder } from './data-folder.ts';

/**
 * Which host a data folder is of. What is on disk is compared with the rows of this host, and what no row claims is removed: with
 * another name, or another database, that would be every VM.
 */

/**
 * The host's name: the one the first start left in the data folder, also when the machine is called otherwise since. `asked` is
 * HATCH_HOST_NAME, `own` the machine's name. Throws an Error in a sentence when another one is asked for.
 */
export async function hostNameOf(data: DataFolder, asked: string | undefined, own: string): Promise<string> {
  const kept = (await readIfThere(data.hostName))?.trim();
  if (kept === undefined || kept === '') {
    const name = asked ?? own;
    await writeFileAtomic(data.hostName, `${name}\n`, 0o644).catch((error: unknown) => {
      throw whyNotWritten(data, error);
    });
    return name;
  }
  if (asked !== undefined && asked !== kept)
    throw new Error(
      `HATCH_HOST_NAME is "${asked}", but the data folder ${data.root} is of the host "${kept}", and its VMs would be nobody's. Leave the name as it was, or use another HATCH_DATA_DIR.`,
    );
  return kept;
}

/** Throws an Error in a sentence when there are VMs in the data folder and the database has never heard of their host. */
export async function checkDatabaseOf(
  data: DataFolder,
  { hosts }: { readonly hosts: Pick<Hosts, 'get'> },
  hostName: string,
): Promise<void> {
  if (await hosts.get(hostName)) return;
  const vms = (await readdir(data.vms)).filter((name) => parseId('vm', name) !== undefined);
  if (vms.length === 0) return;
  throw new Error(
    `${data.vms} holds ${vms.length} VM${vms.length === 1 ? '' : 's'} of the host "${hostName}", of which the database knows nothing: DATABASE_URL leads to another one. Correct it, or move that folder away to begin without ${vms.length === 1 ? 'it' : 'them'}.`,
  );
}
