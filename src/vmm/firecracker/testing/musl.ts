/**
 * System errors in Firecracker's words: its release is built against musl libc, whose texts differ from glibc's and from
 * Node's, and Rust adds the number.
 */
const TEXTS: Readonly<Record<string, readonly [number, string]>> = {
  EPERM: [1, 'Operation not permitted'],
  ENOENT: [2, 'No such file or directory'],
  EIO: [5, 'I/O error'],
  ENXIO: [6, 'No such device or address'],
  EBADF: [9, 'Bad file descriptor'],
  ENOMEM: [12, 'Out of memory'],
  EACCES: [13, 'Permission denied'],
  EBUSY: [16, 'Resource busy'],
  EEXIST: [17, 'File exists'],
  ENODEV: [19, 'No such device'],
  ENOTDIR: [20, 'Not a directory'],
  EISDIR: [21, 'Is a directory'],
  EINVAL: [22, 'Invalid argument'],
  EMFILE: [24, 'No file descriptors available'],
  ETXTBSY: [26, 'Text file busy'],
  EFBIG: [27, 'File too large'],
  ENOSPC: [28, 'No space left on device'],
  EROFS: [30, 'Read-only file system'],
  ENAMETOOLONG: [36, 'Filename too long'],
  ELOOP: [40, 'Symbolic link loop'],
  EADDRINUSE: [98, 'Address in use'],
  ECONNREFUSED: [111, 'Connection refused'],
  EDQUOT: [122, 'Quota exceeded'],
};

/** What Firecracker says of a system error that Node threw; an error of another kind as it says itself. */
export function osError(error: unknown): string {
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    const known = TEXTS[error.code];
    if (known) return `${known[1]} (os error ${known[0]})`;
  }
  return error instanceof Error ? error.message : String(error);
}

/** The same for a bare errno. */
export function errnoText(errno: number): string {
  const known = Object.values(TEXTS).find(([number]) => number === errno);
  return known ? `${known[1]} (os error ${known[0]})` : `Unknown error ${errno} (os error ${errno})`;
}
