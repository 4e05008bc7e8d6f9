import assert from 'node:assert/strict';
import { cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';
import { run } from '../host/run.ts';

const root = join(import.meta.dirname, '../..');
const TSC = join(root, 'node_modules/typescript/bin/tsc');
let project = '';
let host: FakeHost;
let hatch: FakeDaemon;

/** A project of somebody's own that has the package in its node_modules, as npm would put it there. */
before(async () => {
  project = await mkdtemp(join(tmpdir(), 'hatch-user-'));
  const installed = join(project, 'node_modules/hatch');
  await mkdir(installed, { recursive: true });
  const args = ['-p', join(root, 'tsconfig.client.json'), '--outDir', join(installed, 'dist')];
  await run([process.execPath, TSC, ...args], { timeoutMs: 120_000 });
  await cp(join(root, 'package.json'), join(installed, 'package.json'));
  for (const name of ['undici', 'eventsource-parser', 'typebox', '@types'])
    await symlink(join(root, 'node_modules', name), join(project, 'node_modules', name));
  await writeFile(join(project, 'package.json'), '{"type":"module"}');
  host = await makeFakeHost();
  hatch = await host.start();
});
after(async () => {
  await host.end();
  await rm(project, { recursive: true });
});

test('the lines README.md shows make a VM, from a project that has installed the package, in JavaScript', async () => {
  const readme = await readFile(join(root, 'README.md'), 'utf8');
  const [, shown = ''] =
    /```ts\n(import \{ HatchClient \} from 'hatch\/client';[\s\S]*?)```/.exec(readme) ?? [];
  assert.match(shown, /vms\.create/);
  await writeFile(
    join(project, 'three-lines.js'),
    `${shown}\nconsole.log(JSON.stringify(vm));\nawait hatch.close();`,
  );
  const { stdout } = await run([process.execPath, join(project, 'three-lines.js')], {
    cwd: project,
    env: { HATCH_URL: hatch.daemon.url, HATCH_API_KEY: hatch.key },
  });
  const said = JSON.parse(stdout.trim().split('\n').at(-1) ?? '') as { state: string; ready: boolean };
  assert.deepEqual([said.state, said.ready], ['running', true]);
});

test('its types are those of the contract', async () => {
  const check = async (name: string, lines: string): Promise<string> => {
    const path = join(project, name);
    await writeFile(
      path,
      `import { HatchClient } from 'hatch/client';
const hatch = new HatchClient({ url: 'http://127.0.0.1:1', apiKey: 'k' });
${lines}`,
    );
    const options = ['--module', 'nodenext', '--target', 'es2024', '--strict', '--skipLibCheck'];
    const argv = [process.execPath, TSC, '--noEmit', ...options, '--types', 'node', path] as const;
    return (await run(argv, { cwd: project, timeoutMs: 120_000, okExitCodes: [0, 1, 2] })).stdout;
  };
  const right = `
const idle = { timeout_seconds: 60 };
const vm = await hatch.vms.create({ name: 'web', idle }, { wait: 'ready', idempotencyKey: 'x' });
const port: number | undefined = vm.ssh_port;
for await (const event of hatch.events.follow({ vm: vm.id })) console.log(event.kind.length, port);`;
  assert.equal(await check('right.ts', right), '');
  const wrong = await check(
    'wrong.ts',
    "const vm = await hatch.vms.create({ colour: 'red' });\nvm.state === 'asleep';",
  );
  assert.match(wrong, /wrong\.ts\(3,\d+\): error TS2353: .*'colour' does not exist/);
  assert.match(wrong, /wrong\.ts\(4,\d+\): error TS2367: .*'"asleep"' have no overlap/);
});
