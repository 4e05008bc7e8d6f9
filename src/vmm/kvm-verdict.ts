import { open } from 'node:fs/promises';
import { isErrno } from '../base/errno.ts';
import { readIfThere, writeFileAtomic } from '../host/files.ts';
import { bootId } from '../host/process.ts';

/** Whether guests can run under KVM here, and why (not). */
export interface KvmVerdict {
  readonly usable: boolean;
  readonly reason:
    'runs code' | 'no /dev/kvm' | 'no right to /dev/kvm' | 'opens but runs nothing' | 'refused';
}

/**
 * The verdict on KVM, found by `probe` running code in it: there are hosts where /dev/kvm opens, makes a vCPU, and then
 * executes nothing. It holds for this boot of the host and is kept in a file, whoever found it.
 */
export async function kvmVerdict(
  file: string,
  probe: () => Promise<'runs code' | 'opens but runs nothing' | 'refused'>,
): Promise<KvmVerdict> {
  const boot = await bootId();
  const kept = await readIfThere(file);
  if (kept !== undefined) {
    try {
      const { bootId: of, usable, reason } = JSON.parse(kept) as KvmVerdict & { readonly bootId: string };
      if (of === boot && typeof usable === 'boolean') return { usable, reason };
    } catch {
      // An unreadable verdict is found anew.
    }
  }
  // Without the device nothing is run: it may appear when a module is loaded.
  const closed = await kvmDevice();
  if (closed !== null) return { usable: false, reason: closed };
  const reason = await probe();
  const verdict = { usable: reason === 'runs code', reason };
  if (reason !== 'refused') {
    // Where it cannot be kept (no folder yet, a full disk) it is found anew the next time.
    await writeFileAtomic(file, JSON.stringify({ ...verdict, bootId: boot }), 0o644).catch(() => undefined);
  }
  return verdict;
}

/**
 * Whether /dev/kvm opens; null: it does. It is opened, not looked at: root may read the file and have no right to the device, as in
 * a container (EPERM).
 */
export async function kvmDevice(): Promise<'no /dev/kvm' | 'no right to /dev/kvm' | null> {
  try {
    await (await open('/dev/kvm', 'r+')).close();
    return null;
  } catch (error) {
    return isErrno(error, 'EACCES') || isErrno(error, 'EPERM') ? 'no right to /dev/kvm' : 'no /dev/kvm';
  }
}
