import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Clock } from '../base/clock.ts';
import { Failure } from '../model/failure.ts';
import { AgentGone, type GuestAgent } from './agent.ts';
import { HELPER_PIPE, reportFile, takenFile } from './identity-helper.ts';
import { giveIdentity, joinNetwork, refresh, setClock } from './identity.ts';

const identity = { hostname: 'copy', mac: '02:fc:00:00:00:02', machineId: 'a'.repeat(32) };
const never = new AbortController().signal;
const DONE = '0\nreseeded yes\ndone\nend\n';

/** A guest with a helper, and what it was told to do. Time passes as one sleeps. */
interface HelpedGuest {
  readonly deps: { readonly agent: GuestAgent; readonly clock: Clock };
  readonly files: Map<string, string>;
  readonly requests: { readonly id: string; readonly kind: string; readonly said: readonly string[] }[];
  readonly withdrawn: string[];
  readonly started: string[];
  setTimes: number;
}

/** `work` is what the helper does when it is told something. */
function helped(
  work: (guest: HelpedGuest, id: string, at: (ms: number, then: () => void) => void) => void,
): HelpedGuest {
  let now = 1_000_000;
  const later: { readonly at: number; readonly then: () => void }[] = [];
  const none = (): Promise<never> => Promise.reject(new Error('not asked for'));
  const clock: Clock = {
    now: () => now,
    steady: () => now,
    sleep: async (ms) => {
      now += ms;
      for (const one of later.filter(({ at }) => at <= now)) {
        later.splice(later.indexOf(one), 1);
        one.then();
      }
    },
  };
  const agent: GuestAgent = {
    ...{ ping: none, exec: none, open: none, shutdown: none, info: none, close: () => undefined },
    setTime: async () => void guest.setTimes++,
    time: async () => assert.fail('not asked for here'),
    start: async ({ argv }) => {
      guest.started.push(argv[3] ?? '');
      const result = {
        exitCode: 0,
        stdout: 'reseeded yes\ndone\n',
        stderr: '',
        truncated: false,
        timedOut: false,
      };
      return { ended: Promise.resolve(result) };
    },
    read: async (path) => guest.files.get(path),
    write: async (path, text) => {
      if (path !== HELPER_PIPE || !guest.files.has(path)) return false;
      const [first, head = '', ...said] = text.split('\n');
      assert.equal(first, '', 'a request that was cut off before it ends with the line');
      const [word, id = '', kind = ''] = head.split(' ');
      if (word === 'withdraw') guest.withdrawn.push(id);
      else {
        assert.deepEqual(said.splice(-2), [`end ${id}`, '']);
        guest.requests.push({ id, kind, said });
        work(guest, id, (ms, then) => later.push({ at: now + ms, then }));
      }
      return true;
    },
  };
  const files = new Map([[HELPER_PIPE, '']]);
  const guest: HelpedGuest = {
    deps: { agent, clock },
    files,
    requests: [],
    withdrawn: [],
    started: [],
    setTimes: 0,
  };
  return guest;
}

/** A helper that reports so after a while. */
const reports = (report: string, ms = 50): HelpedGuest =>
  helped((guest, id, at) => {
    guest.files.set(takenFile(id), '');
    at(ms, () => guest.files.set(reportFile(id), report));
  });

test('a guest with a helper is told all through it, and no program is started', async () => {
  const guest = reports(`0\nreseeded yes\nkey ssh-ed25519 AAAA root@copy\nhook 3 a\nsaid no\ndone\nend\n`);
  assert.deepEqual(await giveIdentity(guest.deps, identity, never), {
    reseeded: true,
    hostKeys: ['ssh-ed25519 AAAA root@copy'],
    hooks: [{ name: 'a', exitCode: 3, timedOut: false, said: 'no' }],
  });
  await (
    await joinNetwork(guest.deps, never)
  ).joined;
  await refresh(guest.deps, never);
  await setClock(guest.deps, never);
  assert.deepEqual(
    guest.requests.map(({ kind, said }) => [kind, said[0]?.slice(0, 7), said.length]),
    [
      ['identity', 'fork', 11],
      ['join', undefined, 0],
      ['refresh', 'restore', 3],
      ['clock', '100015', 1],
    ].map(([kind, first, length]) => [
      kind,
      kind === 'clock' ? guest.requests[3]?.said[0]?.slice(0, 7) : first,
      length,
    ]),
  );
  assert.equal(new Set(guest.requests.map(({ id }) => id)).size, 4);
  assert.deepEqual([guest.started, guest.setTimes], [[], 0]);
});

