import { buildImage } from '../guest/image/build-image.ts';
import { run } from '../host/run.ts';
import type { Values } from './config.ts';
import { dataFolder, makeDataFolder } from './data-folder.ts';
import { openLogger } from './logger.ts';

/**
 * Builds the default image into the data folder, with progress on standard error. A running hatchd takes it up at its next
 * start. Gives the exit code; throws a Failure in a sentence.
 */
export async function imageBuildCommand(values: Values, json: boolean): Promise<number> {
  const data = dataFolder(values.HATCH_DATA_DIR);
  await makeDataFolder(data);
  const stop = new AbortController();
  const onSignal = (): void => stop.abort(new Error('interrupted'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  const say = json ? jsonProgress() : process.stderr.isTTY ? liveProgress() : plainProgress();
  const from = Date.now();
  try {
    const image = await buildImage(
      { run, log: openLogger('warn', process.stderr.isTTY), progress: say.progress },
      { outputDir: data.images, signal: stop.signal },
    );
    say.end();
    const result = { hash: image.hash, dir: image.dir, seconds: Math.round((Date.now() - from) / 100) / 10 };
    process.stdout.write(
      json
        ? `${JSON.stringify(result)}\n`
        : `Image ${image.hash} is ready in ${image.dir} (${result.seconds} s).\n`,
    );
    return 0;
  } finally {
    say.end();
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
  }
}

interface Progress {
  readonly phase: string;
  readonly done: number;
  readonly total: number;
  readonly detail?: string;
}
interface Say {
  readonly progress: (at: Progress) => void;
  readonly end: () => void;
}

function jsonProgress(): Say {
  return { progress: (at) => void process.stderr.write(`${JSON.stringify(at)}\n`), end: () => undefined };
}

/** A line per phase, for logs. */
function plainProgress(): Say {
  let last = '';
  return {
    progress: ({ phase }) => {
      if (phase !== last) process.stderr.write(`image: ${phase}\n`);
      last = phase;
    },
    end: () => undefined,
  };
}

/** One line that is written over, with a bar. */
function liveProgress(): Say {
  let open = false;
  return {
    progress: ({ phase, done, total, detail }) => {
      const width = 24;
      const filled = total > 0 ? Math.min(width, Math.round((done / total) * width)) : 0;
      const bar = '#'.repeat(filled) + '-'.repeat(width - filled);
      const text = `[${bar}] ${phase}${detail ? `: ${detail}` : ''}`.slice(
        0,
        (process.stderr.columns || 80) - 1,
      );
      process.stderr.write(`\r\x1b[K${text}`);
      open = true;
    },
    end: () => {
      if (open) process.stderr.write('\r\x1b[K');
      open = false;
    },
  };
}
