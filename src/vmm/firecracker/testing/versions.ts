/** What a release of Firecracker can do, as far as the API shows it. */
export interface Version {
  /** As `GET /version` says it: `1.16.1`. */
  readonly text: string;
  readonly snapshotFormat: string;
  /** PUT /serial, /pmem, /hotplug/memory; log and metrics files are made when they are not there. */
  readonly has14: boolean;
  /** network_overrides. */
  readonly has12: boolean;
  /** DELETE of devices, hotplug, mtu, vsock_override, clock_realtime, rate limits of serial and pmem. */
  readonly has16: boolean;
  /** A resume without a snapshot before it loses the way from the host into the guest (firecracker#6100). */
  readonly losesVsock: boolean;
}

/** Snapshot formats by minor release (facts, section 2). What is older has one that loads nowhere else. */
const FORMATS: Readonly<Record<number, string>> = {
  10: '3.0.0',
  11: '5.0.0',
  12: '6.0.0',
  13: '8.0.0',
  14: '8.0.0',
  15: '9.0.0',
  16: '10.0.0',
  17: '11.0.0',
};

/** Reads `v1.16.1`, `1.16.1` or `1.17.0-dev`. Throws when it is no version. */
export function versionOf(text: string): Version {
  const found = /^v?(\d+)\.(\d+)\.(\d+)(-[\w.]+)?$/.exec(text);
  if (!found) throw new Error(`FC_DOUBLE_VERSION: ${text} is no version`);
  const [major, minor] = [Number(found[1]), Number(found[2])];
  const since = (wanted: number): boolean => major > 1 || minor >= wanted;
  return {
    text: text.replace(/^v/, ''),
    snapshotFormat: FORMATS[minor] ?? (since(17) ? '11.0.0' : '2.0.0'),
    has12: since(12),
    has14: since(14),
    has16: since(16),
    losesVsock: major === 1 && minor === 16,
  };
}
