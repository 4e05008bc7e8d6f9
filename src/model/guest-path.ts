import { invalid } from './failure.ts';

/** PATH_MAX of Linux, without its closing NUL (path_resolution(7)). */
const MOST_PATH_BYTES = 4095;

/** The path of a file in a guest. Throws Failure `invalid_request` for one that can name none. */
export function checkedPath(path: string): string {
  if (!path.startsWith('/') || path.includes('\0'))
    throw invalid('path', '"path" must be an absolute path, without a NUL character.');
  if (!path.isWellFormed()) throw invalid('path', '"path" must be text that can be written as UTF-8.');
  if (Buffer.byteLength(path) > MOST_PATH_BYTES)
    throw invalid('path', `"path" must have at most ${MOST_PATH_BYTES} bytes.`, { maximum: MOST_PATH_BYTES });
  if (path.endsWith('/'))
    throw invalid('path', '"path" must name a file: it ends with "/", as a folder does.', { kind: 'folder' });
  return path;
}
