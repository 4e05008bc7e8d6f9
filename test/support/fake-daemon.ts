import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { randomInt } from 'node:crypto';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Compile } from 'typebox/compile';
import { ApiDescription } from '../../src/api/described-answers.ts';
import type { VmId } from '../../src/base/ids.ts';
import { silent, type Logger } from '../../src/base/logger.ts';
import { ErrorBody } from '../../src/contract/error-body.ts';
import type { ErrorCode } from '../../src/contract/errors.ts';
import { startDaemon, type Daemon } from '../../src/daemon/assemble.ts';
import { readConfig } from '../../src/daemon/config.ts';
import { readAdminKey } from '../../src/daemon/data-folder.ts';
import { exists } from '../../src/host/files.ts';
import type { Store } from '../../src/store/store.ts';
import { assertNothingLeft } from './fake-world.ts';

const anError = Compile(ErrorBody);

type Method = 'GET' | 'POST' | 'PATCH' | 'PUT' | 'DELETE';

/** How a request is sent; the key of every scope unless told. */
export interface Sending {
  readonly key?: string | null;
  readonly headers?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  /** undefined where it is not JSON. */
  readonly body: unknown;
}

/** The daemon itself in this process, over a host whose guests and network are pretended: HATCH_VMM=fake. */
export interface FakeDaemon {
  readonly daemon: Daemon;
  readonly key: string;
  /** The address its SSH ports are at: its own, so that daemons of several tests do not meet. */
  readonly sshAddr: string;
  /** Sends a request; every answer is checked against the server’s description of itself. A string is sent as it is. */
  call(method: Method, path: string, body?: unknown, sending?: Sending): Promise<Answer>;
  /** Sends it and asserts that it is refused with this code, in a sentence. */
  refused(
    code: ErrorCode,
    method: Method,
    path: string,
    body?: unknown,
    sending?: Sending,
  ): Promise<{ readonly error: string; readonly details: Record<string, unknown> }>;
  /** Makes a VM and gives its object. */
  makeVm(body?: object): Promise<Record<string, unknown>>;
  /** Compares what is on the host with what the rows say: nothing else may be there. */
  assertNothingLeft(): Promise<void>;
  /** Ends the daemon; the guests run on, for the next one on the folder. */
  stop(): Promise<void>;
}

/** A folder for daemons, and what starts them on it. */
export interface FakeHost {
  readonly folder: string;
  readonly data: string;
  readonly sshAddr: string;
  start(env?: Readonly<Record<string, string>>, options?: StartOptions): Promise<FakeDaemon>;
  /** Asserts that the last daemon left nothing that should not be there, and whatever comes of it ends and removes everything. */
  end(): Promise<void>;
}

interface StartOptions {
  readonly wrapStore?: (store: Store) => Store;
  readonly log?: Logger;
}

/** Makes the folder; nothing runs yet. `inMemory`: where Linux has room for that, what is kept need not outlast a power cut. */
export async function makeFakeHost({ inMemory = false } = {}): Promise<FakeHost> {
  const shared = '/dev/shm';
  const folder = await mkdtemp(join(inMemory && (await exists(shared)) ? shared : tmpdir(), 'hatch-daemon-'));
  const data = join(folder, 'data');
  // All of 127/8 is this machine's.
  const sshAddr = `127.${randomInt(1, 255)}.${randomInt(1, 255)}.${randomInt(1, 255)}`;
  const started: FakeDaemon[] = [];
  return {
    folder,
    data,
    sshAddr,
    start: async (env = {}, { wrapStore, log = silent } = {}) => {
      const { values } = readConfig({
        HATCH_VMM: 'fake',
        HATCH_DATA_DIR: data,
        HATCH_HTTP_ADDR: '127.0.0.1:0',
        HATCH_PROXY_ADDR: `${sshAddr}:9090`,
        HATCH_SSH_ADDR: sshAddr,
        HATCH_SSH_PORT_MIN: '2200',
        HATCH_SSH_PORT_MAX: '2209',
        HATCH_RATE_LIMIT: '0',
        ...env,
      });
      const daemon = await startDaemon(values, {
        log,
        version: '1.2.3',
        ...(wrapStore ? { wrapStore } : {}),
      });
      const key = (await readAdminKey(daemon.data)) ?? assert.fail('no admin key');
      const made = overDaemon(daemon, key, sshAddr);
      started.push(made);
      return made;
    },
    end: async () => {
      try {
        await started.at(-1)?.assertNothingLeft();
      } finally {
        for (const one of started) await one.stop();
        await rm(folder, { recursive: true, force: true });
      }
    },
  };
}

function overDaemon(daemon: Daemon, adminKey: string, sshAddr: string): FakeDaemon {
  const description = once(
    async () => new ApiDescription(await (await fetch(`${daemon.url}/openapi.json`)).json()),
  );
  const call: FakeDaemon['call'] = async (method, path, body, { key = adminKey, headers, signal } = {}) => {
    const response = await fetch(`${daemon.url}${path}`, {
      method,
      headers: {
        ...(key === null ? {} : { authorization: `Bearer ${key}` }),
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      ...(signal ? { signal } : {}),
    });
    const text = await response.text();
    const isJson = response.headers.get('content-type')?.startsWith('application/json') === true;
    const parsed: unknown = isJson && text !== '' ? JSON.parse(text) : undefined;
    const contentType = response.headers.get('content-type') ?? undefined;
    assert.deepEqual(
      (await description()).wrongWith({ method, url: path, status: response.status, contentType, text }),
      [],
      `${method} ${path}: ${response.status} ${text}`,
    );
    if (response.status >= 400) {
      const error = anError.Parse(parsed);
      assert.match(error.error, /^["A-Z].*[.?]$/s, `an error is a sentence: ${error.error}`);
    }
    return { status: response.status, headers: response.headers, body: parsed };
  };
  return {
    daemon,
    key: adminKey,
    sshAddr,
    call,
    refused: async (code, method, path, body, sending) => {
      const answer = await call(method, path, body, sending);
      const sent = `${method} ${path} ${JSON.stringify(body)}`;
      assert.ok(answer.status >= 400, `${sent} was let through: ${JSON.stringify(answer.body)}`);
      const error = anError.Parse(answer.body);
      assert.equal(error.code, code, `${sent}: ${error.error}`);
      return error;
    },
    makeVm: async (body = {}) => {
      const answer = await call('POST', '/vms', body);
      assert.equal(answer.status, 201, JSON.stringify(answer.body));
      return { ...(answer.body as object) };
    },
    assertNothingLeft: async () => {
      const { store, ports, settings } = daemon.world;
      const listening: VmId[] = [];
      const owners = new Map(
        (await store.vms.ofHost(settings.hostId)).map((vm) => [vm.network?.sshPort, vm.id] as const),
      );
      for (let port = settings.sshPortMin; port <= settings.sshPortMax; port++) {
        if (await ports.isFree(port)) continue;
        listening.push(owners.get(port) ?? assert.fail(`port ${port} is open and no VM's`));
      }
      assert.deepEqual(listening.sort(), [...ports.vmIds()].sort(), 'what listens');
      await assertNothingLeft({ world: daemon.world });
    },
    stop: () => daemon.shutdown.run('the test is over'),
  };
}

/** Does something when it is first asked for, and gives what came of it from then on. */
function once<T>(work: () => Promise<T>): () => Promise<T> {
  let done: Promise<T> | undefined;
  return () => (done ??= work());
}
