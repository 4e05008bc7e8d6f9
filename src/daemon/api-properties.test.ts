import assert from 'node:assert/strict';
import { after, before, suite, test, type TestContext } from 'node:test';
import fc from 'fast-check';
import { ApiDescription, type Operation } from '../api/described-answers.ts';
import { BODY_BYTES } from '../api/json-body.ts';
import { fields } from '../api/test-client.ts';
import { isErrorCode } from '../contract/errors.ts';
import { oddRequests } from '../../test/support/api-requests/odd-requests.ts';
import { plainRequest, validRequests, type Asked } from '../../test/support/api-requests/requests.ts';
import { Sender, wrongWith, type Heard } from '../../test/support/api-requests/send.ts';
import { ROLES, Stock, type Role } from '../../test/support/api-requests/stock.ts';
import { makeFakeHost, type FakeDaemon, type FakeHost } from '../../test/support/fake-daemon.ts';

/**
 * Every operation of the description, asked for plainly, in every way it allows, and oddly, by everybody: nothing is a defect, and every
 * answer is one the description knows. HATCH_TEST_RUNS: requests of each kind for each operation; HATCH_TEST_SEED: of an earlier run.
 */
const RUNS = Number(process.env['HATCH_TEST_RUNS'] ?? 5);
const SEED = Number(process.env['HATCH_TEST_SEED'] ?? 20_261_130);

/** What may be answered although it is nobody's fault who asked: a host that has no room, a guest that takes its time. */
const HOSTS_FAULTS = new Set(['no_capacity', 'timeout', 'no_guest_agent']);

let host: FakeHost;
let hatch: FakeDaemon;
let stock: Stock;
let sender: Sender;
let description: ApiDescription;
const seen = new Map<string, number>();

before(async () => {
  host = await makeFakeHost({ inMemory: true });
  hatch = await host.start({ HATCH_SSH_PORT_MAX: '2399', HATCH_MAX_VMS_PER_ACCOUNT: '100' });
  description = new ApiDescription((await hatch.call('GET', '/openapi.json')).body);
  stock = await Stock.of(hatch);
  sender = new Sender(hatch.daemon.url, stock);
});
after(async () => {
  sender.close();
  await host.end();
});

/** Sends it, and asserts what holds of every answer. */
async function ask(asked: Asked): Promise<Heard> {
  const heard = await sender.send(asked);
  const { status, text } = heard;
  seen.set(`${asked.operation} ${status}`, (seen.get(`${asked.operation} ${status}`) ?? 0) + 1);
  assert.deepEqual(wrongWith(description, asked, heard), [], said(heard));
  const code = codeOf(heard);
  assert.ok(status < 500 || HOSTS_FAULTS.has(code), said(heard));
  if (status === 405) assert.ok(heard.headers.allow, said(heard));
  if (status >= 400 && asked.method !== 'HEAD') {
    assert.ok(isErrorCode(code), said(heard));
    // An answer that is given again is that of the first request, which its body names.
    if (heard.headers['idempotency-replayed'] === undefined)
      assert.equal(heard.headers['x-request-id'], fields(parse(text))['request_id'], said(heard));
  }
  const operation = description.operationOf(asked.method, heard.url);
  if (operation && status < 300) {
    assert.ok(mayAsk(operation, asked.as), `${asked.as} may not: ${said(heard)}`);
    assert.ok(!['none', 'unknown', 'revoked'].includes(asked.as) || isOpen(operation), said(heard));
  }
  if (status < 300 && asked.method !== 'GET' && asked.method !== 'HEAD') await stock.fill();
  return heard;
}

