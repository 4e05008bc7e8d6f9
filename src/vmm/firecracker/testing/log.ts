import type { Body } from './bodies.ts';
import { Refused } from './calls.ts';
import { osError } from './musl.ts';
import { OutputFile } from './output-file.ts';

const LEVELS = ['off', 'error', 'warn', 'info', 'debug', 'trace'];

/** Firecracker's log: to standard output until it is told a file. */
export class Log {
  #out = OutputFile.standardOutput;
  #level = 'info';
  #showLevel = false;
  readonly #id: string;
  readonly #made: boolean;

  constructor(id: string, { made }: { readonly made: boolean }) {
    this.#id = id;
    this.#made = made;
  }

  /** Throws Refused when the file cannot be opened. */
  configure({ log_path: path, level, show_level: showLevel }: Partial<Body<'logger'>>): void {
    if (path !== null && path !== undefined) {
      try {
        this.#out = OutputFile.open(path, { made: this.#made });
      } catch (error) {
        throw new Refused(`Logger error: Failed to open target file: ${osError(error)}`);
      }
    }
    this.#level = level?.toLowerCase().replace('warning', 'warn') ?? this.#level;
    this.#showLevel = showLevel ?? this.#showLevel;
  }

  info(text: string): void {
    this.#say('info', text);
  }

  warn(text: string): void {
    this.#say('warn', text);
  }

  error(text: string): void {
    this.#say('error', text);
  }

  #say(level: string, text: string): void {
    if (LEVELS.indexOf(level) > LEVELS.indexOf(this.#level)) return;
    const time = new Date().toISOString().replace('Z', '000000');
    const shown = this.#showLevel ? `:${level.toUpperCase()}` : '';
    this.#out.write(`${time} [${this.#id}:main${shown}] ${text}\n`);
  }
}
