import { constants } from 'node:fs';
import { access, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isErrno, readIfThere, writeFileAtomic } from '../../host/files.ts';
import { bootId } from '../../host/process.ts';
import { CommandFailed, type Run } from '../../host/run.ts';

/** Whether guests can run under KVM here, and why (not). */
export interface KvmVerdict {
  readonly usable: boolean;
  readonly reason:
    'runs code' | 'no /dev/kvm' | 'no right to /dev/kvm' | 'opens but runs nothing' | 'refused by QEMU';
}

interface Deps {
  readonly run: Run;
  readonly qemuBin: string;
  readonly machineType: string;
  readonly kvmVerdictFile: string;
}

/** Real KVM counts this far in some milliseconds; one that emulates every instruction in the kernel needs minutes. */
const COUNT = 50_000_000;
const PROBE_MS = 3000;
/** isa-debug-exit ends QEMU with (value << 1) | 1. */
const SUCCESS = (0x21 << 1) | 1;

/**
 * Finds out by running code, not by opening /dev/kvm: there are hosts where it opens, makes a vCPU, and then executes
 * nothing. The verdict holds for this boot of the host and is kept in a file.
 */
export async function kvmVerdict(deps: Deps): Promise<KvmVerdict> {
  const boot = await bootId();
  const kept = await readIfThere(deps.kvmVerdictFile);
  if (kept !== undefined) {
    try {
      const { bootId: of, usable, reason } = JSON.parse(kept) as KvmVerdict & { readonly bootId: string };
      if (of === boot && typeof usable === 'boolean') return { usable, reason };
    } catch {
      // An unreadable verdict is found anew.
    }
  }
  const verdict = await probe(deps);
  // Without the device nothing was run: it may appear when a module is loaded.
  if (verdict.reason === 'runs code' || verdict.reason === 'opens but runs nothing') {
    const text = JSON.stringify({ ...verdict, bootId: boot });
    // Where it cannot be kept (no folder yet, a full disk) it is found anew the next time.
    await writeFileAtomic(deps.kvmVerdictFile, text, 0o644).catch(() => undefined);
  }
  return verdict;
}

async function probe({ run, qemuBin, machineType }: Deps): Promise<KvmVerdict> {
  try {
    await access('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch (error) {
    return { usable: false, reason: isErrno(error, 'EACCES') ? 'no right to /dev/kvm' : 'no /dev/kvm' };
  }
  const folder = await mkdtemp(join(tmpdir(), 'hatch-kvm-'));
  try {
    await writeFile(join(folder, 'count.img'), probeDisk());
    await run(
      [
        qemuBin,
        ...[
          '-machine',
          machineType,
          '-accel',
          'kvm',
          '-cpu',
          'host',
          '-m',
          '16',
          '-nodefaults',
          '-no-user-config',
          '-display',
          'none',
          '-no-reboot',
        ],
        ...[
          '-drive',
          'file=count.img,format=raw,if=ide,snapshot=on',
          '-device',
          'isa-debug-exit,iobase=0xf4,iosize=0x04',
        ],
      ],
      { cwd: folder, timeoutMs: PROBE_MS, okExitCodes: [SUCCESS] },
    );
    return { usable: true, reason: 'runs code' };
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    // Killed at the deadline: it was still counting. Ended by itself: QEMU could not begin.
    return {
      usable: false,
      reason: error.exitCode === undefined ? 'opens but runs nothing' : 'refused by QEMU',
    };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** A disk of 1 MiB (the firmware passes over smaller ones) whose boot sector, in 16-bit real mode, counts to COUNT and then writes 0x21 to port 0xf4. */
export function probeDisk(): Buffer {
  const disk = Buffer.alloc(1024 * 1024);
  const count = Buffer.alloc(4);
  count.writeUInt32LE(COUNT);
  const code = Buffer.concat([
    Buffer.from([0xfa]), // cli
    Buffer.from([0x66, 0xb9]), // mov ecx, COUNT
    count,
    Buffer.from([0x66, 0x49]), // dec ecx
    Buffer.from([0x75, 0xfc]), // jnz to the dec
    Buffer.from([0xb0, 0x21]), // mov al, 0x21
    Buffer.from([0xe6, 0xf4]), // out 0xf4, al
    Buffer.from([0xf4, 0xeb, 0xfd]), // hlt, for ever
  ]);
  code.copy(disk);
  disk.writeUInt16LE(0xaa55, 510);
  return disk;
}
