import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Failure } from './failure.ts';
import { checkUserData, USER_DATA_BYTES } from './user-data.ts';

const refused = (text: string, code: string, message: RegExp): Failure => {
  let failure: unknown;
  try {
    checkUserData(text);
  } catch (error) {
    failure = error;
  }
  assert.ok(failure instanceof Failure, 'it was let through');
  assert.equal(failure.code, code);
  assert.match(failure.message, message);
  assert.equal(failure.details['field'], 'user_data');
  return failure;
};

test('every format cloud-init knows is recognised by its beginning, in any case', () => {
  assert.equal(checkUserData('#cloud-config\npackages: [nginx, git]\n'), 'cloud-config');
  assert.equal(checkUserData('\n  #Cloud-Config\nusers:\n  - name: ubuntu'), 'cloud-config');
  assert.equal(checkUserData('#cloud-config\r\nruncmd:\r\n  - ls\r\n'), 'cloud-config');
  assert.equal(checkUserData('#cloud-config-archive\n- type: text/cloud-config\n'), 'cloud-config-archive');
  assert.equal(checkUserData('#cloud-config-jsonp\n[{"op":"add"}]'), 'cloud-config-jsonp');
  assert.equal(checkUserData('#!/bin/sh\necho {{{'), 'script');
  assert.equal(checkUserData('#include\nhttps://example.com/x'), 'include');
  assert.equal(checkUserData('#include-once\nhttps://example.com/x'), 'include');
  assert.equal(checkUserData('#cloud-boothook\n#!/bin/sh'), 'boothook');
  assert.equal(checkUserData('#part-handler\ndef list_types(): pass'), 'part-handler');
  assert.equal(checkUserData('## template: jinja\n#cloud-config\n{% if x %}'), 'jinja');
  assert.equal(
    checkUserData('Content-Type: multipart/mixed; boundary="x"\nMIME-Version: 1.0\n\n--x'),
    'mime',
  );
  assert.equal(
    checkUserData('MIME-Version: 1.0\r\nContent-Type: text/x-shellscript\r\n\r\n#!/bin/sh'),
    'mime',
  );
});

test('a #cloud-config that says nothing, or says a key twice, is as good as it is to cloud-init', () => {
  assert.equal(checkUserData('#cloud-config'), 'cloud-config');
  assert.equal(checkUserData('#cloud-config\n# nothing yet\n'), 'cloud-config');
  assert.equal(checkUserData('#cloud-config\n{}\n'), 'cloud-config');
  assert.equal(checkUserData('#cloud-config\nruncmd: [a]\nruncmd: [b]\n'), 'cloud-config');
});

test('broken YAML is refused with its line and column, and without a word of the text', () => {
  const failure = refused(
    '#cloud-config\nchpasswd:\n  list: "hunter2\nother: 1\n',
    'invalid_request',
    /not YAML: line \d+, column \d+/,
  );
  assert.ok(!JSON.stringify([failure.message, failure.details]).includes('hunter2'));
  const tab = refused('#cloud-config\nusers:\n\t- name: x\n', 'invalid_request', /line 3, column 1: a tab/);
  assert.deepEqual(tab.details, { field: 'user_data', line: 3, column: 1 });
  refused('#cloud-config\na: *nowhere\n', 'invalid_request', /line 2, column 4: an alias without its anchor/);
  refused('#cloud-config\na: 1\n---\nb: 2\n', 'invalid_request', /second document/);
  refused('#cloud-config\na: [1, 2\n', 'invalid_request', /a bracket above it is not closed/);
  refused('#cloud-config\na: "b\n', 'invalid_request', /missing/);
});

test('YAML of another kind is refused', () => {
  refused('#cloud-config\n- a\n- b\n', 'invalid_request', /not a YAML mapping/);
  refused('#cloud-config\njust words\n', 'invalid_request', /not a YAML mapping/);
  refused('#cloud-config-archive\na: 1\n', 'invalid_request', /not a YAML list/);
});

test('what cloud-init would pass over is refused with the list of formats', () => {
  refused('packages:\n  - nginx\n', 'invalid_request', /must begin with "#cloud-config"/);
  refused('   ', 'invalid_request', /must begin with/);
  refused('Content-Type: multipart/mixed; boundary="x"\n\n--x', 'invalid_request', /MIME-Version/);
  refused('#!/bin/sh\n\0', 'invalid_request', /NUL/);
  refused('#!/bin/sh\n\ud800', 'invalid_request', /surrogate/);
});

test('the limit counts bytes, not characters', () => {
  const head = '#!/bin/sh\n';
  assert.equal(checkUserData(head + 'a'.repeat(USER_DATA_BYTES - head.length)), 'script');
  refused(head + 'a'.repeat(USER_DATA_BYTES - head.length + 1), 'too_large', /at most 262144 bytes/);
  refused(head + 'é'.repeat(USER_DATA_BYTES / 2), 'too_large', /it has 262154/);
});

test('bottomless nesting is refused, not a crash', () => {
  refused(`#cloud-config\na: ${'['.repeat(100_000)}`, 'invalid_request', /nested too deeply/);
});

test('any text whatever is either recognised or refused with a code', () => {
  const text = fc.oneof(
    fc.string({ unit: 'binary' }),
    fc.string().map((s) => `#cloud-config\n${s}`),
  );
  fc.assert(
    fc.property(text, (candidate) => {
      try {
        assert.equal(typeof checkUserData(candidate), 'string');
      } catch (error) {
        assert.ok(error instanceof Failure && error.code === 'invalid_request', String(error));
      }
    }),
  );
});
