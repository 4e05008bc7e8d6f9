import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, watch, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Talk } from './tried-talk.ts';
import { FIRECRACKER_DOUBLE, wrapDouble } from './wrapper.ts';

/** The double as a process of its own, in a folder of its own. */
class Program implements AsyncDisposable {
  readonly folder: string;
  readonly child: ChildProcess;
  readonly ended: Promise<readonly [number | null, string | null]>;
  output = '';

  constructor(
    args: readonly string[] = ['--api-sock', 'fc.sock'],
    env: Readonly<Record<string, string>> = {},
    program = FIRECRACKER_DOUBLE,
    folder = mkdtempSync(join(tmpdir(), 'fcd-')),
  ) {
    this.folder = folder;
    const path = process.env['PATH'] ?? '';
    this.child = spawn(program, args, {
      cwd: folder,
      env: { PATH: path, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [this.child.stdout, this.child.stderr])
      stream?.setEncoding('utf8').on('data', (text: string) => (this.output += text));
    this.ended = once(this.child, 'close').then(([code, signal]) => [code, signal] as const);
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** Resolves when the API's socket is there. */
  async ready(): Promise<this> {
    using changes = changesOf(this.folder);
    while (!existsSync(this.path('fc.sock'))) {
      if (this.child.exitCode !== null) throw new Error(`it ended: ${this.output}`);
      await changes.next();
    }
    // Bound is not yet listening.
    for (;;) {
      try {
        const socket = connect(this.path('fc.sock'));
        await once(socket, 'connect');
        socket.destroy();
        return this;
      } catch {
        await new Promise((resolve) => setImmediate(resolve));
      }
    }
  }

  talk(): Talk {
    return new Talk(this.path('fc.sock'));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.child.kill('SIGKILL');
    await this.ended;
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** Changes of a folder, one after the other. */
function changesOf(folder: string): { next: () => Promise<unknown> } & Disposable {
  const watcher = watch(folder);
  return { next: () => once(watcher, 'change'), [Symbol.dispose]: () => watcher.close() };
}

function put(path: string, body: object): string {
  const text = JSON.stringify(body);
  return `PUT ${path} HTTP/1.1\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`;
}

/** The lines of an answer's head. */
async function head(talk: Talk): Promise<readonly string[]> {
  const lines: string[] = [];
  for (let line = await talk.line(); line !== '\r'; line = await talk.line()) lines.push(line.trimEnd());
  return lines;
}

const GET = 'GET / HTTP/1.1\r\n\r\n';

test('an answer has an empty reason, its own headers and no more', async () => {
  await using program = await new Program().ready();
  using talk = program.talk();
  const info =
    '{"id":"anonymous-instance","state":"Not started","vmm_version":"1.16.1","app_name":"Firecracker"}';
  talk.say(`${GET}${put('/entropy', {})}`);
  assert.deepEqual(await head(talk), [
    'HTTP/1.1 200',
    'Server: Firecracker API',
    'Connection: keep-alive',
    'Content-Type: application/json',
    `Content-Length: ${info.length}`,
  ]);
  // The body has no end of its own: the next answer follows at once, and has none.
  assert.equal(await talk.line(), `${info}HTTP/1.1 204 \r`);
  assert.deepEqual(await head(talk), ['Server: Firecracker API', 'Connection: keep-alive']);
  talk.say(put('/vsock', { guest_cid: 3, uds_path: 'v', vsock_id: 'v' }));
  assert.deepEqual(await head(talk), [
    'HTTP/1.1 204',
    'Server: Firecracker API',
    'Connection: keep-alive',
    'Deprecation: true',
  ]);
});

test('ten connections are kept, the eleventh is told so and closed', async () => {
  await using program = await new Program().ready();
  const talks = Array.from({ length: 10 }, () => program.talk());
  for (const talk of talks) {
    talk.say(GET);
    await head(talk);
  }
  using over = program.talk();
  assert.equal(
    await over.rest(),
    'HTTP/1.1 503\r\nServer: Firecracker API\r\nConnection: close\r\nContent-Length: 40\r\n\r\n{ "error": "Too many open connections" }',
  );
  for (const talk of talks) talk.socket.destroy();
});

test('a payload over the cap gets an answer that is no JSON', async () => {
  await using program = await new Program([
    '--api-sock',
    'fc.sock',
    '--http-api-max-payload-size',
    '10',
  ]).ready();
  using talk = program.talk();
  talk.say('PUT /entropy HTTP/1.1\r\nContent-Length: 11\r\n\r\n');
  assert.deepEqual((await head(talk)).slice(0, 1), ['HTTP/1.1 400']);
  assert.equal(
    await talk.line(),
    '{ "error": "Request payload with size 11 is larger than the limit of 10 allowed by server.',
  );
});

test('what it says of itself, on the command line', async () => {
  for (const [args, env, output] of [
    [['--version'], {}, 'Firecracker v1.16.1\n\n'],
    [['--snapshot-version'], {}, 'v10.0.0\n'],
    [['--version'], { FC_DOUBLE_VERSION: 'v1.13.1' }, 'Firecracker v1.13.1\n\n'],
    [['--snapshot-version'], { FC_DOUBLE_VERSION: 'v1.13.1' }, 'v8.0.0\n'],
  ] as const) {
    await using program = new Program(args, env);
    assert.deepEqual(await program.ended, [0, null]);
    assert.equal(program.output, output);
  }
});

test('a command line that cannot be is the end of it', async () => {
  for (const [args, end, output] of [
    [['--nonsense'], [153, null], /^Error: ParseArguments\(UnexpectedArgument\("nonsense"\)\)\n/],
    [['--id', 'x', '--id', 'y'], [153, null], /DuplicateArgument\("id"\)/],
    [['--no-api'], [153, null], /MissingArgument\("config-file"\)/],
    [['--id', 'vm_1'], [null, 'SIGABRT'], /Invalid instance ID: InvalidChar\('_', 2\)/],
    [['--level', 'loud'], [152, null], /InvalidLogLevel/],
    [['--log-path', 'none/log'], [1, null], /LoggerInitialization/],
    [['--describe-snapshot', 'none'], [1, null], /No such file or directory \(os error 2\)/],
  ] as const) {
    await using program = new Program(args);
    assert.deepEqual(await program.ended, end, args.join(' '));
    assert.match(program.output, output);
  }
});

test('a socket that is there, live or left behind, is the end of it; its own it leaves behind', async () => {
  await using first = await new Program().ready();
  await using second = new Program(undefined, {}, FIRECRACKER_DOUBLE, first.folder);
  assert.deepEqual(await second.ended, [1, null]);
  assert.match(second.output, /^Error: RunWithApi\(FailedToBindSocket\("fc\.sock"\)\)$/m);
  first.child.kill('SIGTERM');
  assert.deepEqual(await first.ended, [null, 'SIGTERM']);
  assert.equal(existsSync(first.path('fc.sock')), true);
  await using third = new Program(undefined, {}, FIRECRACKER_DOUBLE, first.folder);
  assert.deepEqual(await third.ended, [1, null]);
});

test('after a load that failed it answers, and ends with 1', async () => {
  await using program = await new Program().ready();
  using talk = program.talk();
  talk.say(put('/snapshot/load', { snapshot_path: 'none', mem_file_path: 'none' }));
  const [status] = await head(talk);
  assert.equal(status, 'HTTP/1.1 400');
  assert.match(
    await talk.rest(),
    /^\{"fault_message":"Load snapshot error: Failed to restore from snapshot: .*"\}$/,
  );
  assert.deepEqual(await program.ended, [1, null]);
  assert.match(program.output, /^Error: RunWithApi\(BuildMicroVmError\(Restore\)\)$/m);
});

test('a load that was not well-formed does not harm', async () => {
  await using program = await new Program().ready();
  using talk = program.talk();
  talk.say(put('/snapshot/load', { snapshot_path: 'none' }) + GET);
  assert.equal((await head(talk))[0], 'HTTP/1.1 400');
  assert.match(await talk.line(), /HTTP\/1\.1 200 \r$/);
});

test('a guest that reboots is the end of it, with 0; metrics and log say the last', async () => {
  await using program = await new Program([
    '--api-sock',
    'fc.sock',
    '--log-path',
    'log',
    '--metrics-path',
    'metrics',
  ]).ready();
  writeFileSync(program.path('kernel'), '\x7fELF', 'latin1');
  using talk = program.talk();
  talk.say(put('/boot-source', { kernel_image_path: 'kernel', boot_args: 'console=ttyS0 reboot=k' }));
  talk.say(put('/serial', { serial_out_path: 'console' }));
  talk.say(put('/actions', { action_type: 'InstanceStart' }));
  talk.say(put('/actions', { action_type: 'SendCtrlAltDel' }));
  for (let i = 0; i < 4; i++) assert.deepEqual((await head(talk))[0], 'HTTP/1.1 204');
  // It was pressed before anybody was there to hear it, if the guest was not up yet: again and again, then.
  while (program.child.exitCode === null) {
    talk.say(put('/actions', { action_type: 'SendCtrlAltDel' }));
    if (await head(talk).catch(() => undefined)) continue;
    break;
  }
  assert.deepEqual(await program.ended, [0, null]);
  assert.match(
    readFileSync(program.path('log'), 'utf8'),
    /Firecracker exiting successfully\. exit_code=0\n$/,
  );
  assert.match(readFileSync(program.path('console'), 'utf8'), /hatch-shutdown: reboot/);
  assert.equal(readFileSync(program.path('metrics'), 'utf8').trim().split('\n').length, 2);
});

test('without a file the console and the log go to standard output', async () => {
  await using program = await new Program().ready();
  writeFileSync(program.path('kernel'), '\x7fELF', 'latin1');
  using talk = program.talk();
  talk.say(put('/boot-source', { kernel_image_path: 'kernel', boot_args: 'console=ttyS0' }));
  talk.say(put('/actions', { action_type: 'InstanceStart' }));
  await head(talk);
  await head(talk);
  program.child.kill('SIGKILL');
  await program.ended;
  assert.match(program.output, /Running Firecracker v1\.16\.1/);
  assert.match(program.output, /Linux version/);
});

test('a hangup is the end of it with a code of its own, and in a pid namespace SIGTERM is nothing', async () => {
  await using program = await new Program().ready();
  program.child.kill('SIGHUP');
  assert.deepEqual(await program.ended, [156, null]);
  await using first = await new Program(undefined, { FC_DOUBLE_PID_NS: '1' }).ready();
  first.child.kill('SIGTERM');
  using talk = first.talk();
  talk.say(GET);
  assert.equal((await head(talk))[0], 'HTTP/1.1 200');
});

test('each fault goes wrong as it is told to', async () => {
  const run = async (faults: string): Promise<{ readonly program: Program; readonly talk: Talk }> => {
    const program = await new Program(undefined, { FC_DOUBLE_FAULTS: faults }).ready();
    return { program, talk: program.talk() };
  };
  for (const [fault, answer] of [
    ['reset', /^$/],
    ['after reset', /^HTTP\/1\.1 200 \r\nServe$/],
    ['truncated', /^HTTP\/1\.1 200 \r\n.*Content-Length: \d+\r\n\r\n\{"id":"anonymous[^}]*$/s],
    ['busy', /Too many open connections/],
  ] as const) {
    const { program, talk } = await run(`GET / ${fault}`);
    await using _ended = program;
    talk.say(GET);
    assert.match(await talk.rest(), answer, fault);
  }
  for (const [fault, line] of [
    ['rubbish', /^this is no HTTP\r$/],
    ['refuse Kvm error: none', /^HTTP\/1\.1 400 \r$/],
    ['delay 1', /^HTTP\/1\.1 200 \r$/],
  ] as const) {
    const { program, talk } = await run(`GET / ${fault}`);
    await using _ended = program;
    talk.say(GET);
    assert.match(await talk.line(), line, fault);
    talk.socket.destroy();
  }
  for (const [fault, end] of [
    ['exit 148', [148, null]],
    ['after exit 0', [0, null]],
    ['kill', [null, 'SIGKILL']],
  ] as const) {
    const { program, talk } = await run(`GET / ${fault}`);
    await using _ended = program;
    talk.say(GET);
    assert.equal(await talk.rest(), '');
    assert.deepEqual(await program.ended, end);
  }
});

test('a call that hangs holds up all that come after it; without its effect, or with it', async () => {
  await using program = await new Program(undefined, { FC_DOUBLE_FAULTS: 'PUT /vsock after hang' }).ready();
  using talk = program.talk();
  using other = program.talk();
  using changes = changesOf(program.folder);
  talk.say(put('/vsock', { guest_cid: 3, uds_path: 'vsock' }));
  while (!existsSync(program.path('vsock'))) await changes.next();
  other.say(GET);
  program.child.kill('SIGKILL');
  assert.deepEqual([await talk.rest(), await other.rest()], ['', '']);
});

test('frozen at a call it is there and does nothing; let go on, it answers', async () => {
  await using program = await new Program(undefined, { FC_DOUBLE_FAULTS: 'GET / freeze' }).ready();
  using talk = program.talk();
  talk.say(GET);
  const state = (): string | undefined =>
    /^State:\t(\w)/m.exec(readFileSync(`/proc/${program.child.pid}/status`, 'utf8'))?.[1];
  while (state() !== 'T') await new Promise((resolve) => setImmediate(resolve));
  program.child.kill('SIGCONT');
  assert.equal((await head(talk))[0], 'HTTP/1.1 200');
});

test('it can end, or be killed, before it has a socket', async () => {
  for (const [start, end] of [
    ['exit 1', [1, null]],
    ['kill', [null, 'SIGKILL']],
  ] as const) {
    await using program = new Program(undefined, { FC_DOUBLE_START: start });
    assert.deepEqual(await program.ended, end);
    assert.equal(existsSync(program.path('fc.sock')), false);
  }
});

test('a script that turns the knobs stands for the double itself', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'fcd-'));
  const script = await wrapDouble(join(folder, 'it is'), {
    FC_DOUBLE_VERSION: 'v1.14.0',
    FC_DOUBLE_FAULTS: "GET /#1 refuse it's mine",
  });
  await using program = await new Program(
    ['--api-sock', 'fc.sock', '--id', 'vm-1'],
    {},
    script,
    folder,
  ).ready();
  const commandLine = readFileSync(`/proc/${program.child.pid}/cmdline`, 'utf8').split('\0');
  assert.deepEqual(commandLine.slice(commandLine.indexOf('--id'), -1), ['--id', 'vm-1']);
  using talk = program.talk();
  talk.say(`${GET}GET /version HTTP/1.1\r\n\r\n`);
  await head(talk);
  assert.match(await talk.line(), /^\{"fault_message":"it's mine"\}/);
  await head(talk);
  program.child.kill('SIGKILL');
  assert.equal(await talk.rest(), '{"firecracker_version":"1.14.0"}');
});

test('a snapshot is described by its format', async () => {
  await using program = await new Program().ready();
  writeFileSync(program.path('kernel'), '\x7fELF', 'latin1');
  using talk = program.talk();
  talk.say(put('/boot-source', { kernel_image_path: 'kernel' }));
  talk.say(put('/actions', { action_type: 'InstanceStart' }));
  const body = '{"state":"Paused"}';
  talk.say(`PATCH /vm HTTP/1.1\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
  talk.say(put('/snapshot/create', { snapshot_path: 'state', mem_file_path: 'memory' }));
  for (let i = 0; i < 4; i++) assert.equal((await head(talk))[0], 'HTTP/1.1 204');
  await using describer = new Program(['--describe-snapshot', program.path('state')]);
  assert.deepEqual(await describer.ended, [0, null]);
  assert.equal(describer.output, 'v10.0.0\n');
});
