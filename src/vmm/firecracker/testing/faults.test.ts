import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readFaults, type Fault } from './faults.ts';
import { readKnobs } from './knobs.ts';
import type { HttpRequest } from './routes.ts';

function asked(method: HttpRequest['method'], path: string): HttpRequest {
  return { method, path, body: undefined };
}

function what(fault: Fault | undefined): string | undefined {
  return fault && `${fault.after ? 'after ' : ''}${fault.what}${fault.value === '' ? '' : ` ${fault.value}`}`;
}

test('a fault is met at its call and at all below it, and nowhere else', () => {
  const faultAt = readFaults('PUT /drives reset; GET / after hang; PATCH /vm exit 148');
  assert.equal(what(faultAt(asked('PUT', '/drives/disk0'))), 'reset');
  assert.equal(what(faultAt(asked('PUT', '/drives'))), 'reset');
  assert.equal(what(faultAt(asked('PUT', '/drivesome'))), undefined);
  assert.equal(what(faultAt(asked('PATCH', '/drives/disk0'))), undefined);
  assert.equal(what(faultAt(asked('GET', '/version'))), 'after hang');
  assert.equal(what(faultAt(asked('PATCH', '/vm'))), 'exit 148');
});

test('a number says the how manieth call it is, and a star means them all', () => {
  const faultAt = readFaults('PUT /actions#2 refuse no more words; * delay 0');
  assert.equal(what(faultAt(asked('PUT', '/actions'))), 'delay 0');
  assert.equal(what(faultAt(asked('PUT', '/actions'))), 'refuse no more words');
  assert.equal(what(faultAt(asked('PUT', '/actions'))), 'delay 0');
  assert.equal(what(faultAt(asked('GET', '/'))), 'delay 0');
});

test('what means nothing is no fault but a mistake', () => {
  for (const text of [
    'PUT /drives',
    'PUT drives reset',
    'POST / reset',
    '* explode',
    'GET / exit',
    'GET /#x kill',
  ])
    assert.throws(() => readFaults(text), /means nothing|needs a number/, text);
  assert.equal(readFaults(' ; ')(asked('GET', '/')), undefined);
});

test('a knob that is none, or turned to nowhere, is a mistake', () => {
  for (const env of [
    { FC_DOUBLE_FAULT: 'GET / kill' },
    { FC_DOUBLE_DEAF: 'yes' },
    { FC_DOUBLE_BOOT_MS: '-1' },
    { FC_DOUBLE_GUEST: 'ill' },
    { FC_DOUBLE_VERSION: 'newest' },
  ])
    assert.throws(() => readKnobs(env), /FC_DOUBLE_/, JSON.stringify(env));
  assert.equal(readKnobs({ PATH: '/bin' }).version.text, '1.16.1');
  assert.equal(readKnobs({}).losesVsock, true);
  assert.equal(readKnobs({ FC_DOUBLE_VERSION: 'v1.15.0' }).losesVsock, false);
});
