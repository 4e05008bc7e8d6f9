import type { HttpRequest } from './routes.ts';

/**
 * What goes wrong at which call. `FC_DOUBLE_FAULTS` is a list, parted by semicolons, of
 *
 *     METHOD PATH[#N] [after] WHAT [VALUE]        or        * [after] WHAT [VALUE]
 *
 * PATH means all that lies below it too (`PUT /drives` is every drive); with #N only the Nth such call is meant. The first line that
 * fits a call is taken. Without `after` the call has had no effect when it goes wrong, with it it has had all of it.
 *
 *     delay MS     it is done, or with `after` answered, that much later
 *     hang         it is never answered, nor is any call after it (there is one API thread)
 *     reset        the connection ends in the middle of the answer; without `after` before there is any
 *     truncated    the answer's body ends early, and with it the connection: always has its effect
 *     rubbish      something that is no HTTP comes back
 *     refuse TEXT  400 with this fault_message, or a made-up one
 *     busy         503 `Too many open connections`, and the connection is closed
 *     freeze       the process is stopped (SIGSTOP): it is there, and nothing of it moves
 *     exit N       the process ends with this code
 *     kill         the process is killed by SIGKILL
 */
export interface Fault {
  readonly after: boolean;
  readonly what: (typeof WHATS)[number];
  readonly value: string;
}

const WHATS = [
  ...([
    'delay',
    'hang',
    'reset',
    'truncated',
    'rubbish',
    'refuse',
    'busy',
    'freeze',
    'exit',
    'kill',
  ] as const),
] as const;

interface Line extends Fault {
  readonly method: string;
  readonly path: string;
  readonly nth: number | null;
  met: number;
}

/** Reads the list; what it gives says what goes wrong at a call, and counts them. Throws for a line that means nothing. */
export function readFaults(text: string): (request: HttpRequest) => Fault | undefined {
  const lines = text
    .split(';')
    .map((line) => line.trim())
    .filter((line) => line !== '')
    .map(readLine);
  return ({ method, path }) => {
    let found: Fault | undefined;
    for (const line of lines) {
      if (line.method !== '*' && line.method !== method) continue;
      if (path !== line.path && !path.startsWith(`${line.path}/`) && line.path !== '') continue;
      line.met++;
      if (line.nth === null || line.nth === line.met) found ??= line;
    }
    return found;
  };
}

function readLine(text: string): Line {
  const found = /^(?:\*|(GET|PUT|PATCH|DELETE) (\/[^ #]*)(?:#(\d+))?) (after )?([a-z]+)(?: (.+))?$/.exec(
    text,
  );
  const what = WHATS.find((one) => one === found?.[5]);
  if (!found || !what) throw new Error(`FC_DOUBLE_FAULTS: "${text}" means nothing`);
  const value = found[6] ?? '';
  if ((what === 'delay' || what === 'exit') && !/^\d+$/.test(value))
    throw new Error(`FC_DOUBLE_FAULTS: "${text}" needs a number`);
  return {
    method: found[1] ?? '*',
    path: found[2] === '/' || found[2] === undefined ? '' : found[2],
    nth: found[3] === undefined ? null : Number(found[3]),
    after: found[4] !== undefined,
    what,
    value,
    met: 0,
  };
}
