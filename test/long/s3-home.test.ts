import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { inspect } from 'node:util';
import { CreateBucketCommand, S3Client } from '@aws-sdk/client-s3';
import { systemClock } from '../../src/base/clock.ts';
import { errorFields } from '../../src/base/logger.ts';
import { isBlobError, type BlobErrorKind } from '../../src/store/blobs/blob-error.ts';
import { homeSuite } from '../../src/store/blobs/home-suite.ts';
import { listAll, type BlobHome } from '../../src/store/blobs/home.ts';
import { openS3Home, type S3Home, type S3Options } from '../../src/store/blobs/s3-home.ts';
import { hatchd } from '../support/hatchd-process.ts';
import { makeSwift, type Swift } from '../support/swift.ts';
import { openTcpFront, type TcpFront } from '../support/tcp-front.ts';

let swift: Swift;
let front: TcpFront;
let folder: string;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), 's3-home-'));
  swift = await makeSwift();
  front = await openTcpFront(swift.port);
  await makeBucket('hatch');
});
after(async () => {
  await front.close();
  await swift.dispose();
  await rm(folder, { recursive: true });
});

async function makeBucket(Bucket: string): Promise<void> {
  const { endpoint, region, credentials } = options();
  const client = new S3Client({
    region,
    ...(endpoint && { endpoint }),
    ...(credentials && { credentials }),
    forcePathStyle: true,
  });
  await client.send(new CreateBucketCommand({ Bucket }));
  client.destroy();
}

/** The home of these tests, without patience unless they want some. */
const options = (more: Partial<S3Options> = {}): S3Options => ({
  bucket: 'hatch',
  prefix: 'one/',
  endpoint: swift.endpoint,
  region: 'us-east-1',
  credentials: { accessKeyId: swift.accessKey, secretAccessKey: swift.secretKey },
  patienceMs: 0,
  ...more,
});

async function using(more: Partial<S3Options>, body: (home: S3Home) => Promise<void>): Promise<void> {
  const home = openS3Home(options(more));
  try {
    await body(home);
  } finally {
    home.close();
  }
}

/** That a call fails so, in this sentence, and nothing of the error holds a secret, down to its last cause. */
async function fails(call: Promise<unknown>, kind: BlobErrorKind, sentence: RegExp): Promise<void> {
  const error = await call.then(
    () => assert.fail('it did not fail'),
    (reason: unknown) => reason,
  );
  assert.ok(isBlobError(error, kind), `expected ${kind}: ${inspect(error)}`);
  assert.match(error.message, sentence);
  const shown = inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(errorFields(error));
  for (const secret of [swift.secretKey, 'wrong-secret', 'Credential=', 'Signature=', 'StringToSign'])
    assert.equal(shown.includes(secret), false, `it holds ${secret}: ${shown}`);
}

