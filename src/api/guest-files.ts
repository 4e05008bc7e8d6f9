import { Readable } from 'node:stream';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { errorFields } from '../base/logger.ts';
import { FILE_HEADERS, ReadFileQuery, WriteFileQuery } from '../contract/guest-file.ts';
import { FileFacts } from '../contract/saved-file.ts';
import { VmParams } from '../contract/vm.ts';
import { Failure } from '../model/failure.ts';
import { checkedPath } from '../model/guest-path.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, WRITE } from './auth.ts';
import { INSIDE_ERRORS } from './exec.ts';
import type { Streams } from './lifecycle.ts';
import { presentFacts } from './present-files.ts';
import { BYTES, cutOffLater, whileItFlows } from './upload.ts';

const tags = ['Inside a VM'];
const URL_PATH = '/vms/:id/files';

/** Files of running guests, out and in. */
export async function guestFileRoutes(
  app: App,
  { hatch, log, streams, clock }: Pick<ApiDeps, 'hatch' | 'log' | 'clock'> & { readonly streams: Streams },
): Promise<void> {
  app.get(
    URL_PATH,
    {
      config: { access: WRITE, errors: INSIDE_ERRORS, bytes: 'The file as it is.' },
      schema: {
        operationId: 'readVmFile',
        tags,
        summary: 'Copy a file out of a guest',
        description:
          'As the guest’s agent reads it, which is root: what it has at this moment, without what is added while it is on its way. One that ' +
          'becomes shorter meanwhile breaks off. A file whose size is not known before, as those of /proc, comes to its end without a ' +
          'Content-Length; holes come as zeros. The headers `Hatch-File-Mode` (octal), `Hatch-File-Uid`, `Hatch-File-Gid` and ' +
          '`Last-Modified` say what it is. It wakes nothing unless told to, and keeps the VM awake while it is on its way.',
        params: VmParams,
        querystring: ReadFileQuery,
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      const { path, wake } = request.query;
      const signal = streams.begin(reply);
      const { facts, sizeBytes, content } = await hatch.vms.readFile(
        callerOf(request),
        id,
        checkedPath(path),
        signal,
        wake === true ? { by: 'file', from: request.ip } : undefined,
      );
      reply.headers({
        'content-type': BYTES,
        ...(sizeBytes === null ? {} : { 'content-length': sizeBytes }),
        [FILE_HEADERS.mode]: presentFacts(facts).mode,
        [FILE_HEADERS.uid]: facts.uid,
        [FILE_HEADERS.gid]: facts.gid,
        'last-modified': new Date(facts.modifiedAt).toUTCString(),
        // A guest wrote it: no browser is to show it as a page of this server.
        'content-disposition': 'attachment',
      });
      content.once('error', (error) => {
        // The answer has begun: it is cut off, for the caller to notice. One who hung up is no trouble.
        if (reply.raw.destroyed) return;
        log.warn({ request_id: request.id, vm: id, ...errorFields(error) }, 'a file of a guest broke off');
      });
      if (request.method !== 'HEAD') return reply.send(content);
      content.destroy();
      return reply.send(Readable.from([]));
    },
  );

  // In a scope of its own: everywhere else a body is JSON.
  await app.register(async (plain) => {
    const scope = plain.withTypeProvider<TypeBoxTypeProvider>();
    scope.removeAllContentTypeParsers();
    // Whatever a file holds is its bytes, and curl -T says nothing of them. A form is no file: its bytes are wrapped in its own.
    scope.addContentTypeParser(/^multipart\//, (_request, _body, done) => done(aForm()));
    scope.addContentTypeParser('*', (_request, body, done) => done(null, body));
    scope.put(
      URL_PATH,
      {
        bodyLimit: Number.MAX_SAFE_INTEGER,
        config: {
          access: WRITE,
          errors: INSIDE_ERRORS,
          upload: 'The bytes of the file, whatever they are.',
        },
        schema: {
          operationId: 'writeVmFile',
          tags,
          summary: 'Copy a file into a guest',
          description:
            'The body is the file, of any length. It is written beside the one it takes the place of, and does so when it is whole and on ' +
            'the guest’s disk: whoever reads it sees the old one or the new one. A caller who hangs up before leaves all as it was. ' +
            'It wakes nothing unless told to, and keeps the VM awake while it is on its way.',
          params: VmParams,
          querystring: WriteFileQuery,
          response: { 200: FileFacts },
        },
      },
      async (request, reply) => {
        const { path, wake, mode, owner = null, group = null, parents = false } = request.query;
        const signal = streams.begin(reply);
        reply.raw.once('finish', () => cutOffLater(request.raw, clock));
        const { body } = request;
        const facts = await hatch.vms.writeFile(
          callerOf(request),
          request.params.id,
          {
            path: checkedPath(path),
            mode: mode === undefined ? null : Number.parseInt(mode, 8),
            owner,
            group,
            parents,
          },
          body instanceof Readable ? whileItFlows(body, clock) : Readable.from([]),
          signal,
          wake === true ? { by: 'file', from: request.ip } : undefined,
        );
        return presentFacts(facts);
      },
    );
  });
}

function aForm(): Failure {
  return new Failure(
    'unsupported_media_type',
    'A file is taken as it is, not in a form: send its bytes as the body (curl -T FILE).',
  );
}
