import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import { hatch, type Ran } from '../../../test/support/cli.ts';
import { field, testApi, type TestApi } from '../../api/test-client.ts';

/** `hatch` against the API itself over a pretended Hatch, with a running VM `web`. */
async function server(
  t: TestContext,
): Promise<{ readonly api: TestApi; readonly cli: (...words: string[]) => Promise<Ran> }> {
  const api = await testApi();
  const url = await api.app.listen({ host: '127.0.0.1', port: 0 });
  t.after(() => api.app.close());
  const made = await api.call('POST', '/vms', { name: 'web' });
  const id = String(field(made.body, 'id'));
  // It runs.
  const vm = [...api.hatch.vmRows.values()].find((one) => one.id === id);
  assert.ok(vm);
  api.hatch.vmRows.set(vm.id, { ...vm, state: 'running' });
  return {
    api,
    cli: async (...words) => {
      const ran = await hatch(words, { env: { HATCH_URL: url, HATCH_API_KEY: api.key } });
      return { ...ran, out: ran.out.replaceAll(id, 'vm-ID'), err: ran.err.replaceAll(id, 'vm-ID') };
    },
  };
}

test('a lease is taken for as long as is said, and ended; too long a one is refused naming the limit', async (t) => {
  const { api, cli } = await server(t);
  const { out } = await cli('vm', 'lease', 'web', '10m');
  assert.match(out, /^vm-ID is kept awake until \d{4}-\d\d-\d\dT.*Z\.\n$/);
  const ended = await cli('vm', 'lease', 'web', '0');
  assert.equal(ended.out, 'vm-ID is not kept awake any more.\n');
  const long = await cli('vm', 'lease', 'web', '2h');
  assert.equal(long.code, 2);
  assert.match(long.err, /"seconds" must be .*3600/);
  for (const body of [{}, { seconds: 1.5 }, { seconds: -1 }, { seconds: '10' }, { seconds: 1, more: 1 }])
    await api.refused('invalid_request', 'POST', '/vms/web/lease', body);
  await api.refused('not_found', 'POST', '/vms/nobody/lease', { seconds: 1 });
});

test('why shows what is so now, what was last, and what it saved', async (t) => {
  const { cli, api } = await server(t);
  const { out } = await cli('vm', 'why', 'web');
  assert.match(out, /^Now +awake\. It was last used 10 s ago\.$/m);
  assert.match(out, /^Last woken +\S+ ago\. Woken by http from 203\.0\.113\.9\.$/m);
  assert.match(out, /^Asleep +2 times, 1h in all$/m);
  assert.match(out, /^Saved +0\.75 GiB-hours$/m);
  assert.match(out, /^Waited +3 visitors at 1 wakes, 420 ms on average, 420 ms at most$/m);
  assert.match(out, /woken +Woken by http/);
  const { body } = await api.call('GET', '/vms/web/why');
  assert.deepEqual(field(body, 'now', 'signals'), { idle_seconds: 10 });
  assert.equal(field(body, 'waits', 'longest_ms'), 420);
});

test('a simulation is a table of what was and would have been', async (t) => {
  const { cli, api } = await server(t);
  const { out } = await cli('idle', 'simulate', '--timeout', '10m');
  assert.match(out, /^VM +OVER +SLEEPS +WOULD +ASLEEP +WOULD +GIB-HOURS +WOULD +WAKES +WOULD$/m);
  assert.match(out, /^web +1d +0 +4 +0s +23h +0 +9\.5 +0 +3$/m);
  const one = await cli('idle', 'simulate', '--timeout', '10m', '--vm', 'nobody');
  assert.equal(one.code, 3);
  assert.equal((await cli('idle', 'simulate')).code, 2);
  await api.refused('invalid_request', 'POST', '/idle/simulate', { timeout_seconds: 0 });
});

test('a policy is said in options, shown, and refused naming what is wrong', async (t) => {
  const { cli, api } = await server(t);
  const words = [
    '--idle-timeout',
    '10m',
    '--idle-action',
    'stop',
    '--idle-connections',
    'quiet',
    '--cpu-below',
    '15',
  ];
  words.push('--keep-awake', 'sat-mon,wed 22:00-06:00 Europe/Berlin', '--keep-awake', '08:00-24:00', '--pin');
  const set = await cli('vm', 'update', 'web', ...words);
  assert.equal(set.code, 0, set.err);
  assert.match(
    set.out,
    /^Idle +stop after 600 s; connections: quiet; below 15 % CPU; awake sat,sun,mon,wed 22:00-06:00 Europe\/Berlin; awake mon,tue,wed,thu,fri,sat,sun 08:00-24:00 UTC; pinned$/m,
  );
  const back = await cli('vm', 'update', 'web', '--no-pin', '--cpu-below', 'off', '--keep-awake', 'never');
  assert.equal(back.code, 0, back.err);
  const idle = field((await api.call('GET', '/vms/web')).body, 'idle');
  assert.deepEqual(
    [field(idle, 'pinned'), field(idle, 'cpu_below'), field(idle, 'keep_awake')],
    [false, undefined, undefined],
  );
  for (const [wrong, said] of [
    [['--idle-connections', 'drop'], /--idle-connections must be one of hold, quiet, ignore; it is "drop"/],
    [['--keep-awake', 'mon'], /--keep-awake must be days, times and a time zone/],
    [['--keep-awake', 'monday 08:00-18:00'], /--keep-awake must be one of mon, .*it is "monday"/],
    [['--keep-awake', '08:00-25:00'], /idle\.keep_awake\.0\.to" must be a time of the day/],
    [['--keep-awake', '08:00-08:00'], /idle\.keep_awake\.0\.to" must be another time than "from"/],
    [['--keep-awake', '08:00-18:00 Mars/Olympus'], /idle\.keep_awake\.0\.time_zone" must be a time zone/],
    [['--cpu-below', '101'], /idle\.cpu_below/],
  ] as const) {
    const { code, err } = await cli('vm', 'update', 'web', ...wrong);
    assert.equal(code, 2, err);
    assert.match(err, said);
  }
});