function put(home: BlobHome, name: string, bytes: Uint8Array, signal?: AbortSignal): Promise<void> {
  return home.put(name, { bytes }, { sha256: sha256(bytes), ...(signal && { signal }) });
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

homeSuite('a bucket', async () => {
  await makeBucket('suite');
  const home = openS3Home(options({ bucket: 'suite', prefix: '' }));
  return { home, close: async () => home.close() };
});

test('homes with different prefixes in one bucket see nothing of each other, nor of what else lies there', () =>
  using({}, (one) =>
    using({ prefix: '' }, async (whole) => {
      await put(one, 'mine', Buffer.from('x'));
      await put(whole, 'two/theirs', Buffer.from('y'));
      assert.deepEqual(await listAll(one, ''), [{ name: 'mine', bytes: 1 }]);
      assert.deepEqual(await whole.head('one/mine'), { name: 'one/mine', bytes: 1 });
    }),
  ));

test('a list of more than a page is whole and in order', () =>
  using({ prefix: 'many/', patienceMs: 30_000 }, async (home) => {
    const names = Array.from({ length: 1003 }, (_, i) => `n/${String(i).padStart(4, '0')}`);
    await Promise.all(names.map((name) => put(home, name, Buffer.from(name))));
    assert.deepEqual(
      (await listAll(home, 'n/')).map(({ name }) => name),
      names,
    );
  }));

test('a wrong secret or an unknown key is told in a sentence that says where to look', async () => {
  const { accessKey: accessKeyId, secretKey: secretAccessKey } = swift;
  const look = /HATCH_S3_ACCESS_KEY and HATCH_S3_SECRET_KEY/;
  for (const credentials of [
    { accessKeyId, secretAccessKey: 'wrong-secret' },
    { accessKeyId: 'hatch:nobody', secretAccessKey },
  ])
    await using({ credentials, patienceMs: 30_000 }, async (home) => {
      const started = performance.now();
      await fails(put(home, 'a', Buffer.alloc(10)), 'refused', look);
      await fails(put(home, 'a', Buffer.alloc(5_000_000)), 'refused', look);
      await fails(home.get('a', { maxBytes: 10 }), 'refused', look);
      await fails(home.head('a'), 'refused', look);
      await fails(home.remove('a'), 'refused', look);
      await fails(listAll(home, ''), 'refused', look);
      assert.ok(performance.now() - started < 15_000, 'nothing of it is tried again');
    });
});

test('a bucket that is not there is told as that, and not as a blob that is missing', () =>
  using({ bucket: 'nowhere', patienceMs: 30_000 }, async (home) => {
    const told = /bucket does not exist; make it, or look at HATCH_SNAPSHOT_STORE/;
    await fails(put(home, 'a', Buffer.alloc(10)), 'refused', told);
    await fails(home.get('a', { maxBytes: 10 }), 'refused', told);
    await fails(home.getRange('a', 0, 1), 'refused', told);
    await fails(home.head('a'), 'refused', told);
    await fails(home.remove('a'), 'refused', told);
    await fails(listAll(home, ''), 'refused', told);
  }));

test('a server that is not there, says nothing, or talks of something else is told so, in bounded time', async () => {
  const bytes = Buffer.alloc(10);
  await using({ endpoint: 'http://127.0.0.1:1' }, (home) =>
    fails(put(home, 'a', bytes), 'unreachable', /^a could not be kept: the connection .*\(ECONNREFUSED\)$/),
  );
  await using({ endpoint: 'http://no-such-host.invalid' }, (home) =>
    fails(home.head('a'), 'unreachable', /^a could not be looked at: .*\((ENOTFOUND|EAI_AGAIN)\)$/),
  );
  front.treat('silent');
  await using({ endpoint: front.url, idleMs: 300 }, async (home) => {
    await fails(put(home, 'a', bytes), 'unreachable', /does not answer, or stopped in the middle$/);
    await fails(home.get('a', { maxBytes: 1 }), 'unreachable', /does not answer/);
  });
  front.treat({ answer: 'HTTP/1.1 502 Bad Gateway\r\nContent-Length: 13\r\n\r\n<html>no<html' });
  await using({ endpoint: front.url }, (home) =>
    fails(home.get('a', { maxBytes: 1 }), 'unreachable', /in trouble of its own \(502/),
  );
});

test('a connection that breaks is tried again, and the put is whole', async () => {
  const bytes = randomBytes(8_000_000);
  const file = join(folder, 'pack');
  await writeFile(file, bytes);
  await using({ endpoint: front.url, patienceMs: 60_000 }, async (home) => {
    const before = front.seen;
    const cut = { cut: 'sent', after: 3_000_000 } as const;
    front.treat('pass', cut, cut, { cut: 'received', after: 1 });
    await home.put('broken', { file }, { sha256: sha256(bytes) });
    assert.ok(front.seen - before >= 4);
    front.treat('pass', { cut: 'received', after: 2_000_000 }, { cut: 'received', after: 1 });
  });
  await using({ endpoint: front.url, patienceMs: 60_000 }, async (home) => {
    front.treat('pass', { cut: 'received', after: 2_000_000 }, { cut: 'received', after: 1 });
    assert.ok((await home.get('broken', { maxBytes: 2 ** 26 })).equals(bytes));
  });
  await using({ endpoint: front.url, patienceMs: 1500 }, async (home) => {
    front.treat({ cut: 'sent', after: 3_000_000 });
    const started = performance.now();
    await fails(home.put('never', { file }, { sha256: sha256(bytes) }), 'unreachable', /broke \(E[A-Z]+\)$/);
    assert.ok(performance.now() - started < 10_000);
  });
  await using({}, async (home) => {
    assert.equal(await home.head('never'), undefined, 'nothing is kept of half a put');
  });
});

test('a store that asks for fewer requests is waited for, and told when it goes on asking', async () => {
  const body =
    '<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your rate</Message></Error>';
  const answer = `HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const bytes = randomBytes(3_000_000);
  await using({ endpoint: front.url, patienceMs: 60_000 }, async (home) => {
    front.treat('pass', { answer }, { answer }, { answer });
    await put(home, 'slow', bytes);
    assert.ok((await home.get('slow', { maxBytes: 2 ** 26 })).equals(bytes));
  });
  await using({ endpoint: front.url, patienceMs: 1000 }, async (home) => {
    front.treat({ answer });
    await fails(put(home, 'slow', bytes), 'throttled', /asks for fewer requests \(SlowDown\)$/);
    await fails(listAll(home, ''), 'throttled', /asks for fewer requests/);
  });
});

test('no more requests are under way than were allowed', async () => {
  front.treat('silent');
  await using({ endpoint: front.url, atOnce: 3, idleMs: 60_000 }, async (home) => {
    const before = front.seen;
    const stop = new AbortController();
    const why = new Error('enough');
    const calls = Array.from({ length: 12 }, (_, i) => put(home, `n${i}`, Buffer.alloc(10), stop.signal));
    const settled = Promise.allSettled(calls);
    await systemClock.sleep(1000);
    assert.equal(front.seen - before, 3);
    stop.abort(why);
    for (const result of await settled)
      assert.equal(result.status === 'rejected' ? result.reason : 'it was put', why);
    assert.equal(front.seen - before, 3);
  });
});

test('a file that is gone is told as the file, and nothing is tried', () =>
  using({ patienceMs: 30_000 }, (home) =>
    fails(
      home.put('a', { file: join(folder, 'gone') }, { sha256: sha256(Buffer.alloc(0)) }),
      'missing',
      /^a could not be kept: it is not there$/,
    ),
  ));

test('a server that dies half-way and comes back has what it said it has, and takes the rest', async () => {
  const blobs = Array.from({ length: 6 }, (_, i) => ({ name: `pack-${i}`, bytes: randomBytes(4_000_000) }));
  const kept: string[] = [];
  await using({ endpoint: front.url, atOnce: 1 }, async (home) => {
    front.treat('pass');
    const putting = blobs.map(async ({ name, bytes }) => {
      await put(home, name, bytes);
      kept.push(name);
      if (kept.length === 2) await swift.kill();
    });
    const failed = (await Promise.allSettled(putting)).filter((result) => result.status === 'rejected');
    assert.equal(failed.length, 4);
    for (const { reason } of failed)
      await fails(
        Promise.reject(reason as Error),
        'unreachable',
        /^pack-\d could not be kept: the connection/,
      );
  });
  await using({ endpoint: front.url, patienceMs: 180_000 }, async (home) => {
    // Begun while it is down: it is waited for.
    const all = Promise.all(blobs.map(({ name, bytes }) => put(home, name, bytes)));
    await swift.start();
    await all;
    for (const { name, bytes } of blobs)
      assert.ok((await home.get(name, { maxBytes: 2 ** 26 })).equals(bytes), name);
  });
});

test('hatchd doctor looks whether the bucket can be used, and says what is wrong with it', async () => {
  const data = join(folder, 'data');
  const look = async (more: Record<string, string> = {}): Promise<string> => {
    const { stdout } = await hatchd(['doctor', '--json'], {
      HATCH_VMM: 'fake',
      HATCH_HTTP_ADDR: '127.0.0.1:0',
      HATCH_PROXY_ADDR: '127.0.0.1:0',
      HATCH_DATA_DIR: data,
      HATCH_SNAPSHOT_STORE: 's3://hatch/doctor',
      HATCH_S3_ENDPOINT: swift.endpoint,
      HATCH_S3_ACCESS_KEY: swift.accessKey,
      HATCH_S3_SECRET_KEY: swift.secretKey,
      ...more,
    });
    assert.equal(stdout.includes(swift.secretKey), false);
    // What `hatchd doctor --json` prints.
    const { findings } = JSON.parse(stdout) as {
      findings: Record<'check' | 'verdict' | 'message', string>[];
    };
    const found = findings.find((finding) => finding.check === 'snapshots');
    return `${found?.verdict}: ${found?.message}`;
  };
  assert.equal(await look(), 'ok: s3://hatch/doctor/ keeps, gives back and removes');
  assert.match(await look({ HATCH_S3_SECRET_KEY: 'wrong-secret' }), /^fail: .*look at HATCH_S3_ACCESS_KEY/);
  assert.match(await look({ HATCH_SNAPSHOT_STORE: 's3://nowhere' }), /^fail: .*its bucket does not exist/);
  await using({ prefix: 'doctor/' }, async (home) => assert.deepEqual(await listAll(home, ''), []));
});
