import { link, mkdir, realpath, rm, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { newId } from '../../src/base/ids.ts';
import { silent } from '../../src/base/logger.ts';
import type { GuestAgent } from '../../src/guest/agent.ts';
import { openAgent } from '../../src/guest/agent-client.ts';
import { makeDisk } from '../../src/guest/disk.ts';
import type { BuiltImage } from '../../src/guest/image/build-image.ts';
import { waitReady } from '../../src/guest/readiness.ts';
import { makeSeed, type SeedContent } from '../../src/guest/seed.ts';
import { readIfThere, reflink, tail } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';
import {
  CONSOLE_FILE,
  type Driver,
  type LoadOptions,
  type Machine,
  type MachineSpec,
  type SavedMachine,
} from '../../src/vmm/driver.ts';
import { builtImage } from './built-image.ts';

/** A machine of a test's own, with its agent. */
export interface RunningGuest {
  readonly spec: MachineSpec;
  readonly machine: Machine;
  readonly agent: GuestAgent;
}

/**
 * A guest that was booted once and saved: what needs a guest that is up, but not its booting, runs on forks of it. Its disk,
 * memory and state stay as they are.
 */
export interface BootedGuest {
  readonly driver: Driver;
  readonly saved: SavedMachine;
  /** Of the machine that was saved. */
  readonly spec: MachineSpec;
  /** What of it answered first when it was booted, and so many seconds after its start. */
  readonly answered: { readonly by: 'agent' | 'ssh'; readonly seconds: number };
  /** The keys its seed was given, for the user of its image. */
  readonly authorizedKeys: readonly string[];
  /** The user of its image. */
  readonly defaultUser: string;
  /** A copy that runs and whose agent answers, in about a second. */
  fork(options?: Partial<LoadOptions>): Promise<RunningGuest>;
  /** What a machine like that one needs to be loaded: a folder, a tap, and a disk that stands on its. */
  copyOf(spec: MachineSpec): Promise<MachineSpec>;
  /** A machine to be booted: a fresh disk of the image, a seed, a tap. */
  fresh(): Promise<MachineSpec>;
  /** Ends every machine and removes everything. */
  remove(): Promise<void>;
}

const BOOT_MS = 300_000;
const LOAD_MS = 60_000;
/** Nobody answers DHCP on the taps: what waits for an address waits in vain. */
const NO_WAITING = 'systemd.mask=systemd-networkd-wait-online.service';

/**
 * Boots a guest with two processors, 512 MiB and a network card, waits until it has come to rest, and saves it. `seed` is what
 * it is told besides the usual. Everything lies in `folder`, the folder of VMs that the driver was opened on; taps are made
 * in the namespace we are in.
 */
export async function bootAndSave(
  driver: Driver,
  folder: string,
  seed: Partial<SeedContent> = {},
): Promise<BootedGuest> {
  const guests = new Guests(driver, folder, seed);
  try {
    const spec = await guests.fresh();
    const machine = await driver.launch(spec, AbortSignal.timeout(LOAD_MS));
    const first = { spec, machine, agent: agentOf(machine) };
    guests.started.push(first);
    const answered = await comeToRest(first);
    await machine.pause();
    const saved = await machine.save({
      statePath: join(spec.folder, 'state.bin'),
      memoryPath: join(spec.folder, 'memory.bin'),
    });
    await machine.kill();
    return await guests.of({ saved, spec, answered, authorizedKeys: seed.sshAuthorizedKeys ?? [] });
  } catch (error) {
    await guests.remove();
    throw error;
  }
}

/** As `bootAndSave`; of the guest that was booted for several suites (booted.test.ts), where it was. */
export async function bootedOrBoot(
  driver: Driver,
  folder: string,
  seed: Partial<SeedContent>,
): Promise<BootedGuest> {
  const text = SHARED === undefined ? undefined : await readIfThere(join(SHARED, KEPT));
  if (text === undefined) return bootAndSave(driver, folder, seed);
  return new Guests(driver, folder, seed).of(JSON.parse(text) as Kept);
}

/**
 * Puts a guest that hatchd booted and saved where `bootedOrBoot` of other processes finds it: `folder` is its VM's, `disk` its frozen
 * disk. The files are linked, so hatchd's own may go.
 */
export async function keepForOthers(
  { saved, spec, ...rest }: Kept,
  { disk, shared }: { readonly disk: string; readonly shared: string },
): Promise<void> {
  const to = join(shared, 'machine');
  await mkdir(to);
  for (const name of ['kernel', 'initrd', 'base'])
    await symlink(await realpath(join(spec.folder, name)), join(to, name));
  const place = async (from: string, name: string): Promise<string> => {
    await link(from, join(to, name));
    return join(to, name);
  };
  await place(join(spec.folder, 'seed.iso'), 'seed.iso');
  await place(disk, spec.disks[0]?.path ?? '');
  const kept: Kept = {
    saved: {
      ...saved,
      statePath: await place(saved.statePath, 'state.bin'),
      memoryPath: saved.memoryPath === null ? null : await place(saved.memoryPath, 'memory.bin'),
    },
    spec: { ...spec, folder: to },
    ...rest,
  };
  await writeFile(join(shared, KEPT), JSON.stringify(kept));
}

/** What is known of a guest that was booted and saved. */
export type Kept = Pick<BootedGuest, 'saved' | 'spec' | 'answered' | 'authorizedKeys'>;
const SHARED = process.env['HATCH_TEST_BOOTED'];
const KEPT = 'machine.json';

/** The machines of one test, and what they need of the host. */
class Guests {
  readonly #driver: Driver;
  readonly #folder: string;
  readonly #seed: Partial<SeedContent>;
  readonly #taps: string[] = [];
  readonly started: RunningGuest[] = [];

  constructor(driver: Driver, folder: string, seed: Partial<SeedContent>) {
    this.#driver = driver;
    this.#folder = folder;
    this.#seed = seed;
  }

  /** The guest that was saved, and copies of it. */
  async of(kept: Kept): Promise<BootedGuest> {
    const driver = this.#driver;
    const { saved, spec } = kept;
    return {
      driver,
      ...kept,
      defaultUser: (await builtImage()).manifest.default_user,
      fresh: () => this.fresh(),
      copyOf: (one) => this.#copyOf(one),
      remove: () => this.remove(),
      fork: async ({ mapping = 'private', resume = true } = {}) => {
        const signal = AbortSignal.timeout(LOAD_MS);
        const copy = await this.#copyOf(spec);
        const loaded = await driver.load(copy, saved, { mapping, resume }, signal);
        const guest = { spec: copy, machine: loaded, agent: agentOf(loaded) };
        this.started.push(guest);
        if (resume) await guest.agent.ping(signal);
        return guest;
      },
    };
  }

  async fresh(): Promise<MachineSpec> {
    return freshSpec(this.#driver, await builtImage(), () => this.#place(), this.#seed);
  }

  async remove(): Promise<void> {
    for (const { agent, machine } of this.started) {
      agent.close();
      await machine.kill();
      await machine.release();
    }
    for (const { process } of await this.#driver.observe()) await this.#driver.reap(process);
    for (const tap of this.#taps) await run(['ip', 'link', 'del', 'dev', tap]);
    await rm(this.#folder, { recursive: true, force: true });
  }

  #copyOf(spec: MachineSpec): Promise<MachineSpec> {
    return copySpec(spec, () => this.#place());
  }

  async #place(): Promise<Pick<MachineSpec, 'vmId' | 'folder' | 'network'>> {
    const vmId = newId('vm');
    const own = join(this.#folder, vmId);
    await mkdir(own, { recursive: true, mode: 0o700 });
    const owner = await this.#driver.tapOwner({ vmId, folder: own });
    const user = owner === null ? [] : ['user', String(owner)];
    await run(['ip', 'tuntap', 'add', 'dev', vmId, 'mode', 'tap', ...user]);
    this.#taps.push(vmId);
    return { vmId, folder: own, network: { tap: vmId, mac: '02:fc:00:00:00:01' } };
  }
}

/** The agent of a machine. One at a time: close it before another is opened. */
export function agentOf(machine: Machine): GuestAgent {
  return openAgent({ connect: (signal) => machine.agent(signal), clock: systemClock, log: silent });
}

async function comeToRest({ spec, agent }: RunningGuest): Promise<BootedGuest['answered']> {
  const from = systemClock.steady();
  try {
    const by = await waitReady({ agent, clock: systemClock }, AbortSignal.timeout(BOOT_MS));
    const seconds = (systemClock.steady() - from) / 1000;
    await agent.exec(
      {
        command: 'systemctl is-system-running --wait; sync',
        cwd: null,
        env: {},
        stdin: null,
        timeoutMs: BOOT_MS,
      },
      AbortSignal.timeout(BOOT_MS),
    );
    return { by, seconds };
  } catch (error) {
    const console = await tail(join(spec.folder, CONSOLE_FILE), 4000);
    throw new Error(`the guest did not come up; its console ends:\n${console}`, { cause: error });
  } finally {
    agent.close();
  }
}

type Place = () => Promise<Pick<MachineSpec, 'vmId' | 'folder' | 'network'>>;

async function freshSpec(
  driver: Driver,
  image: BuiltImage,
  place: Place,
  seed: Partial<SeedContent>,
): Promise<MachineSpec> {
  const signal = AbortSignal.timeout(60_000);
  const own = await place();
  await symlink(driver.kernel === 'uncompressed' ? image.vmlinux : image.vmlinuz, join(own.folder, 'kernel'));
  await symlink(image.initrd, join(own.folder, 'initrd'));
  const disk = await makeDisk(
    { run },
    {
      folder: own.folder,
      imagePath: image.rootfs,
      imageFormat: 'raw',
      sizeBytes: null,
      qcow2: driver.capabilities.qcow2,
    },
    signal,
  );
  await makeSeed(
    { run },
    {
      hostname: 'booted',
      instanceId: 'booted-guest',
      userData: null,
      sshAuthorizedKeys: [],
      defaultUser: image.manifest.default_user,
      ...seed,
      path: join(own.folder, 'seed.iso'),
    },
    signal,
  );
  return {
    ...own,
    vcpuCount: 2,
    memMib: 512,
    kernel: 'kernel',
    initrd: 'initrd',
    bootArgs: `${image.manifest.boot_args} ${NO_WAITING}`,
    disks: [
      { path: disk.path, format: disk.format, readOnly: false, over: [] },
      { path: 'seed.iso', format: 'raw', readOnly: true },
    ],
    machineType: null,
  };
}

async function copySpec(of: MachineSpec, place: Place): Promise<MachineSpec> {
  const own = await place();
  for (const name of ['kernel', 'initrd', 'seed.iso']) {
    await symlink(join(of.folder, name), join(own.folder, name));
  }
  for (const { path, format, readOnly } of of.disks) {
    if (readOnly) continue;
    const [from, to] = [join(of.folder, path), join(own.folder, path)];
    if (format === 'qcow2')
      await run(['qemu-img', 'create', '-q', '-f', format, '-b', from, '-F', format, to]);
    else if (!(await reflink(from, to))) await run(['cp', '--sparse=always', from, to]);
  }
  const disks = of.disks.map((disk) =>
    disk.readOnly ? disk : { ...disk, over: [join(of.folder, disk.path), ...(disk.over ?? [])] },
  );
  return { ...of, ...own, disks };
}
