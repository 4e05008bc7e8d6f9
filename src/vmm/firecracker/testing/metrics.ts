import { Refused } from './calls.ts';
import { osError } from './musl.ts';
import { OutputFile } from './output-file.ts';

const PERIOD_MS = 60_000;
const BAD_INPUT = 'Metrics error: Cannot initialize the metrics system due to bad user input: ';

/** What a line of metrics counts since the one before it. */
interface Counts {
  actions: number;
  actionFails: number;
  readBytes: Record<string, number>;
  writeBytes: Record<string, number>;
  consoleBytes: number;
  droppedBytes: number;
}

function nothing(): Counts {
  return {
    actions: 0,
    actionFails: 0,
    readBytes: {},
    writeBytes: {},
    consoleBytes: 0,
    droppedBytes: 0,
  };
}

/**
 * Firecracker's metrics: a line of JSON at every flush, each minute, and at the end, counting from the line before. Of some
 * hundred counters the few that can move here are told.
 */
export class Metrics {
  #out: OutputFile | undefined;
  #counts = nothing();
  #timer: NodeJS.Timeout | undefined;
  readonly #made: boolean;

  constructor({ made }: { readonly made: boolean }) {
    this.#made = made;
  }

  /** Throws Refused the second time, and when the file cannot be opened. */
  configure(path: string): void {
    let out: OutputFile;
    try {
      out = OutputFile.open(path, { made: this.#made });
    } catch (error) {
      throw new Refused(BAD_INPUT + osError(error));
    }
    if (this.#out) {
      out.close();
      throw new Refused(`${BAD_INPUT}Reinitialization of metrics not allowed.`);
    }
    this.#out = out;
  }

  /** Counts one thing of the guest's or the API's. */
  count(change: (counts: Counts) => void): void {
    change(this.#counts);
  }

  /** Bytes a drive moved. */
  moved(drive: string, read: number, written: number): void {
    const { readBytes, writeBytes } = this.#counts;
    readBytes[drive] = (readBytes[drive] ?? 0) + read;
    writeBytes[drive] = (writeBytes[drive] ?? 0) + written;
  }

  /** Begins to flush by the minute. While the machine is paused by the API nobody is there to do it: `frozen`. */
  start(frozen: () => boolean): void {
    this.flush();
    this.#timer ??= setInterval(() => {
      if (!frozen()) this.flush();
    }, PERIOD_MS).unref();
  }

  flush(): void {
    if (!this.#out) return;
    const counts = this.#counts;
    this.#counts = nothing();
    const blocks = Object.keys(counts.readBytes).map((drive) => [
      `block_${drive}`,
      { read_bytes: counts.readBytes[drive] ?? 0, write_bytes: counts.writeBytes[drive] ?? 0 },
    ]);
    const sum = (of: Record<string, number>): number =>
      Object.values(of).reduce((total, one) => total + one, 0);
    this.#out.write(
      `${JSON.stringify({
        utc_timestamp_ms: Date.now(),
        api_server: { process_startup_time_us: 0, process_startup_time_cpu_us: 0, sync_response_fails: 0 },
        ...Object.fromEntries(blocks),
        block: { read_bytes: sum(counts.readBytes), write_bytes: sum(counts.writeBytes) },
        put_api_requests: { actions_count: counts.actions, actions_fails: counts.actionFails },
        vcpu: { exit_io_in: 0, exit_io_out: 0, exit_mmio_read: 0, exit_mmio_write: 0, failures: 0 },
        uart: {
          write_count: counts.consoleBytes,
          rate_limiter_dropped_bytes: counts.droppedBytes,
        },
      })}\n`,
    );
  }
}
