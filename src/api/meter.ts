/** Counts what the API does, and tells what has been counted. */
export interface Meter {
  /** A request was answered; `route` is its pattern, as `/vms/:id`, and undefined for a path that is none. */
  request(seen: {
    readonly method: string;
    readonly route: string | undefined;
    readonly status: number;
    readonly ms: number;
  }): void;
  /** All figures, as Prometheus reads them (text format 0.0.4). */
  text(): Promise<string>;
}

/** Counts nothing. */
export const silentMeter: Meter = { request: () => undefined, text: async () => '' };

/** The text format's media type (Prometheus, exposition formats). */
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';
