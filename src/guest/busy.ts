import type { GuestAgent } from './agent.ts';

/**
 * A guest says that it is busy with a file: whoever works in it writes for how many seconds, or touches it again and again. What
 * `echo 600 > /run/hatch/busy` says holds for 600 s from then on, and a file without a number for ten minutes from when it was last touched.
 */
export const BUSY_FILE = '/run/hatch/busy';

/** What a file without a number says, in seconds. */
const TOUCHED_SECONDS = 600;
/** The most that is believed at once, in seconds. */
const MOST_SECONDS = 3600;
/** How long a guest has for its answer, in milliseconds. */
const ANSWER_MS = 5000;

/** Says what is in the file and how many seconds ago it was written, by the guest's own clock; a pipe or a large file is not read to its end. */
const LOOK = `f=${BUSY_FILE}; [ -f "$f" ] || exit 0; head -c 16 "$f" | head -n 1; echo; echo "age $(( $(date +%s) - $(stat -c %Y "$f") ))"`;

/** For how many milliseconds more a guest says that it is busy; 0: it does not. Rejects as `GuestAgent.exec` does. */
export async function askIfBusy(agent: Pick<GuestAgent, 'exec'>, signal: AbortSignal): Promise<number> {
  const { stdout } = await agent.exec(
    {
      command: ['/bin/sh', '-c', LOOK, 'hatch-busy'],
      cwd: null,
      env: {},
      stdin: null,
      timeoutMs: ANSWER_MS,
    },
    signal,
  );
  const age = /^age (-?\d+)$/m.exec(stdout)?.[1];
  if (age === undefined) return 0;
  const [said = ''] = stdout.split('\n', 1);
  const seconds = /^\s*\d{1,9}\s*$/.test(said) ? Number(said) : TOUCHED_SECONDS;
  // A file from the future was written before the clock was set back.
  return Math.max(0, Math.min(seconds, MOST_SECONDS) - Math.max(0, Number(age))) * 1000;
}
