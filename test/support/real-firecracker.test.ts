import assert from 'node:assert/strict';
import { test } from 'node:test';
import { realRun } from './real-firecracker.ts';

const BIN = '/opt/firecracker';

test('without a Firecracker named none is tried, and the run says which variable names one', () => {
  for (const env of [{}, { HATCH_FIRECRACKER_BIN: '' }, { HATCH_JAILER_BIN: '/opt/jailer' }]) {
    const { tries, notTried } = realRun(env);
    assert.deepEqual(tries, []);
    assert.match(
      notTried.join(),
      /real Firecracker was not tried, because none was named.*HATCH_FIRECRACKER_BIN/,
    );
  }
});

test('a Firecracker that is named is tried with guests, and the run says that no jailer was', () => {
  const { tries, notTried } = realRun({ HATCH_FIRECRACKER_BIN: BIN });
  assert.deepEqual(tries, [{ bin: BIN, jail: undefined, guestsRun: true }]);
  assert.match(notTried.join(), /real jailer was not tried.*HATCH_JAILER_BIN/);
});

test('with a jailer it is tried both ways, and nothing is left untried', () => {
  const { tries, notTried } = realRun({ HATCH_FIRECRACKER_BIN: BIN, HATCH_JAILER_BIN: '/opt/jailer' });
  assert.deepEqual(
    tries.map(({ jail }) => jail?.jailerBin),
    [undefined, '/opt/jailer'],
  );
  assert.deepEqual(notTried, []);
});

test('HATCH_TEST_FIRECRACKER=api tries it without guests; another value, or api of nothing, is refused', () => {
  const { tries } = realRun({ HATCH_FIRECRACKER_BIN: BIN, HATCH_TEST_FIRECRACKER: 'api' });
  assert.deepEqual(tries, [{ bin: BIN, jail: undefined, guestsRun: false }]);
  assert.throws(
    () => realRun({ HATCH_FIRECRACKER_BIN: BIN, HATCH_TEST_FIRECRACKER: 'apis' }),
    /is api or not set/,
  );
  assert.throws(() => realRun({ HATCH_TEST_FIRECRACKER: 'api' }), /set HATCH_FIRECRACKER_BIN/);
});
