import { pino } from 'pino';
import pretty from 'pino-pretty';
import type { Logger } from '../base/logger.ts';
import { requestId } from '../base/on-behalf.ts';

/**
 * The daemon's own log: JSON lines to standard error, readable ones where that is a terminal. Each line says for which request it was, where
 * it was for one.
 */
export function openLogger(level: 'debug' | 'info' | 'warn' | 'error', terminal: boolean): Logger {
  const options = {
    level,
    base: null,
    timestamp: isoTimes(),
    formatters: { level: (label: string) => ({ level: label }) },
    mixin: () => {
      const id = requestId();
      return id === undefined ? {} : { request_id: id };
    },
  };
  if (!terminal) {
    const out = pino.destination({ dest: 2, sync: false });
    // Lines are written while others are made, but for those one wants to read whatever comes next; the end of the process writes all.
    return wrap(pino(options, out), () => out.flushSync());
  }
  const people = pretty({
    destination: 2,
    sync: true,
    colorize: true,
    translateTime: 'HH:MM:ss.l',
    ignore: 'pid,hostname',
  });
  return wrap(pino(options, people), () => undefined);
}

/** As pino's isoTime, of which lines of the same millisecond share one: to write out a date costs as much as the rest of a line. */
function isoTimes(): () => string {
  let [of, text] = [Number.NaN, ''];
  return () => {
    const now = Date.now();
    if (now !== of) [of, text] = [now, `,"time":"${new Date(now).toISOString()}"`];
    return text;
  };
}

type PinoLogger = Pick<ReturnType<typeof pino>, 'debug' | 'info' | 'warn' | 'error'> & {
  child(fields: object): PinoLogger;
};

function wrap(log: PinoLogger, flush: () => void): Logger {
  return {
    debug: (fields, message) => log.debug(fields, message),
    info: (fields, message) => log.info(fields, message),
    warn: (fields, message) => log.warn(fields, message),
    error: (fields, message) => {
      log.error(fields, message);
      flush();
    },
    child: (fields) => wrap(log.child(fields), flush),
  };
}