test('a guest without a helper is told by the scripts', async () => {
  const guest = reports(DONE);
  guest.files.delete(HELPER_PIPE);
  await giveIdentity(guest.deps, identity, never);
  await refresh(guest.deps, never);
  await (
    await joinNetwork(guest.deps, never)
  ).joined;
  await setClock(guest.deps, never);
  assert.deepEqual(guest.started, ['hatch-identity', 'hatch-refresh', 'hatch-join']);
  assert.deepEqual([guest.requests, guest.setTimes], [[], 1]);
});

test('what the helper cannot do it says, and it is not tried another way', async () => {
  const guest = reports('1\nits random state could not be reseeded\nend\n');
  await assert.rejects(
    giveIdentity(guest.deps, identity, never),
    (error) =>
      error instanceof Failure &&
      error.code === 'no_guest_agent' &&
      error.message.endsWith(': its random state could not be reseeded.'),
  );
  assert.deepEqual(guest.started, []);
});

test('a clock the helper cannot set is set by the agent', async () => {
  const guest = reports('1\nits clock cannot be set\nend\n');
  await setClock(guest.deps, never);
  assert.equal(guest.setTimes, 1);
});

test('a report that is cut off, and one of another request, are none', async () => {
  const cut = reports('0\nreseeded yes\nend\n');
  await assert.rejects(giveIdentity(cut.deps, identity, never), /did not come to an end/);
  const other = helped((guest) => guest.files.set(reportFile('0'.repeat(32)), DONE));
  await giveIdentity(other.deps, identity, never);
  assert.deepEqual(other.started, ['hatch-identity']);
});

test('a request that nobody takes is withdrawn, and a script does it', async () => {
  const guest = helped(() => undefined);
  await giveIdentity(guest.deps, identity, never);
  assert.deepEqual(guest.withdrawn, [guest.requests[0]?.id]);
  assert.deepEqual(guest.started, ['hatch-identity']);
});

test('a helper that is killed in the middle leaves the rest to the script', async () => {
  const guest = helped((the, id, at) => {
    the.files.set(takenFile(id), '');
    // Started anew, its folder is empty.
    at(15_000, () => the.files.delete(takenFile(id)));
  });
  await giveIdentity(guest.deps, identity, never);
  assert.deepEqual(guest.started, ['hatch-identity']);
});

test('a helper that has work for long is waited for, but not for ever', async () => {
  const slow = reports(DONE, 60_000);
  await giveIdentity(slow.deps, identity, never);
  const hung = reports(DONE, 1_000_000);
  await assert.rejects(giveIdentity(hung.deps, identity, never), /longer than 120 s/);
  assert.deepEqual([slow.started, hung.started], [[], []]);
});

test('a channel that breaks is connected to anew, and one that is gone is told of', async () => {
  const guest = reports(DONE, 100);
  const { agent } = guest.deps;
  let broken = 2;
  const gone = (): Promise<never> => Promise.reject(new AgentGone('it ended'));
  const breaking: GuestAgent = {
    ...agent,
    read: (path, signal) => (broken-- > 0 ? gone() : agent.read(path, signal)),
  };
  await giveIdentity({ ...guest.deps, agent: breaking }, identity, never);
  await assert.rejects(
    giveIdentity({ ...guest.deps, agent: { ...agent, read: gone } }, identity, never),
    AgentGone,
  );
});
