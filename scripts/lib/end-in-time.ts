import { isMainThread } from 'node:worker_threads';

/**
 * Preloaded by test files, as `end-in-time.ts?ms=MILLISECONDS`: ends the process then. The timeout of node:test is of each test; a file whose
 * test failed and left a server open would never end, and the whole run with it.
 */
const ms = Number(new URL(import.meta.url).searchParams.get('ms'));
if (isMainThread)
  setTimeout(() => {
    console.error(`the file did not end within ${ms / 1000} s: something in it is still open`);
    process.exit(1);
  }, ms).unref();
