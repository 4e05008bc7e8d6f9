import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import {
  chown,
  link,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { request, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';
import { systemClock } from '../../src/base/clock.ts';
import { until } from '../../src/base/until.ts';
import { exists } from '../../src/host/files.ts';
import { Talk } from '../../src/vmm/firecracker/testing/tried-talk.ts';
import { FIRECRACKER_DOUBLE, JAILER_DOUBLE, wrapDouble } from '../../src/vmm/firecracker/testing/wrapper.ts';
import { makeNetns, type Netns } from '../support/netns.ts';

/** What of the doubles needs root: TAPs, which the kernel gives, and jails. */

const [UID, GID] = [61_234, 61_235];

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<readonly [number | null, string | null]>;
  readonly output: () => string;
}

/** What a test left running, when it failed. */
const started = new Set<Running>();

function start(argv: readonly string[], cwd: string): Running {
  const [program = '', ...args] = argv;
  const child = spawn(program, args, {
    cwd,
    env: { PATH: process.env['PATH'] ?? '' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  const ended = new Promise<readonly [number | null, string | null]>((resolve) =>
    child.once('close', (code, signal) => resolve([code, signal])),
  );
  const running = { child, ended, output: () => output };
  started.add(running);
  return running;
}

async function kill({ child, ended }: Running): Promise<void> {
  child.kill('SIGKILL');
  await ended;
}

/** A call; its status, and the fault_message if it has one. */
async function call(
  socketPath: string,
  method: string,
  path: string,
  body?: object,
): Promise<readonly [number | undefined, string | null]> {
  const text = body === undefined ? undefined : JSON.stringify(body);
  const headers = text === undefined ? {} : { 'content-length': Buffer.byteLength(text) };
  const sent = request({ socketPath, method, path, headers, agent: false });
  sent.end(text);
  const [response] = (await once(sent, 'response')) as [IncomingMessage];
  const whole = (await response.setEncoding('utf8').toArray()).join('');
  const fault =
    whole === '' ? null : ((JSON.parse(whole) as { fault_message?: string }).fault_message ?? null);
  return [response.statusCode, fault];
}

async function ready(socketPath: string, { child, output }: Running): Promise<void> {
  await until({ clock: systemClock, signal: AbortSignal.timeout(20_000) }, async () => {
    if (child.exitCode !== null) throw new Error(`it ended: ${output()}`);
    return (await exists(socketPath)) ? call(socketPath, 'GET', '/').catch(() => undefined) : undefined;
  });
}

describe('the doubles of Firecracker and its jailer', () => {
  let netns: Netns;
  let folder: string;
  let count = 0;
  before(async () => {
    netns = await makeNetns('hfcd');
    folder = await mkdtemp(join(tmpdir(), 'fcd-'));
    await mkdir(join(folder, 'jails'));
  });
  afterEach(async () => {
    for (const running of started) await kill(running);
    started.clear();
  });
  after(async () => {
    await netns.dispose();
    await rm(folder, { recursive: true });
  });

  /** The double without a jail, in the namespace and a folder of its own. */
  async function free(): Promise<Running & { readonly api: string; readonly folder: string }> {
    const own = join(folder, `free-${count++}`);
    await mkdir(own);
    const running = start(netns.enter([FIRECRACKER_DOUBLE, '--api-sock', 'fc.sock']), own);
    const api = join(own, 'fc.sock');
    await ready(api, running);
    return { ...running, api, folder: own };
  }

  function putNet(api: string, tap: string, id = 'net0'): ReturnType<typeof call> {
    return call(api, 'PUT', `/network-interfaces/${id}`, { iface_id: id, host_dev_name: tap });
  }

  const refused = (why: string, tap: string): string =>
    'Network config error: Could not create the network device: Open tap device failed: ' +
    `Error while creating ifreq structure: ${why}. Invalid TUN/TAP Backend provided by ${tap}. ` +
    'Check our documentation on setting up the network devices.';

  async function linkExists(name: string): Promise<boolean> {
    const { exitCode } = await netns.run(['ip', 'link', 'show', 'dev', name], { okExitCodes: [0, 1] });
    return exitCode === 0;
  }

  test('a TAP is held from its PUT on, refused to a second, and free the moment the process has ended', async () => {
    await netns.run(['ip', 'tuntap', 'add', 'dev', 'tap0', 'mode', 'tap']);
    const one = await free();
    const two = await free();
    assert.deepEqual(await putNet(one.api, 'tap0'), [204, null]);
    assert.deepEqual(await putNet(two.api, 'tap0'), [400, refused('Resource busy (os error 16)', 'tap0')]);
    const { stdout } = await netns.run(['ip', '-json', 'link', 'show', 'dev', 'tap0']);
    assert.doesNotMatch(stdout, /NO-CARRIER/);
    await kill(one);
    assert.deepEqual(await putNet(two.api, 'tap0'), [204, null]);
    await kill(two);
    await netns.run(['ip', 'link', 'del', 'dev', 'tap0']);
  });

  test('what is no TAP is refused; a name too long too', async () => {
    const running = await free();
    assert.deepEqual(await putNet(running.api, 'lo'), [400, refused('Invalid argument (os error 22)', 'lo')]);
    const [, fault] = await putNet(running.api, 'a-name-of-sixteen');
    assert.match(fault ?? '', /: Invalid interface name$/);
    await kill(running);
  });

  test('root that asks for a TAP that is not there is given a new one, for as long as the process lives', async () => {
    const running = await free();
    assert.deepEqual(await putNet(running.api, 'fresh0'), [204, null]);
    assert.equal(await linkExists('fresh0'), true);
    await kill(running);
    assert.equal(await linkExists('fresh0'), false);
  });

  /** Arguments of a jail of its own. */
  function jail(id: string, more: readonly string[] = [], execFile = FIRECRACKER_DOUBLE): readonly string[] {
    return [
      ...[JAILER_DOUBLE, '--id', id, '--exec-file', execFile, '--uid', String(UID), '--gid', String(GID)],
      ...['--chroot-base-dir', join(folder, 'jails'), ...more, '--', '--api-sock', 'fc.sock'],
    ];
  }

  const rootOf = (id: string, name = 'firecracker-double'): string => join(folder, 'jails', name, id, 'root');

  test('a jailed double is the very process that was started, with its own user, root, network and limits', async () => {
    await netns.run(['ip', 'tuntap', 'add', 'dev', 'tap1', 'mode', 'tap', 'user', String(UID)]);
    await netns.run(['ip', 'tuntap', 'add', 'dev', 'tap2', 'mode', 'tap', 'user', '0']);
    const limits = [
      '--netns',
      netns.path,
      '--resource-limit',
      'no-file=512',
      '--resource-limit',
      'fsize=1000000',
    ];
    const running = start(jail('vm-1', limits), folder);
    const root = rootOf('vm-1');
    const api = join(root, 'fc.sock');
    await ready(api, running);
    const proc = `/proc/${running.child.pid}`;
    const status = await readFile(`${proc}/status`, 'utf8');
    assert.match(status, new RegExp(`^Uid:\\t${UID}\\t${UID}\\t${UID}\\t${UID}$`, 'm'));
    assert.match(status, new RegExp(`^Gid:\\t${GID}\\t${GID}\\t${GID}\\t${GID}$`, 'm'));
    assert.match(status, /^Groups:\t *$/m);
    assert.equal(await readlink(`${proc}/root`), root);
    assert.equal(await readlink(`${proc}/cwd`), root);
    assert.equal(await readlink(`${proc}/ns/net`), `net:[${(await lstat(netns.path)).ino}]`);
    assert.match(await readFile(`${proc}/limits`, 'utf8'), /^Max open files +512 +512 /m);
    const args = (await readFile(`${proc}/cmdline`, 'utf8')).split('\0');
    assert.deepEqual(args.slice(args.indexOf('--id')).slice(0, 2), ['--id', 'vm-1']);
    assert.doesNotMatch(await readFile(`${proc}/environ`, 'utf8'), /^HOME=/m);
    // What it makes and what was made for it.
    for (const [name, mode] of [
      ['', 0o40700],
      ['dev', 0o40700],
      ['dev/net', 0o40700],
      ['run', 0o40700],
      ['dev/kvm', 0o20600],
      ['dev/net/tun', 0o20600],
      ['dev/urandom', 0o20600],
      ['firecracker-double', 0o100755],
    ] as const) {
      const found = await lstat(join(root, name));
      assert.deepEqual([found.mode, found.uid, found.gid], [mode, UID, GID], name);
    }
    assert.equal(await readFile(join(root, 'firecracker-double.pid'), 'utf8'), String(running.child.pid));
    // The kernel gives it its own TAPs and no others, and makes it none.
    assert.deepEqual(await putNet(api, 'tap1'), [204, null]);
    assert.deepEqual(await putNet(api, 'tap2', 'net1'), [
      400,
      refused('Operation not permitted (os error 1)', 'tap2'),
    ]);
    assert.deepEqual(await putNet(api, 'none', 'net1'), [
      400,
      refused('Operation not permitted (os error 1)', 'none'),
    ]);
    await kill(running);
    await netns.run(['ip', 'link', 'del', 'dev', 'tap1']);
    await netns.run(['ip', 'link', 'del', 'dev', 'tap2']);
  });

  test('in a jail paths are the jail’s, and a file of another user is none', async () => {
    const running = start(jail('vm-2'), folder);
    const root = rootOf('vm-2');
    const api = join(root, 'fc.sock');
    await ready(api, running);
    const kernel = { kernel_image_path: 'kernel', boot_args: 'console=ttyS0' };
    await writeFile(join(root, 'kernel'), '\x7fELF', { encoding: 'latin1', mode: 0o600 });
    assert.deepEqual(await call(api, 'PUT', '/boot-source', kernel), [
      400,
      'Boot source error: The kernel file cannot be opened: Permission denied (os error 13)',
    ]);
    await chown(join(root, 'kernel'), UID, GID);
    for (const [path, body] of [
      ['/boot-source', { ...kernel, kernel_image_path: '/kernel' }],
      ['/drives/d', { drive_id: 'd', is_root_device: false, path_on_host: 'kernel' }],
      ['/vsock', { guest_cid: 3, uds_path: 'agent.vsock' }],
      ['/actions', { action_type: 'InstanceStart' }],
    ] as const)
      assert.deepEqual(await call(api, 'PUT', path, body), [204, null]);
    using talk = new Talk(join(root, 'agent.vsock'));
    await talk.dial();
    assert.equal(await talk.shell('echo jailed'), 'jailed');
    assert.equal((await lstat(join(root, 'agent.vsock'))).uid, UID);
    // What the host has is not to be seen.
    const [, fault] = await call(api, 'PATCH', '/drives/d', { drive_id: 'd', path_on_host: '/etc/passwd' });
    assert.match(fault ?? '', /No such file or directory \(os error 2\) \/etc\/passwd/);
    await kill(running);
  });

  test('a jail left over is refused until its folder is removed, whatever of it is left', async () => {
    const id = 'vm-3';
    const first = start(jail(id), folder);
    await ready(join(rootOf(id), 'fc.sock'), first);
    await kill(first);
    const again = start(jail(id), folder);
    assert.deepEqual(await again.ended, [1, null]);
    assert.match(
      again.output(),
      /^Failed to create \/dev\/net\/tun via mknod inside the jail: File exists \(os error 17\)$/m,
    );
    await rm(join(rootOf(id), 'dev'), { recursive: true });
    const pidFile = start(jail(id), folder);
    assert.deepEqual(await pidFile.ended, [1, null]);
    assert.match(
      pidFile.output(),
      /^Failed to open file \/firecracker-double\.pid: File exists \(os error 17\)$/m,
    );
    await rm(rootOf(id), { recursive: true });
    const fresh = start(jail(id), folder);
    await ready(join(rootOf(id), 'fc.sock'), fresh);
    await kill(fresh);
    // Nothing of the host's was in it to be removed.
    await rm(rootOf(id), { recursive: true });
    assert.equal(await exists('/usr/bin/env'), true);
    assert.notEqual((await readdir(join(import.meta.dirname, '../../src'))).length, 0);
  });

  test('a link or a hard link in the place of the program is refused', async () => {
    for (const [id, make] of [
      ['vm-4', (path: string) => symlink('/bin/true', path)],
      [
        'vm-5',
        async (path: string) => {
          await writeFile(join(folder, 'linked'), '');
          await link(join(folder, 'linked'), path);
        },
      ],
    ] as const) {
      await mkdir(rootOf(id), { recursive: true });
      await make(join(rootOf(id), 'firecracker-double'));
      const running = start(jail(id), folder);
      assert.deepEqual(await running.ended, [1, null]);
      assert.match(
        running.output(),
        /^(Failed to open .*: Symbolic link loop \(os error 40\)|Detected hard link at: .*)$/m,
      );
    }
  });

  test('a network namespace that is not there is refused before the jail is furnished', async () => {
    const running = start(jail('vm-6', ['--netns', '/run/netns/none']), folder);
    assert.deepEqual(await running.ended, [1, null]);
    assert.match(
      running.output(),
      /^Failed to open file \/run\/netns\/none: No such file or directory \(os error 2\)$/m,
    );
    assert.equal(await exists(join(rootOf('vm-6'), 'dev')), false);
  });

  test('knobs go into the jail by a script, and its cgroup into what stands for the hierarchy', async () => {
    const unified = join(folder, 'unified');
    await mkdir(unified);
    await writeFile(join(unified, 'cgroup.controllers'), 'memory\n');
    await writeFile(join(folder, 'mounts'), `cgroup2 ${unified} cgroup2 rw 0 0\n`);
    const script = await wrapDouble(join(folder, 'firecracker'), { FC_DOUBLE_VERSION: 'v1.14.0' });
    const jailer = await wrapDouble(
      join(folder, 'jailer'),
      { FC_DOUBLE_PROC_MOUNTS: join(folder, 'mounts') },
      JAILER_DOUBLE,
    );
    const more = ['--cgroup-version', '2', '--cgroup', 'memory.max=1000000'];
    const running = start([jailer, ...jail('vm-7', more, script).slice(1)], folder);
    const api = join(rootOf('vm-7', 'firecracker'), 'fc.sock');
    await ready(api, running);
    assert.equal(
      await readFile(join(unified, 'firecracker/vm-7/cgroup.procs'), 'utf8'),
      `${running.child.pid}\n`,
    );
    assert.equal(await readFile(join(unified, 'firecracker/vm-7/memory.max'), 'utf8'), '1000000\n');
    const response = request({ socketPath: api, path: '/version', agent: false });
    response.end();
    const [answer] = (await once(response, 'response')) as [IncomingMessage];
    assert.equal((await answer.setEncoding('utf8').toArray()).join(''), '{"firecracker_version":"1.14.0"}');
    await kill(running);
  });

  test('a file that grows over the limit ends the program with a code of its own', async () => {
    const running = start(jail('vm-8', ['--resource-limit', 'fsize=100000']), folder);
    const root = rootOf('vm-8');
    const api = join(root, 'fc.sock');
    await ready(api, running);
    await writeFile(join(root, 'kernel'), '\x7fELF', { encoding: 'latin1', mode: 0o644 });
    await call(api, 'PUT', '/boot-source', { kernel_image_path: 'kernel' });
    await call(api, 'PUT', '/actions', { action_type: 'InstanceStart' });
    await call(api, 'PATCH', '/vm', { state: 'Paused' });
    await call(api, 'PUT', '/snapshot/create', { snapshot_path: 's', mem_file_path: 'm' }).catch(
      () => undefined,
    );
    assert.deepEqual(await running.ended, [151, null]);
  });

  test('a memory file for which there is no room stays where it broke off, and the guest can go on', async () => {
    const own = join(folder, 'small');
    await mkdir(own);
    const script = 'mount -t tmpfs -o size=4m none . && cd "$PWD" && exec "$0" --api-sock fc.sock';
    const unshared = ['unshare', '--mount', '--propagation', 'private', '--', 'sh', '-c', script];
    const whole = await wrapDouble(join(folder, 'whole'), { FC_DOUBLE_WHOLE_MEMORY: '1' });
    const running = start([...unshared, whole], own);
    // Only its own view of the folder has the socket.
    const inside = `/proc/${running.child.pid}/cwd`;
    const api = join(inside, 'fc.sock');
    await ready(api, running);
    await writeFile(join(inside, 'kernel'), '\x7fELF', 'latin1');
    await call(api, 'PUT', '/boot-source', { kernel_image_path: 'kernel' });
    await call(api, 'PUT', '/actions', { action_type: 'InstanceStart' });
    await call(api, 'PATCH', '/vm', { state: 'Paused' });
    const [status, fault] = await call(api, 'PUT', '/snapshot/create', {
      snapshot_path: 's',
      mem_file_path: 'm',
    });
    assert.equal(status, 400);
    assert.match(
      fault ?? '',
      /^Create snapshot error: Cannot write memory file: .*No space left on device \(os error 28\)$/,
    );
    const left = await lstat(join(inside, 'm'));
    assert.equal(left.size, 128 * 2 ** 20);
    assert(left.blocks * 512 < 4 * 2 ** 20);
    assert.deepEqual(await call(api, 'PATCH', '/vm', { state: 'Resumed' }), [204, null]);
    await kill(running);
  });
});
