import type { JailWish } from '../../src/vmm/firecracker/cages.ts';

/** A real Firecracker to try, as the environment names it. */
export interface RealFirecracker {
  readonly bin: string;
  readonly jail: JailWish | undefined;
  /** false: no code runs in its guests here, and what needs that is left out. */
  readonly guestsRun: boolean;
}

export interface RealRun {
  /** How to try it: without a jail, and in one where a jailer is named too. Empty where none is named. */
  readonly tries: readonly RealFirecracker[];
  /** What is not tried and why, for the report of the run. */
  readonly notTried: readonly string[];
}

const BIN = 'HATCH_FIRECRACKER_BIN';
const JAILER = 'HATCH_JAILER_BIN';
const HOW = 'HATCH_TEST_FIRECRACKER';

/** What to set where guests cannot run. */
export const ONLY_THE_API = `set ${HOW}=api to leave out, by name, what needs code to run in a guest`;

/**
 * What of the real Firecracker and its jailer is to be tried, by the variables hatchd reads too, and HATCH_TEST_FIRECRACKER: `api`
 * where KVM starts machines whose guests do not run. Throws for another value, and for `api` of nothing: a typo must not pass.
 */
export function realRun(env: Readonly<Record<string, string | undefined>>): RealRun {
  const [bin, jailerBin, how] = [BIN, JAILER, HOW].map((name) => env[name] ?? '');
  if (how !== '' && how !== 'api') throw new Error(`${HOW} is api or not set, and not ${String(how)}`);
  if (bin === undefined || bin === '') {
    if (how === 'api') throw new Error(`${HOW}=api needs a Firecracker: set ${BIN} to its binary`);
    return {
      tries: [],
      notTried: [
        `the real Firecracker was not tried, because none was named: set ${BIN} to its binary on a host with KVM`,
      ],
    };
  }
  const plain = { bin, jail: undefined, guestsRun: how !== 'api' };
  if (jailerBin === undefined || jailerBin === '')
    return {
      tries: [plain],
      notTried: [
        `the real jailer was not tried, because none was named: set ${JAILER} to its binary besides ${BIN}`,
      ],
    };
  const jail = { mode: 'on', jailerBin, uids: { min: 61_000, max: 64_999 } } as const;
  return { tries: [plain, { ...plain, jail }], notTried: [] };
}
