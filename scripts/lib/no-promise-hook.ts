import { createHook } from 'node:async_hooks';

/**
 * Preloaded by unit tests. node:test follows every promise that is made, to know which test an error belongs to that nobody caught: a third
 * of the processor time of all tests goes there. With this it follows everything but promises, as `createHook`'s `trackPromises: false`
 * would. An error nobody caught fails its file as before, and is printed whole here, since it may not be told by which test it was made.
 *
 * The hook of node:test is its own, and this is the one way to it. Where Node names things otherwise tests take longer, and no more.
 */
const some = createHook({});
const kind = Reflect.getPrototypeOf(some);
const noPromises = Object.getOwnPropertySymbols(some).find(
  ({ description }) => description === 'kNoPromiseHook',
);

const print = (error: unknown): void => console.error('nobody caught:', error);

if (kind && noPromises) {
  const enable: unknown = Reflect.get(kind, 'enable');
  const disable: unknown = Reflect.get(kind, 'disable');
  if (typeof enable === 'function' && typeof disable === 'function') {
    Reflect.set(kind, 'enable', function (this: object): unknown {
      Reflect.set(this, noPromises, true);
      // node:test listens to both from now on, until it lets go of its hook: these change nothing of what comes of it.
      process.on('uncaughtExceptionMonitor', print);
      process.on('unhandledRejection', print);
      return Reflect.apply(enable, this, []) as unknown;
    });
    Reflect.set(kind, 'disable', function (this: object): unknown {
      process.off('uncaughtExceptionMonitor', print);
      process.off('unhandledRejection', print);
      return Reflect.apply(disable, this, []) as unknown;
    });
  }
}
