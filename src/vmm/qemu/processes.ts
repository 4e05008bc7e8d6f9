import { readlink, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { parseId, type VmId } from '../../base/ids.ts';
import { commandLine as argvOf } from '../../host/process.ts';
import { valueAfter } from '../processes.ts';
import { nameOf } from './command-line.ts';

/** The VM whose QEMU a process is: by its name, and by the folder it runs in, which lies in `folder`. */
export async function vmOfQemu(folder: string, pid: number): Promise<VmId | undefined> {
  const argv = await argvOf(pid);
  const name = argv ? valueAfter(argv, '-name') : '';
  const vmId = name.startsWith('hatch-') ? parseId('vm', name.slice('hatch-'.length)) : undefined;
  if (vmId === undefined || name !== nameOf(vmId)) return undefined;
  try {
    // A folder that was removed under it is shown with this after its name.
    const cwd = (await readlink(`/proc/${pid}/cwd`)).replace(/ \(deleted\)$/, '');
    return cwd === join(await realpath(folder), vmId) ? vmId : undefined;
  } catch {
    return undefined;
  }
}
