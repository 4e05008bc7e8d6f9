import assert from 'node:assert/strict';
import { mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { CERTIFICATES } from '../../test/support/certificates.ts';
import { makeFakeHost } from '../../test/support/fake-daemon.ts';
import { FakeClock } from '../base/clock.ts';
import { silent, type Logger } from '../base/logger.ts';
import { followTls } from './tls.ts';

let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'hatch-tls-'));
});
after(() => rm(folder, { recursive: true }));

const file = (name: string): string => join(folder, name);
async function put(name: string, text: string): Promise<void> {
  await writeFile(file(`${name}.new`), text);
  await rename(file(`${name}.new`), file(name));
}

test('a certificate is followed as its files change; a pair that will not do is warned of once and changes nothing', async () => {
  const clock = new FakeClock();
  const [warnings, renewed]: [string[], unknown[]] = [[], []];
  const log: Logger = {
    ...silent,
    warn: (fields) => warnings.push(String((fields as { error?: unknown }).error)),
  };
  await put('cert', CERTIFICATES.one.cert);
  await put('key', CERTIFICATES.one.key);
  const values = { HATCH_PROXY_TLS_CERT: file('cert'), HATCH_PROXY_TLS_KEY: file('key') };
  const end = new AbortController();
  const following = followTls(
    { clock, log },
    { values, owner: 'HATCH_PROXY', now: CERTIFICATES.one },
    (pair) => void renewed.push(pair),
    end.signal,
  );
  const look = async (): Promise<void> => {
    await clock.advance(10_000);
    while (clock.sleepers === 0) await new Promise((resolve) => setImmediate(resolve));
  };
  await look();
  assert.deepEqual([renewed, warnings], [[], []]);
  await put('cert', CERTIFICATES.other.cert);
  await look();
  await look();
  assert.equal(renewed.length, 0, 'its key is still the old one');
  assert.equal(warnings.length, 1);
  await put('key', CERTIFICATES.other.key);
  await look();
  await look();
  assert.deepEqual(renewed, [CERTIFICATES.other]);
  await rm(file('key'));
  await look();
  await put('key', CERTIFICATES.other.key);
  await look();
  assert.deepEqual([renewed.length, warnings.length], [1, 2]);
  end.abort();
  await following;
});

test('with a certificate the URLs of routes are https, and the daemon ends with whatever is open', async () => {
  await put('cert', CERTIFICATES.one.cert);
  await put('key', CERTIFICATES.one.key);
  const host = await makeFakeHost();
  try {
    const env = { HATCH_PROXY_TLS_CERT: file('cert'), HATCH_PROXY_TLS_KEY: file('key') };
    const hatch = await host.start(env);
    await hatch.makeVm({ name: 'web' });
    const { body } = await hatch.call('POST', '/vms/web/routes', { subdomain: 'web', target_port: 80 });
    assert.equal((body as { url: string }).url, 'https://web.hatch.localhost:9090');
  } finally {
    await host.end();
  }
});

test('a certificate that will not do keeps the daemon from starting', async () => {
  const host = await makeFakeHost();
  try {
    await put('cert', CERTIFICATES.one.cert);
    await put('key', CERTIFICATES.other.key);
    const env = { HATCH_PROXY_TLS_CERT: file('cert'), HATCH_PROXY_TLS_KEY: file('key') };
    await assert.rejects(
      host.start(env),
      /^Error: HATCH_PROXY_TLS_KEY .*key is not the private key of HATCH_PROXY_TLS_CERT, in PEM\.$/,
    );
    await host.start();
  } finally {
    await host.end();
  }
});