/** Asks for every operation, whatever came of the one before, and fails with all that was found. */
async function each(
  t: TestContext,
  requests: (description: ApiDescription, operation: Operation) => fc.Arbitrary<Asked>,
  check: (asked: Asked) => Promise<void>,
): Promise<void> {
  const found: string[] = [];
  for (const operation of description.operations) {
    const property = fc.asyncProperty(requests(description, operation), check);
    const options = { numRuns: RUNS, seed: SEED, interruptAfterTimeLimit: Math.max(20_000, RUNS * 500) };
    await fc.assert(property, { ...options, includeErrorInReport: true }).catch((error: unknown) => {
      found.push(`${operation.id}: ${error instanceof Error ? error.message : String(error)}`);
    });
  }
  if (found.length > 0) t.diagnostic(`again: HATCH_TEST_SEED=${SEED} HATCH_TEST_RUNS=${RUNS}`);
  assert.ok(found.length === 0, found.join('\n\n'));
}

/** The scopes of which a key needs one; none: it needs no key. */
function scopesOf({ described }: Operation): string[] {
  const said = /Needs .*$/s.exec(String(described['description']))?.[0] ?? assert.fail('who may is not said');
  if (/any scope/.test(said)) return ['read', 'write', 'admin', 'operator'];
  return [...said.matchAll(/`(\w+)`/g)].map((match) => match[1] ?? '');
}

function isOpen(operation: Operation): boolean {
  return scopesOf(operation).length === 0;
}

function mayAsk(operation: Operation, as: Role): boolean {
  const scopes = scopesOf(operation);
  if (scopes.length === 0 || as === 'everything') return true;
  if (as === 'stranger') return scopes.some((scope) => scope !== 'operator');
  return scopes.includes(as);
}

function parse(text: string | undefined): unknown {
  return text === undefined || text === '' ? undefined : JSON.parse(text);
}

function codeOf({ status, text, headers }: Heard): string {
  if (status < 400 || !headers['content-type']?.startsWith('application/json')) return '';
  return String(fields(parse(text))['code']);
}

function said({ sent, status, text }: Heard): string {
  return `${sent}\n-> ${status} ${text?.slice(0, 1000) ?? ''}`;
}

suite('every operation of the description', () => {
  test('has a plain request, which succeeds', async () => {
    assert.ok(description.operations.length > 50);
    for (const operation of description.operations) {
      const heard = await ask(plainRequest(operation));
      assert.ok(heard.status < 300, said(heard));
    }
  });

  test('is for those alone it says it is for, and of another account nothing is there', async () => {
    for (const operation of description.operations)
      for (const as of ROLES) {
        const heard = await ask({ ...plainRequest(operation), as });
        if (isOpen(operation) || as === 'everything') assert.ok(heard.status < 300, said(heard));
        else if (['none', 'unknown', 'revoked'].includes(as)) assert.equal(heard.status, 401, said(heard));
        else if (!mayAsk(operation, as)) assert.equal(heard.status, 403, said(heard));
        else if (as === 'stranger' && operation.path.includes('{'))
          // Images and templates of the server's own account are everybody's to see.
          assert.equal(heard.status, /^get(?:Image|Template)$/.test(operation.id) ? 200 : 404, said(heard));
      }
  });

  test('answers whatever is valid as it says', (t) =>
    each(t, validRequests, async (asked) => {
      const heard = await ask(asked);
      if (heard.status !== 400 && heard.status !== 413) return;
      const { field: named, limit } = fields(fields(parse(heard.text))['details']);
      // All that is allowed together may be more than a body may have.
      if (heard.status === 413 && limit === BODY_BYTES) return;
      assert.ok(typeof named === 'string' && named !== '', `no field is named: ${said(heard)}`);
    }));

  test('answers whatever is odd as it says', (t) =>
    each(t, oddRequests, async (asked) => void (await ask(asked))));

  test('has been asked for, with success and without', (t) => {
    for (const { id } of description.operations) {
      const statuses = [...seen.keys()]
        .filter((key) => key.startsWith(`${id} `))
        .map((key) => Number(key.split(' ')[1]));
      assert.ok(
        statuses.some((status) => status < 300),
        id,
      );
      assert.ok(['getHealth', 'getReadiness'].includes(id) || statuses.some((status) => status >= 400), id);
    }
    t.diagnostic(`${[...seen.values()].reduce((sum, count) => sum + count, 0)} requests, seed ${SEED}`);
  });
});
