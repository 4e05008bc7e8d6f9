/** Resolves with what all gave, when all are done. Rejects with the error of the first in the list that failed, and only when none of them goes on. */
export async function allDone<const T extends readonly Promise<unknown>[]>(
  works: T,
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(works);
  return Promise.all(works);
}
