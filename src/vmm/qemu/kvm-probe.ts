import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CommandFailed, type Run } from '../../host/run.ts';

interface Deps {
  readonly run: Run;
  readonly qemuBin: string;
  readonly machineType: string;
}

/** Real KVM counts this far in some milliseconds; one that emulates every instruction in the kernel needs minutes. */
const COUNT = 50_000_000;
const PROBE_MS = 3000;
/** isa-debug-exit ends QEMU with (value << 1) | 1. */
const SUCCESS = (0x21 << 1) | 1;

/** Finds out whether KVM runs code by running QEMU on it: with a boot sector that counts and ends QEMU. */
export async function qemuRunsUnderKvm({
  run,
  qemuBin,
  machineType,
}: Deps): Promise<'runs code' | 'opens but runs nothing' | 'refused'> {
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
    return 'runs code';
  } catch (error) {
    if (!(error instanceof CommandFailed)) throw error;
    // Killed at the deadline: it was still counting. Ended by itself: QEMU could not begin.
    return error.exitCode === undefined ? 'opens but runs nothing' : 'refused';
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
