import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { run } from '../../src/host/run.ts';
import { FIRECRACKER_DOUBLE } from '../../src/vmm/firecracker/testing/wrapper.ts';

/** The calls from a fresh process to a guest that runs, as the double's faults name them. */
export const BOOT_CALLS = [
  'GET /#1',
  ...['logger', 'metrics', 'serial', 'machine-config', 'boot-source', 'drives/disk0', 'drives/disk1']
    .concat(['network-interfaces', 'vsock', 'entropy', 'actions#1'])
    .map((path) => `PUT /${path}`),
];

/** A double, named as a daemon's program, that goes wrong for those VMs that it is told of, whenever it is told. */
export interface FaultyDouble {
  /** Absolute path of the program. */
  readonly bin: string;
  /** What goes wrong in the next Firecracker of a VM (knobs.ts). */
  tell(vmId: string, knobs: Readonly<Record<`FC_DOUBLE_${string}`, string>>): Promise<void>;
  /** What a shell does before it becomes the next Firecracker of a VM, whose id is in $id. */
  tellShell(vmId: string, script: string): Promise<void>;
  /** All go well again. */
  forget(): Promise<void>;
}

/** Writes one in `folder`; `program`: of Firecracker, or of the jailer, which hands its knobs on. */
export async function makeFaultyDouble(folder: string, program = FIRECRACKER_DOUBLE): Promise<FaultyDouble> {
  const told = join(folder, 'told');
  await mkdir(told, { recursive: true });
  const bin = join(folder, 'faulty-double');
  const lines = [
    '#!/bin/sh',
    'last= id=',
    'for word; do [ "$last" = --id ] && id=$word; last=$word; done',
    `if [ -n "$id" ] && [ -f '${told}'/"$id" ]; then . '${told}'/"$id"; fi`,
    `exec '${program}' "$@"`,
  ];
  await writeFile(bin, `${lines.join('\n')}\n`, { mode: 0o755 });
  return {
    bin,
    tell: (vmId, knobs) =>
      writeFile(
        join(told, vmId),
        Object.entries(knobs)
          .map(([name, value]) => `export ${name}='${value}'\n`)
          .join(''),
      ),
    tellShell: (vmId, script) => writeFile(join(told, vmId), script),
    forget: async () => {
      await rm(told, { recursive: true });
      await mkdir(told);
    },
  };
}

/** Makes an image of a few MiB, good enough for guests that are pretended, and gives the settings that name it. */
export async function smallImage(folder: string): Promise<Readonly<Record<string, string>>> {
  const [kernel, rootfs] = [join(folder, 'vmlinux'), join(folder, 'rootfs.ext4')];
  // The double looks at no more of a kernel than its first bytes.
  await writeFile(kernel, '\x7fELF, and so on');
  await run(['mkfs.ext4', '-q', rootfs, '8M']);
  return { HATCH_DEFAULT_KERNEL_PATH: kernel, HATCH_DEFAULT_ROOTFS_PATH: rootfs };
}
