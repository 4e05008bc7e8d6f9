import assert from 'node:assert/strict';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { test } from 'node:test';
import { silent } from '../base/logger.ts';
import { Failure } from '../model/failure.ts';
import type { ExecResult, GuestAgent } from './agent.ts';
import { refused } from './guest-file-suite.ts';
import { PIECE_BYTES, readGuestFile, writeGuestFile, type GuestFileContent } from './guest-file.ts';

/** What files do that only a kernel has, where a guest's programs are a machine's. */
export function oddFileSuite(
  name: string,
  {
    agent,
    exec,
    mostMs,
  }: {
    readonly agent: () => GuestAgent;
    readonly exec: (command: string) => Promise<ExecResult>;
    readonly mostMs: number;
  },
): void {
  const open = (path: string): Promise<GuestFileContent> =>
    readGuestFile({ guest: { agent: agent() } }, path, AbortSignal.timeout(mostMs));
  const write = (path: string, text: string): Promise<unknown> =>
    writeGuestFile(
      { guest: { agent: agent() }, log: silent },
      { path, mode: null, owner: null, group: null, parents: false },
      Readable.from([Buffer.from(text)]),
      AbortSignal.timeout(mostMs),
    );
  const folder = async (): Promise<string> => (await exec('mktemp -d')).stdout.trim();

  test(`${name}: files of /proc and /sys, which do not know their size, come whole`, async () => {
    const proc = await open('/proc/self/mounts');
    assert.equal(proc.facts.sizeBytes, 0);
    assert.match((await buffer(proc.content)).toString(), / \/proc proc /);
    const { stdout } = await exec('cat /sys/class/net/lo/address');
    const sys = await open('/sys/class/net/lo/address');
    assert.equal(sys.sizeBytes, stdout.length);
    assert.equal((await buffer(sys.content)).toString(), stdout);
  });

  test(`${name}: devices, pipes and sockets are refused at once, out and in`, async () => {
    const at = await folder();
    await exec(`mkfifo ${at}/pipe`);
    for (const path of ['/dev/zero', `${at}/pipe`])
      for (const work of [() => open(path), () => write(path, 'x')]) {
        const failed = await refused('invalid_request', work());
        assert.deepEqual([failed.details['field'], failed.details['kind']], ['path', 'other']);
      }
  });

  test(`${name}: a link is followed, and stays one when its file is replaced`, async () => {
    const at = await folder();
    await exec(
      `mkdir ${at}/real; echo old >${at}/real/file; cd ${at}; ln -s real/file link; ln -s real/new far; ln -s a b; ln -s b a`,
    );
    assert.equal((await buffer((await open(`${at}/link`)).content)).toString(), 'old\n');
    await write(`${at}/link`, 'new');
    await write(`${at}/far`, 'made');
    const { stdout } = await exec(`cd ${at}; readlink link far; cat real/file; cat real/new; ls -A real`);
    assert.equal(stdout, 'real/file\nreal/new\nnewmadefile\nnew\n');
    await refused('not_found', open(`${at}/a`));
    await refused('not_found', write(`${at}/a`, 'x'));
  });

  test(`${name}: where the guest lets nobody write is said in its words`, async () => {
    const failed = await refused('invalid_request', write('/proc/hatch-file', 'x'));
    assert.match(failed.message, /"\/proc\/hatch-file" cannot be written in the guest: \w/);
    const long = await refused('invalid_request', write(`/tmp/${'x'.repeat(300)}`, 'x'));
    assert.match(long.message, /File name too long/);
  });

  test(`${name}: what is added while a file is read does not come, and what is taken from it is missed`, async () => {
    const at = await folder();
    const bytes = 4 * PIECE_BYTES;
    await exec(`head -c ${bytes} /dev/zero >${at}/file`);
    const growing = await open(`${at}/file`);
    await exec(`echo more >>${at}/file`);
    assert.equal((await buffer(growing.content)).length, bytes);
    const shrinking = await open(`${at}/file`);
    await exec(`: >${at}/file`);
    await assert.rejects(
      buffer(shrinking.content),
      (error: unknown) => error instanceof Failure && /shorter/.test(error.message),
    );
  });

  test(`${name}: a hole comes as zeros`, async () => {
    const at = await folder();
    await exec(`truncate -s ${PIECE_BYTES + 5} ${at}/hole`);
    const bytes = await buffer((await open(`${at}/hole`)).content);
    assert.ok(bytes.equals(Buffer.alloc(PIECE_BYTES + 5)));
  });

  test(`${name}: what uploads left a day ago goes with the next one to the folder`, async () => {
    const at = await folder();
    await exec(`cd ${at}; touch -d '2 days ago' .hatch-file.old; touch .hatch-file.new`);
    await write(`${at}/file`, 'x');
    assert.equal((await exec(`ls -A ${at}`)).stdout, '.hatch-file.new\nfile\n');
  });
}
