/** What is mounted where (proc(5), /proc/PID/mountinfo). */

export interface Mount {
  readonly point: string;
  /** Of this mount, as mount(8) takes them: `rw`, `nodev`... */
  readonly options: readonly string[];
  /** `ext4`, `cgroup2`... */
  readonly type: string;
}

/** Reads a mountinfo file's text. */
export function parseMounts(mountinfo: string): readonly Mount[] {
  const mounts: Mount[] = [];
  for (const line of mountinfo.split('\n')) {
    // What comes before the lone dash has no fixed number of fields.
    const [before = '', after = ''] = line.split(' - ');
    const [, , , , point, options] = before.split(' ');
    const [type] = after.split(' ');
    if (point === undefined || options === undefined || type === undefined) continue;
    mounts.push({ point: unescape(point), options: options.split(','), type });
  }
  return mounts;
}

/** The mount an absolute path without links lies in: of those above it the nearest, of several at one place the last. */
export function mountOf(path: string, mounts: readonly Mount[]): Mount | undefined {
  let found: Mount | undefined;
  for (const mount of mounts) {
    const within = mount.point === '/' || path === mount.point || path.startsWith(`${mount.point}/`);
    if (within && mount.point.length >= (found?.point.length ?? 0)) found = mount;
  }
  return found;
}

/** Spaces and the like are written as a backslash and three octal digits. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)));
}
