import { randomBytes } from 'node:crypto';
import type { Clock } from '../base/clock.ts';
import { AgentGone, type ExecResult, type GuestAgent } from './agent.ts';
import { HELPER_PIPE, reportFile, takenFile } from './identity-helper.ts';

/** What the helper of our image can be asked to do. */
export type HelperKind = 'identity' | 'refresh' | 'join' | 'clock';

export interface HelperRequest {
  readonly kind: HelperKind;
  /** As the script of the same purpose has it on stdin. */
  readonly said: string | null;
  readonly timeoutMs: number;
}

export interface HelperDeps {
  readonly agent: GuestAgent;
  readonly clock: Clock;
}

/** Its report is looked for after this at first, each time so much later, at most so much later. */
const LOOK = { firstMs: 5, times: 2, mostMs: 40 } as const;
/** What starts no program is done by then, even where processors are emulated and very busy. */
const TAKEN_MS = 10_000;
/** A channel that broke is connected to anew, this many times in a row. */
const MOST_GONE = 3;

/**
 * Has the helper that our image has running (identity-helper.ts) do something, without starting a process. Gives undefined when the
 * guest has none. `ended` gives what the script would have given; undefined when the helper ended before it was done: it is to be done
 * another way then. Rejects, as `ended` does, with AgentGone or the signal's reason; `patience` ends the waiting for the end.
 */
export async function askHelper(
  deps: HelperDeps,
  { kind, said, timeoutMs }: HelperRequest,
  { signal, patience }: { readonly signal: AbortSignal; readonly patience: AbortSignal },
): Promise<{ readonly ended: Promise<ExecResult | undefined> } | undefined> {
  const id = randomBytes(16).toString('hex');
  const request = `\nrequest ${id} ${kind}\n${said ?? ''}end ${id}\n`;
  if (!(await deps.agent.write(HELPER_PIPE, request, signal))) return undefined;
  return { ended: endOf(deps, id, timeoutMs, patience) };
}

async function endOf(
  { agent, clock }: HelperDeps,
  id: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<ExecResult | undefined> {
  const from = clock.steady();
  let gone = 0;
  let takenBy = from + TAKEN_MS;
  for (let waitMs: number = LOOK.firstMs; ; waitMs = Math.min(waitMs * LOOK.times, LOOK.mostMs)) {
    await clock.sleep(waitMs, signal);
    try {
      const report = wholeReport(await agent.read(reportFile(id), signal));
      if (report) return report;
      const now = clock.steady();
      if (now - from > timeoutMs) return { ...NOTHING, exitCode: null, timedOut: true };
      if (now > takenBy) {
        // Started anew it knows of nothing. A report that came in between is seen first.
        if ((await agent.read(takenFile(id), signal)) === undefined) {
          const last = wholeReport(await agent.read(reportFile(id), signal));
          if (last) return last;
          await agent.write(HELPER_PIPE, `\nwithdraw ${id}\n`, signal);
          return undefined;
        }
        takenBy = now + TAKEN_MS;
      }
      gone = 0;
    } catch (error) {
      if (!(error instanceof AgentGone) || ++gone > MOST_GONE) throw error;
    }
  }
}

const NOTHING: ExecResult = { exitCode: 0, stdout: '', stderr: '', truncated: false, timedOut: false };

/** The first line is the exit code, as a program's; then what it says, or why it failed, and `end`, without which it is not whole yet. */
function wholeReport(text: string | undefined): ExecResult | undefined {
  const [, code, said = ''] = /^(\d+)\n(?:([^]*)\n)?end\n$/.exec(text ?? '') ?? [];
  if (code === undefined) return undefined;
  const exitCode = Number(code);
  return { ...NOTHING, exitCode, [exitCode === 0 ? 'stdout' : 'stderr']: said };
}
