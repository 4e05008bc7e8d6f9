import { mkdtemp, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import { once } from 'node:events';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { makeDisk } from '../../src/guest/disk.ts';
import { findBuiltImage, type BuiltImage } from '../../src/guest/image/build-image.ts';
import { makeSeed } from '../../src/guest/seed.ts';
import { isAlive, signalProcess, spawnDetached, type ProcessIdentity } from '../../src/host/process.ts';
import { tail } from '../../src/host/files.ts';
import { run } from '../../src/host/run.ts';

/** A guest under QEMU by hand, without driver, network or store: for what is said to a guest, not for how it is kept. */
export interface RawGuest {
  readonly folder: string;
  readonly image: BuiltImage;
  /** A stream to its agent. */
  agent(signal: AbortSignal): Promise<Duplex>;
  /** Lets the whole machine stand still, or go on. */
  stand(still: boolean): Promise<void>;
  /** Resolves when QEMU has ended by itself. */
  readonly ended: Promise<unknown>;
  /** The last lines of its console. */
  console(): Promise<string>;
  /** Ends it and removes its folder. */
  remove(): Promise<void>;
}

/** The image `hatchd image build` made; HATCH_TEST_IMAGES names another folder than the repository's. Throws without one. */
export async function builtImage(): Promise<BuiltImage> {
  const folder = process.env['HATCH_TEST_IMAGES'] ?? join(import.meta.dirname, '../../data/images');
  const image = await findBuiltImage(folder);
  if (!image) throw new Error(`There is no built image in ${folder}: run "bin/hatchd image build" first.`);
  return image;
}

/** Boots a guest with two processors and 512 MiB. It runs when this resolves; it answers later. */
export async function bootRawGuest(seed: {
  readonly userData: string | null;
  readonly sshAuthorizedKeys: readonly string[];
}): Promise<RawGuest> {
  const image = await builtImage();
  const folder = await mkdtemp(join(tmpdir(), 'hatch-raw-'));
  const signal = AbortSignal.timeout(60_000);
  const wanted = {
    folder,
    imagePath: image.rootfs,
    imageFormat: 'raw',
    sizeBytes: null,
    qcow2: true,
  } as const;
  const disk = await makeDisk({ run }, wanted, signal);
  await makeSeed(
    { run },
    {
      ...seed,
      path: join(folder, 'seed.iso'),
      hostname: 'raw',
      instanceId: 'raw-guest',
      defaultUser: image.manifest.default_user,
    },
    signal,
  );
  const drive = (file: string, format: string, more: string): string[] => [
    ...['-drive', `file=${file},format=${format},if=none,id=${file}${more}`],
    ...['-device', `virtio-blk-pci,drive=${file}`],
  ];
  const { identity, exited } = await spawnDetached(
    [
      'qemu-system-x86_64',
      ...['-M', 'q35', '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp', '2', '-m', '512'],
      ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
      ...['-kernel', image.vmlinuz, '-initrd', image.initrd, '-append', image.manifest.boot_args],
      ...drive(disk.path, disk.format, ''),
      ...drive('seed.iso', 'raw', ',readonly=on'),
      ...['-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
      ...['-chardev', 'socket,path=agent.sock,server=on,wait=off,id=agent'],
      ...['-device', 'virtserialport,chardev=agent,name=org.qemu.guest_agent.0'],
      ...['-chardev', 'file,path=console.log,id=console', '-serial', 'chardev:console'],
    ],
    { cwd: folder, log: join(folder, 'qemu.log') },
  );
  return {
    folder,
    image,
    ended: exited,
    agent: () => openSocket(join(folder, 'agent.sock')),
    stand: async (still) => void (await signalProcess(identity, still ? 'SIGSTOP' : 'SIGCONT')),
    console: () => tail(join(folder, 'console.log'), 4000),
    remove: async () => {
      await end(identity);
      await rm(folder, { recursive: true });
    },
  };
}

async function openSocket(path: string): Promise<Duplex> {
  const socket = connect(path);
  await once(socket, 'connect');
  return socket;
}

async function end(identity: ProcessIdentity): Promise<void> {
  await signalProcess(identity, 'SIGKILL');
  const wait = { clock: systemClock, signal: AbortSignal.timeout(10_000) };
  await until(wait, async () => ((await isAlive(identity)) ? undefined : 'gone'));
}
