/** Whether an error is the system's, with one of these codes (`ENOENT`, `ENOSPC`...). */
export function isErrno(error: unknown, ...codes: readonly string[]): boolean {
  return (
    error instanceof Error && 'code' in error && typeof error.code === 'string' && codes.includes(error.code)
  );
}
