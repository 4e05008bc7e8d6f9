import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CommandFailed, type Run } from '../../host/run.ts';
import { VmmError } from '../driver.ts';
import { askVersion, featuresOf, sameFormat } from './versions.ts';

/** A program that says this of itself. */
const saying =
  (version: string, format = 'v10.0.0'): Run =>
  async (argv) => ({ stdout: argv[1] === '--version' ? version : format, stderr: '', exitCode: 0 });
const failing =
  (fields: { missing?: boolean; cause?: unknown; exitCode?: number }): Run =>
  async (argv) =>
    Promise.reject(new CommandFailed(argv, 'could not be started', fields));
const errno = (code: string): Error => Object.assign(new Error(code), { code });

async function refused(run: Run, kind: VmmError['kind'], sentence: RegExp): Promise<void> {
  await assert.rejects(askVersion({ run }, '/opt/firecracker'), (error) => {
    assert(error instanceof VmmError);
    assert.equal(error.kind, kind);
    assert.match(error.message, sentence);
    return true;
  });
}

test('a Firecracker says its version and the format of its snapshots', async () => {
  assert.deepEqual(
    await askVersion({ run: saying('Firecracker v1.16.1\n\nmore', 'v10.0.0\n') }, 'firecracker'),
    {
      text: '1.16.1',
      major: 1,
      minor: 16,
      snapshotFormat: '10.0.0',
    },
  );
});

test('what cannot be used is refused in a sentence that says what to do', async () => {
  await refused(saying('Firecracker v1.12.0'), 'incompatible', /1\.12\.0 is too old; install 1\.13 or newer/);
  await refused(saying('Firecracker v0.25.2'), 'incompatible', /too old/);
  await refused(saying('Firecracker v2.0.0'), 'incompatible', /not known yet/);
  await refused(saying('something else'), 'failed', /is no Firecracker/);
  await refused(saying('Firecracker v1.16.1', ''), 'failed', /format of its snapshots/);
  await refused(failing({ missing: true }), 'missing', /not installed; .*HATCH_FIRECRACKER_BIN/);
  await refused(failing({ cause: errno('EACCES') }), 'missing', /chmod \+x/);
  await refused(failing({ exitCode: 1 }), 'failed', /does not say its version/);
});

test('what a version has follows its changelog', () => {
  assert.deepEqual(featuresOf({ minor: 13 }), {
    serialLimit: false,
    vsockOverride: false,
    clockRealtime: false,
    resumeKeepsVsock: true,
  });
  assert.deepEqual(featuresOf({ minor: 16 }), {
    serialLimit: true,
    vsockOverride: true,
    clockRealtime: true,
    resumeKeepsVsock: false,
  });
  assert.equal(featuresOf({ minor: 17 }).resumeKeepsVsock, true);
});

test('snapshots load where the first number of the format is the same', () => {
  assert.equal(sameFormat('firecracker-10.0.0', 'firecracker-10.1.0'), true);
  assert.equal(sameFormat('firecracker-9.0.0', 'firecracker-10.0.0'), false);
});
