/** What the scripts that run before anything is installed say, and how they run commands. Plain JavaScript for Node 18. */
import { spawn } from 'node:child_process';

/** A failure whose sentence is all that a person needs; it is shown without a stack. */
export class Stop extends Error {}

/** `1.2 s`, `2 min 5 s`. */
export function duration(ms) {
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round((ms % 60_000) / 1000)} s`;
}

/**
 * Runs one step and says what came of it: `✓ what (2.1 s)`. On a terminal its name and the seconds stand there meanwhile.
 * `work` is given a function that shows what it is at, and gives back words to put after its name, or nothing.
 */
export async function step(what, work) {
  const started = Date.now();
  const live = process.stdout.isTTY;
  let now = '';
  const draw = () => {
    const line = `… ${what}${now ? `: ${now}` : ''} (${duration(Date.now() - started)})`;
    if (live) process.stdout.write(`\r\x1b[K${line.slice(0, (process.stdout.columns || 80) - 1)}`);
  };
  const timer = live ? setInterval(draw, 250) : undefined;
  let said = Date.now();
  const progress = (text) => {
    now = text;
    // Without a terminal: a sign of life now and then, not every line.
    if (!live && Date.now() - said > 5000) {
      said = Date.now();
      console.log(`  … ${what}: ${text} (${duration(said - started)})`);
    }
  };
  const clear = () => {
    clearInterval(timer);
    if (live) process.stdout.write('\r\x1b[K');
  };
  try {
    draw();
    const result = await work(progress);
    clear();
    console.log(`✓ ${what}${result ? `: ${result}` : ''} (${duration(Date.now() - started)})`);
  } catch (error) {
    clear();
    console.log(`✗ ${what} (${duration(Date.now() - started)})`);
    throw error;
  }
}

/**
 * Runs a command to its end and gives back its output. A failure is a Stop with the last lines of what it said.
 * `onLine` is called for each line; `env` is added to ours.
 */
export function command(program, args, { onLine, env, cwd, okCodes = [0] } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    let rest = '';
    const take = (chunk) => {
      output = (output + chunk).slice(-1_000_000);
      const lines = (rest + chunk).split(/\r?\n|\r/);
      rest = lines.pop();
      for (const line of lines) if (onLine && line.trim() !== '') onLine(line.trim());
    };
    child.stdout.setEncoding('utf8').on('data', take);
    child.stderr.setEncoding('utf8').on('data', take);
    child.on('error', (error) =>
      reject(
        new Stop(
          error.code === 'ENOENT'
            ? `${program} is not installed.`
            : `${program} could not be started: ${error.message}`,
        ),
      ),
    );
    child.on('close', (code, signal) => {
      if (okCodes.includes(code)) return resolve({ code, output });
      const last = output.trimEnd().split('\n').slice(-15).join('\n    ');
      reject(
        new Stop(
          `"${[program, ...args].join(' ')}" ended with ${signal ?? `exit code ${code}`}:\n    ${last}`,
        ),
      );
    });
  });
}

/** Runs the main function of a script; a Stop becomes its sentence and exit code 1. */
export async function main(work) {
  try {
    process.exitCode = (await work()) ?? 0;
  } catch (error) {
    console.error(error instanceof Stop ? `\n${error.message}` : error);
    process.exitCode = 1;
  }
}
