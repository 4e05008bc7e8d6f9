import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { serveHatchd } from '../../test/support/hatchd-process.ts';

let folder = '';
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-log-'));
});
after(() => rm(folder, { recursive: true, force: true }));

interface Line {
  readonly msg: string;
  readonly request_id?: string;
  readonly operation?: string;
  readonly verb?: string;
  readonly vm?: string;
}

test('what is done for a request bears its id and its operation, also where several are made at once', async () => {
  const daemon = serveHatchd({
    HATCH_DATA_DIR: folder,
    HATCH_HTTP_ADDR: '127.0.0.1:0',
    HATCH_PROXY_ADDR: '127.0.0.1:0',
  });
  const key = (await daemon.line(/^ {2}hatch_/)).trim();
  await daemon.line(/"msg":"ready"/);
  const { url } = JSON.parse(await daemon.line(/"msg":"the API listens"/)) as { url: string };
  const made = await Promise.all(
    Array.from({ length: 5 }, async () => {
      const answer = await fetch(new URL('/vms', url), {
        method: 'POST',
        headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
        body: '{}',
      });
      const { id } = (await answer.json()) as { id: string };
      return { id, request: answer.headers.get('x-request-id') };
    }),
  );
  daemon.kill('SIGTERM');
  await daemon.ended;
  const lines = daemon
    .said()
    .split('\n')
    .filter((line) => line.startsWith('{'))
    .map((line) => JSON.parse(line) as Line);
  for (const { id, request } of made) {
    const own = lines.filter((line) => line.request_id === request);
    const done = own.find((line) => line.msg === 'operation done');
    assert.deepEqual([done?.vm, done?.verb], [id, 'create']);
    const steps = lines.filter((line) => line.operation === done?.operation && line.msg === 'step done');
    assert.ok(steps.length > 2);
    assert.ok(steps.every((line) => line.request_id === request));
    assert.equal(own.filter((line) => line.msg === 'request').length, 1);
  }
});
