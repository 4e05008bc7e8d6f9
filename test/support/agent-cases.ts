import assert from 'node:assert/strict';
import { after, before, describe, test, type TestContext } from 'node:test';
import { raceAbort } from '../../src/base/deadline.ts';
import type { ExecResult, GuestAgent } from '../../src/guest/agent.ts';
import { agentSuite } from '../../src/guest/agent-suite.ts';
import { signalProcess } from '../../src/host/process.ts';
import { agentOf, type BootedGuest, type RunningGuest } from './booted-guest.ts';

/** What the guest of `agentCases` is told at its boot. A list of users without `default`: the kind of user-data that leaves the image's own user out. */
export const AGENT_SEED = {
  hostname: 'booted',
  userData:
    '#cloud-config\nusers:\n  - name: alice\nwrite_files:\n  - {path: /marker, content: "é"}\n' +
    'runcmd:\n  - echo once >> /var/lib/ran\n# canary-in-user-data, and no end of line',
  sshAuthorizedKeys: [
    'ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEXAMPLEEXAMPLE me@here',
    `ssh-rsa AAAAB3NzaC1yc2EAOdd it's "quoted" $(touch /pwned)`,
  ],
} as const;

/** The agent of a real guest, a copy of one that was booted with AGENT_SEED. */
export function agentCases(booted: BootedGuest): void {
  describe('the agent of a real guest', () => {
    let guest: RunningGuest;
    before(async () => {
      guest = await booted.fork();
      guest.agent.close();
    });
    after(() => guest.machine.kill());
    const open = (): GuestAgent => agentOf(guest.machine);
    const exec = (agent: GuestAgent, command: string, timeoutMs = 60_000): Promise<ExecResult> =>
      agent.exec(
        { command, cwd: null, env: {}, stdin: null, timeoutMs },
        AbortSignal.timeout(timeoutMs + 30_000),
      );

    test('it was waited for from the first moment and answered when the guest was up', (t: TestContext) => {
      assert.equal(booted.answered.by, 'agent');
      t.diagnostic(`agent answered after ${booted.answered.seconds.toFixed(1)} s`);
    });

    test('the seed did what it is for, under a user-data that leaves out the default user', async () => {
      const agent = open();
      const status = await exec(agent, 'cloud-init status --wait --long', 240_000);
      assert.match(status.stdout, /^status: done$/m, status.stdout + status.stderr);
      const user = booted.defaultUser;
      const seen = await exec(
        agent,
        `cat ~${user}/.ssh/authorized_keys; ls /pwned; stat -c '%a %U' ~${user}/.ssh/authorized_keys`,
      );
      assert.equal(seen.stdout, `${booted.authorizedKeys.join('\n')}\n600 ${user}\n`);
      assert.equal((await exec(agent, `su ${user} -c 'sudo -n id -u'`)).stdout, '0\n');
      assert.equal(
        (await exec(agent, 'cat /var/lib/cloud/instance/user-data.txt')).stdout,
        AGENT_SEED.userData,
      );
      assert.equal((await exec(agent, 'cat /marker; hostname; id -un alice')).stdout, 'ébooted\nalice\n');
      agent.close();
    });

    agentSuite('in the guest', { open, mostMs: 60_000 });

    test('a guest without perl runs a command by its shell, in the same manners', async () => {
      const there = open();
      const perl = (await exec(there, 'command -v perl')).stdout.trim();
      await exec(there, `mv ${perl} ${perl}.away`);
      there.close();
      const agent = open();
      const result = await exec(agent, 'echo said; echo so >&2; exit 3');
      assert.deepEqual([result.exitCode, result.stdout, result.stderr], [3, 'said\n', 'so\n']);
      const late = await exec(agent, 'echo begun; sleep 600 & sleep 600', 3000);
      assert.deepEqual([late.exitCode, late.stdout, late.timedOut], [null, 'begun\n', true]);
      assert.equal((await exec(agent, 'pgrep -fx "sleep 600"')).exitCode, 1, 'all it started has ended');
      assert.equal((await exec(agent, `mv ${perl}.away ${perl}`)).exitCode, 0);
      agent.close();
    });

    test('a guest that stood still answers late, and its late answer is not taken for another', async () => {
      const agent = open();
      await agent.ping(AbortSignal.timeout(30_000));
      await signalProcess(guest.machine.process, 'SIGSTOP');
      await assert.rejects(agent.info(AbortSignal.timeout(1500)), { name: 'TimeoutError' });
      await signalProcess(guest.machine.process, 'SIGCONT');
      assert.equal((await exec(agent, 'echo here')).stdout, 'here\n');
      agent.close();
    });

    test('a channel that was cut is opened again, and an agent has no owner left over', async () => {
      for (let i = 0; i < 3; i++) {
        const agent = open();
        assert.equal((await exec(agent, `echo ${i}`)).stdout, `${i}\n`);
        agent.close();
      }
    });

    test('the guest gets the clock of the host', async () => {
      const agent = open();
      await exec(agent, "date -s '2001-02-03 04:05:06'");
      await agent.setTime(AbortSignal.timeout(30_000));
      const { stdout } = await exec(agent, 'date +%s');
      assert(Math.abs(Number(stdout) - Date.now() / 1000) < 10, stdout);
      agent.close();
    });

    test('a guest that is asked to goes down', async () => {
      const agent = open();
      await agent.shutdown('powerdown', AbortSignal.timeout(30_000));
      agent.close();
      await raceAbort(guest.machine.exited, AbortSignal.timeout(120_000));
    });
  });
}
