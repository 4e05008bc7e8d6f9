import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { cp, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { exists } from '../../src/host/files.ts';
import { privateMapOf } from '../../src/host/private-pages.ts';
import { signalProcess } from '../../src/host/process.ts';
import { run } from '../../src/host/run.ts';
import { VmmError, type Machine, type MachineSpec } from '../../src/vmm/driver.ts';
import { onItsOwn } from '../../src/vmm/suite/save-running.ts';
import type { Declare } from '../../src/vmm/suite/bench.ts';

/** What QEMU does besides what every driver does: what it makes of signals, full disks and network cards. */
export function qemuCases(declare: Declare): void {
  declare(
    'a QEMU that does not answer is not taken up and not harmed, and is taken up once it does',
    async (bench) => {
      const subject = await bench.guest();
      const { spec, machine } = subject;
      subject.agent.close();
      await machine.release();
      await signalProcess(machine.process, 'SIGSTOP');
      const next = await bench.host.reopen();
      // Those who give up leave their connections in its queue, which is short.
      for (let i = 0; i < 3; i++)
        await assert.rejects(next.adopt(spec, machine.process, AbortSignal.timeout(100)), {
          name: 'TimeoutError',
        });
      await assert.rejects(
        next.adopt(spec, machine.process, bench.patience()),
        (error) => error instanceof VmmError && error.kind === 'timeout',
      );
      assert.equal(await bench.isObserved(spec), true);
      await signalProcess(machine.process, 'SIGCONT');
      const adopted = await bench.adopt(subject);
      await adopted.agent.ping(bench.patience());
    },
  );

  declare(
    'a busy guest is saved with every byte it had when it stood still, on a private map and in a file of its own',
    async (bench) => {
      for (const subject of [await bench.guest(), await onItsOwn(bench)]) {
        const { spec, machine } = subject;
        // Writes all over its memory, until it is ended.
        await bench.exec(
          subject,
          '(while :; do head -c 2000000 /dev/zero | tr "\\0" x > /run/busy; rm /run/busy; done) > /dev/null 2>&1 &',
        );
        for (let i = 0; i < 3; i++) {
          const memoryPath = join(spec.folder, `save-${i}.memory`);
          let had: string | undefined;
          const saved = await machine.saveRunning(
            { statePath: join(spec.folder, `save-${i}.state`), memoryPath },
            async () => {
              had = await memoryOf(machine, spec.memMib);
              await machine.resume();
            },
          );
          assert.equal(saved.memoryPath, memoryPath);
          assert.equal(await hashOf(memoryPath), had, `save ${i}`);
          await rm(memoryPath);
        }
        await bench.end(subject);
      }
    },
  );

  declare('a QEMU that does not answer can be killed, and reaped', async (bench) => {
    const [one, two] = [await bench.guest(), await bench.guest()];
    for (const { machine } of [one, two]) await signalProcess(machine.process, 'SIGSTOP');
    await one.machine.kill();
    assert.deepEqual(await bench.exit(one.machine), { kind: 'killed' });
    await bench.driver.reap(two.machine.process);
    assert.equal((await bench.exit(two.machine)).kind, 'crashed');
  });

  declare('a launch called off when QEMU is already there leaves none', async (bench) => {
    const reason = new Error('called off');
    // It may be done before we see it there; then it is ended, and tried again.
    for (let tries = 1; ; tries++) {
      assert.ok(tries <= 20, 'a launch was never seen half done');
      const spec = await bench.host.fresh();
      const during = new AbortController();
      const launching = bench.driver.launch(spec, during.signal).then(
        (machine) => machine,
        (error: unknown) => error,
      );
      await until(
        { clock: systemClock, signal: bench.patience() },
        async () => ((await bench.isObserved(spec)) ? true : undefined),
        { firstMs: 1, mostMs: 1 },
      );
      during.abort(reason);
      const outcome = await launching;
      if (outcome !== reason) {
        assert.ok(typeof outcome === 'object' && outcome !== null && 'kill' in outcome, String(outcome));
        await bench.driver.reap(
          (await bench.driver.observe()).find(({ vmId }) => vmId === spec.vmId)?.process ??
            assert.fail('what was launched is not seen'),
        );
        continue;
      }
      assert.equal(await bench.isObserved(spec), false);
      return;
    }
  });

  declare(
    'the end of a QEMU is explained by its own last words, not by those of one before it',
    async (bench) => {
      const spec = await bench.host.fresh();
      await writeFile(join(spec.folder, 'vmm.log'), 'words of another QEMU\n');
      const first = await bench.launch(spec);
      await signalProcess(first.machine.process, 'SIGKILL');
      assert.deepEqual(await bench.exit(first.machine), {
        kind: 'crashed',
        exitCode: null,
        signal: 'SIGKILL',
        message: '',
      });
      const second = await bench.launch(spec);
      await signalProcess(second.machine.process, 'SIGTERM');
      const exit = await bench.exit(second.machine);
      assert.equal(exit.kind, 'crashed');
      assert.equal(exit.exitCode, 0);
      assert.match(exit.message, /terminating on signal 15/);
    },
  );

  declare(
    'the disk of a guest is kept as it is, again and again, and the guest writes on elsewhere',
    async (bench) => {
      const subject = await bench.guest();
      const { spec, machine } = subject;
      const [disk] = spec.disks;
      assert.ok(disk);
      let name = disk.path;
      assert.equal(await machine.diskFile(), name);
      for (const word of ['first', 'second']) {
        await bench.exec(subject, `echo ${word} > /root/word; sync`);
        const overlay = `disk-${word}.qcow2`;
        const size = JSON.parse(
          (await run(['qemu-img', 'info', '-U', '--output=json', join(spec.folder, name)])).stdout,
        ) as { readonly 'virtual-size': number };
        await run(
          [
            'qemu-img',
            'create',
            '-q',
            '-u',
            '-f',
            'qcow2',
            '-b',
            name,
            '-F',
            disk.format,
            overlay,
            String(size['virtual-size']),
          ],
          { cwd: spec.folder },
        );
        await machine.pause();
        await machine.switchDisk(overlay);
        await machine.resume();
        const kept = await stat(join(spec.folder, name));
        await bench.exec(subject, 'echo later > /root/word; sync');
        assert.deepEqual((await stat(join(spec.folder, name))).mtimeMs, kept.mtimeMs, 'nobody writes to it');
        assert.equal(await machine.diskFile(), overlay);
        await run(['qemu-img', 'check', '-q', '-U', '-f', disk.format, join(spec.folder, name)]);
        name = overlay;
      }
      assert.equal(await (await bench.adopt(subject)).machine.diskFile(), name);
    },
  );

  declare('a tap that another guest uses is refused', async (bench) => {
    const first = await bench.launch(await bench.host.fresh());
    const spec = { ...(await bench.host.fresh()), network: first.spec.network };
    await assert.rejects(bench.driver.launch(spec, bench.patience()), (error) => {
      return error instanceof VmmError && /busy/i.test(error.message);
    });
    assert.equal(await bench.isObserved(spec), false);
  });

  declare('a loaded guest is at another tap, and has the MAC it was saved with', async (bench) => {
    const { spec, saved } = await bench.host.saved();
    const copy = await bench.host.copyOf(spec);
    assert(spec.network && copy.network);
    assert.notEqual(copy.network.tap, spec.network.tap);
    const network = { ...copy.network, mac: '02:fc:00:00:00:99' };
    const loaded = await bench.load({ ...copy, network }, saved);
    assert.equal(await bench.exec(loaded, 'cat /sys/class/net/eth0/address'), spec.network.mac);
    await bench.exec(loaded, 'ip link set eth0 address 02:fc:00:00:00:99');
    assert.equal(await bench.exec(loaded, 'cat /sys/class/net/eth0/address'), '02:fc:00:00:00:99');
  });

  declare('a guest whose memory the disk has no room for crashes, and why is told', async (bench) => {
    const spec = await bench.host.fresh();
    await onSmallDisk(spec, 64, async () => {
      const { machine } = await bench.launch(spec);
      assert.deepEqual(await bench.exit(machine), {
        kind: 'crashed',
        exitCode: null,
        signal: 'SIGBUS',
        message: "the host's disk had no room for the guest's memory",
      });
      await machine.release();
    });
  });

  declare('a guest is not saved where there is no room, goes on, and is saved elsewhere', async (bench) => {
    const subject = await bench.guest();
    const { machine } = subject;
    await bench.remember(subject, 'word', 'kept');
    const small = await mkdtemp(join(tmpdir(), 'small-'));
    await run(['mount', '-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', small]);
    try {
      await machine.pause();
      const statePath = join(small, 'state');
      await assert.rejects(
        machine.save({ statePath, memoryPath: join(small, 'memory') }),
        (error) => error instanceof VmmError && error.kind === 'no_space',
      );
      assert.equal(await exists(statePath), false);
    } finally {
      await run(['umount', small]);
      await rm(small, { recursive: true });
    }
    await machine.resume();
    assert.equal(await bench.recall(subject, 'word'), 'kept');
    assert.equal(await exists((await bench.save(subject)).statePath), true);
  });

  declare(
    'a guest that writes what the host has no room for stands still, goes on by itself when there is room, and loses nothing',
    async (bench) => {
      const { spec, saved } = await bench.host.saved();
      const copy = await bench.host.copyOf(spec);
      await onSmallDisk(copy, 24, async () => {
        const subject = await bench.load(copy, saved);
        const heard: boolean[] = [];
        subject.machine.onNoSpace((lacking) => heard.push(lacking));
        const written = bench.exec(
          subject,
          'dd if=/dev/urandom of=/root/big bs=1M count=40 conv=fsync && md5sum /root/big',
        );
        await until({ clock: systemClock, signal: bench.patience() }, async () => {
          return (await subject.machine.status()) === 'paused' ? true : undefined;
        });
        assert.deepEqual(heard, [true]);
        await run(['mount', '-o', 'remount,size=256m', copy.folder]);
        const sum = await written;
        assert.equal(await bench.exec(subject, 'echo 3 > /proc/sys/vm/drop_caches; md5sum /root/big'), sum);
        await until({ clock: systemClock, signal: bench.patience() }, () => heard.length > 1 || undefined);
        assert.deepEqual(heard, [true, false]);
        await bench.end(subject);
        await subject.machine.release();
      });
    },
  );
}

/** Has a machine's folder on a file system of `mib` MiB while `work` is done. */
async function onSmallDisk({ folder }: MachineSpec, mib: number, work: () => Promise<void>): Promise<void> {
  const aside = await mkdtemp(join(tmpdir(), 'aside-'));
  await cp(folder, aside, { recursive: true, verbatimSymlinks: true });
  await run(['mount', '-t', 'tmpfs', '-o', `size=${mib}m,mode=0700`, 'tmpfs', folder]);
  try {
    await cp(aside, folder, { recursive: true, verbatimSymlinks: true });
    await work();
  } finally {
    await run(['umount', '--lazy', folder]);
    await rm(aside, { recursive: true });
  }
}

/** SHA-256 of a paused guest's memory, as QEMU sees it. */
async function memoryOf({ process, ramFile }: Machine, memMib: number): Promise<string> {
  if (ramFile !== null) return hashOf(ramFile);
  const map = await privateMapOf(process.pid, memMib * 2 ** 20);
  assert(map);
  return hashOf(`/proc/${process.pid}/mem`, { start: map.address, end: map.address + map.length - 1 });
}

async function hashOf(path: string, range = {}): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { ...range, highWaterMark: 2 ** 20 }))
    hash.update(piece as Buffer);
  return hash.digest('hex');
}
