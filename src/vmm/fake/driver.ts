import { randomInt } from 'node:crypto';
import { appendFileSync, lstatSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isErrno } from '../../base/errno.ts';
import { systemClock } from '../../base/clock.ts';
import { remove } from '../../host/files.ts';
import {
  CONSOLE_FILE,
  VmmError,
  type Driver,
  type Machine,
  type MachineSpec,
  type SavedMachine,
} from '../driver.ts';
import { bornAs } from './identity.ts';
import { FAKE, FakeMachine, same, type FakeVmmFailures } from './machine.ts';
import {
  endFakeGuest,
  FAKE_FILE,
  RAM_FILE,
  readGuest,
  runningGuests,
  writeGuest,
  type FakeGuest,
} from './state.ts';

/** The boot that pretended guests are of. */
export const FAKE_BOOT_ID = 'pretended';

export type { FakeVmmFailures } from './machine.ts';

/** pids from here on belong to no process: Linux counts to 4,194,304 (PID_MAX_LIMIT, proc(5)). */
const FIRST_PID = 5_000_000;

/**
 * A hypervisor that pretends its guests with a file in each VM's folder under `folder`: they outlive the daemon, and what is left behind
 * shows. Passes the same suite as the real ones. `fail` is read at every call.
 */
export function openFake({
  folder,
  fail = {},
  qcow2 = false,
}: {
  readonly folder: string;
  readonly fail?: FakeVmmFailures;
  /** Whether it takes overlays for disks, whatever is in them. */
  readonly qcow2?: boolean;
}): Driver {
  const begin = async (
    what: 'launch' | 'load',
    spec: MachineSpec,
    { memory, ramFile, paused }: Pick<FakeGuest, 'memory' | 'ramFile' | 'paused'>,
    signal: AbortSignal,
  ): Promise<Machine> => {
    signal.throwIfAborted();
    if (fail[what] === 'before') throw new VmmError(`${what} was told to fail before its effect`);
    mustBe(spec, qcow2);
    const guest: FakeGuest = {
      vmId: spec.vmId,
      process: {
        pid: FIRST_PID + randomInt(2 ** 40),
        startTime: String(randomInt(2 ** 40)),
        bootId: FAKE_BOOT_ID,
      },
      startedAt: systemClock.now(),
      vcpuCount: spec.vcpuCount,
      memMib: spec.memMib,
      paused,
      memory,
      ramFile,
      disk: spec.disks[0]?.path ?? '',
      exit: null,
    };
    await writeGuest(spec.folder, guest);
    appendFileSync(
      join(spec.folder, CONSOLE_FILE),
      `[    0.000000] Linux version pretended\r\n\r\n${spec.vmId} login: `,
    );
    if (signal.aborted || fail[what] === 'after') {
      await remove(join(spec.folder, FAKE_FILE));
      signal.throwIfAborted();
      throw new VmmError(`${what} was told to fail after its effect`);
    }
    return new FakeMachine(spec, guest, fail);
  };
  return {
    name: 'fake',
    version: FAKE.version,
    accel: FAKE.accel,
    cpu: { model: 'pretended', flags: [] },
    capabilities: {
      snapshot: true,
      ramFile: true,
      privateMapping: true,
      dirtyPages: false,
      qcow2,
      agent: 'memory',
      powerButton: true,
      resumeKeepsAgent: true,
      savesRunning: true,
    },
    defaultBootArgs: 'console=ttyS0',
    kernel: 'compressed',
    launch: (spec, signal) =>
      begin(
        'launch',
        spec,
        {
          memory: bornAs(spec.network?.mac ?? null),
          ramFile: join(spec.folder, RAM_FILE),
          paused: false,
        },
        signal,
      ),
    async adopt(spec, process, signal) {
      signal.throwIfAborted();
      const guest = await readGuest(spec.folder);
      if (guest?.exit !== null || guest.vmId !== spec.vmId || !same(guest.process, process)) return undefined;
      return new FakeMachine(spec, guest, fail);
    },
    async load(spec, saved, options, signal) {
      mustFit(spec, saved);
      const memory = await memoryOf(saved);
      const ramFile = options.mapping === 'shared' ? saved.memoryPath : null;
      return begin('load', spec, { memory, ramFile, paused: !options.resume }, signal);
    },
    observe: async () =>
      (await runningGuests(folder)).map(({ vmId, guest }) => ({ vmId, process: guest.process })),
    async reap(process) {
      for (const one of await runningGuests(folder)) {
        if (same(one.guest.process, process)) await endFakeGuest(one.folder, { kind: 'killed' });
      }
    },
    clear: ({ folder: own }) => remove(join(own, RAM_FILE)),
    tapOwner: async () => null,
  };
}

/** What a VMM opens must be there; a link to a file that is not counts, as nothing is ever read of it. */
function mustBe(spec: MachineSpec, qcow2: boolean): void {
  if (!qcow2 && spec.disks.some(({ format }) => format !== 'raw'))
    throw new VmmError('only raw disks are known here');
  const paths = [
    spec.kernel,
    ...(spec.initrd === null ? [] : [spec.initrd]),
    ...spec.disks.map(({ path }) => path),
  ];
  for (const path of paths) {
    try {
      lstatSync(join(spec.folder, path));
    } catch (error) {
      if (isErrno(error, 'ENOENT'))
        throw new VmmError(`Could not open '${path}': No such file or directory`, { cause: error });
      throw error;
    }
  }
}

function mustFit(spec: MachineSpec, saved: SavedMachine): void {
  const fits =
    saved.driver === 'fake' &&
    saved.machineType === FAKE.machineType &&
    saved.accel === FAKE.accel &&
    saved.vcpuCount === spec.vcpuCount &&
    saved.memMib === spec.memMib;
  if (!fits)
    throw new VmmError(`a state of ${saved.driver} ${saved.version} does not load here`, {
      kind: 'incompatible',
    });
}

async function memoryOf({ statePath, memoryPath }: SavedMachine): Promise<FakeGuest['memory']> {
  try {
    JSON.parse(await readFile(statePath, 'utf8'));
    if (memoryPath === null) throw new Error('no memory was saved');
    return JSON.parse(await readFile(memoryPath, 'utf8')) as FakeGuest['memory'];
  } catch (error) {
    throw new VmmError('the saved state cannot be read', { cause: error });
  }
}
