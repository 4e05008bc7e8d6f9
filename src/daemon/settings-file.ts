import { readFileSync } from 'node:fs';
import { parseEnv } from 'node:util';
import { isErrno } from '../base/errno.ts';
import { BadConfig } from './config.ts';

/**
 * Settings from a file, `NAME=value` a line, as systemd's environment files have them; `#` begins a comment, a value may
 * stand in quotes. Only hatchd reads them: they are in no process's environment. Throws BadConfig when it cannot be read, or where a
 * line is none.
 */
export function readSettingsFile(path: string): Readonly<Record<string, string>> {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    const why = isErrno(error, 'ENOENT')
      ? 'is not there'
      : isErrno(error, 'EACCES')
        ? 'may not be read by this user'
        : 'cannot be read';
    throw new BadConfig([`The file ${path} of --settings ${why}.`]);
  }
  // What is no line is passed over by the parser; a setting that is lost in silence is not what anybody wants.
  const lines = text.replaceAll(/=\s*(["'`])[^]*?\1/g, '=').split('\n');
  const wrong = lines.find((line) => !/^\s*(#.*|(export\s+)?[A-Za-z_]\w*\s*=.*)?$/.test(line));
  if (wrong !== undefined)
    throw new BadConfig([
      `The file ${path} of --settings has a line that is no NAME=value and no comment: it begins with "${wrong.trim().slice(0, 20)}".`,
    ]);
  return parseEnv(text) as Record<string, string>;
}
