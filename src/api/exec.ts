import type { ErrorCode } from '../contract/errors.ts';
import { ExecQuery, ExecResult, ExecVm } from '../contract/exec.ts';
import { VmParams } from '../contract/vm.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, WRITE } from './auth.ts';

const DEFAULT_TIMEOUT_SECONDS = 60;

/** What may go wrong with what is done in a guest by its agent, which may be woken for it. */
export const INSIDE_ERRORS: readonly ErrorCode[] = [
  'wrong_state',
  'busy',
  'no_guest_agent',
  'timeout',
  'vmm_failed',
  'no_space',
  'incompatible_snapshot',
  'unavailable',
  'no_capacity',
];

/** Running a command inside a VM. */
export function execRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.post(
    '/vms/:id/exec',
    {
      config: {
        access: WRITE,
        errors: INSIDE_ERRORS,
      },
      schema: {
        operationId: 'execInVm',
        tags: ['Inside a VM'],
        summary: 'Run a command in the guest',
        description:
          'Runs it as root through the guest agent and answers at its end, or when it was killed at its timeout. What the ' +
          'command says and how it ends is no error of this call. It wakes nothing unless told to; then however many ask at ' +
          'once wake the VM once.',
        params: VmParams,
        querystring: ExecQuery,
        body: ExecVm,
        response: { 200: ExecResult },
      },
    },
    async (request) => {
      const { command, cwd, env, stdin, timeout_seconds: seconds = DEFAULT_TIMEOUT_SECONDS } = request.body;
      const result = await hatch.vms.exec(
        callerOf(request),
        request.params.id,
        {
          command,
          cwd: cwd ?? null,
          env: env ?? {},
          stdin: stdin ?? null,
          timeoutMs: seconds * 1000,
        },
        request.query.wake === true ? { by: 'exec', from: request.ip } : undefined,
      );
      return {
        exit_code: result.exitCode,
        stdout: result.stdout,
        stderr: result.stderr,
        truncated: result.truncated,
        timed_out: result.timedOut,
      };
    },
  );
}
