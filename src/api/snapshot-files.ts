import { Readable } from 'node:stream';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import { errorFields } from '../base/logger.ts';
import {
  ExportQuery,
  ImportedSnapshot,
  ImportQuery,
  KEY_HEADER,
  SnapshotKeyHeaders,
  SnapshotParams,
} from '../contract/snapshot.ts';
import { Failure } from '../model/failure.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, demand, OPERATOR, WRITE } from './auth.ts';
import type { Streams } from './lifecycle.ts';
import { presentSnapshot } from './present.ts';
import { BYTES, cutOffLater, whileItFlows } from './upload.ts';

const tags = ['Snapshots'];

/** Snapshots as files, from one installation to another. */
export async function snapshotFileRoutes(
  app: App,
  { hatch, log, streams, clock }: Pick<ApiDeps, 'hatch' | 'log' | 'clock'> & { readonly streams: Streams },
): Promise<void> {
  app.get(
    '/snapshots/:id/export',
    {
      exposeHeadRoute: false,
      config: { access: WRITE, errors: ['no_space', 'wrong_state'], bytes: 'The snapshot as one file.' },
      schema: {
        operationId: 'exportSnapshot',
        tags,
        summary: 'Take a snapshot along as one file',
        description:
          'For `POST /snapshots/import` of another installation. It holds the guest’s memory and disk: needs the scope ' +
          '`read` as well. It is made while it is sent, so its size is not known before; one that breaks off is refused where it is imported.',
        params: SnapshotParams,
        querystring: ExportQuery,
        headers: SnapshotKeyHeaders,
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      demand(caller, 'read', 'An export, which holds all that a guest had in memory,');
      const { plain = false } = request.query;
      const key = request.headers[KEY_HEADER];
      const signal = streams.begin(reply);
      const { snapshot, content } = await hatch.snapshots.export(
        caller,
        request.params.id,
        { key, plain },
        signal,
      );
      reply.headers({
        'content-type': BYTES,
        'content-disposition': `attachment; filename="${snapshot.name ?? snapshot.id}.hatch"`,
      });
      content.once('error', (error) => {
        // The answer has begun: it is cut off, for the caller to notice. One who hung up is no trouble.
        if (reply.raw.destroyed) return;
        log.warn(
          { request_id: request.id, snapshot: snapshot.id, ...errorFields(error) },
          'an export broke off',
        );
      });
      return reply.send(content);
    },
  );

  // In a scope of its own: nowhere else is a body taken that is no JSON.
  await app.register(async (plain) => {
    const scope = plain.withTypeProvider<TypeBoxTypeProvider>();
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser(BYTES, (_request, body, done) => done(null, body));
    scope.post(
      '/snapshots/import',
      {
        bodyLimit: Number.MAX_SAFE_INTEGER,
        config: {
          idempotent: true,
          access: OPERATOR,
          errors: ['already_exists', 'wrong_state', 'quota_exceeded', 'no_capacity', 'timeout'],
          upload: 'A file of `GET /snapshots/{id}/export`.',
        },
        schema: {
          operationId: 'importSnapshot',
          tags,
          summary: 'Bring a snapshot from another installation',
          description:
            'Makes the snapshot and a VM that sleeps as it, with an address of this host: woken, or copied, it is given an identity of ' +
            'its own as every copy. The file is read and checked before anything is made of it, and nothing is left of one that is ' +
            'refused. Operators only: a hypervisor trusts the machine it loads.',
          querystring: ImportQuery,
          headers: SnapshotKeyHeaders,
          response: { 201: ImportedSnapshot },
        },
      },
      async (request, reply) => {
        const { body } = request;
        if (!(body instanceof Readable))
          throw new Failure(
            'unsupported_media_type',
            `The body must be a snapshot file: send the header "Content-Type: ${BYTES}".`,
          );
        const asked = { name: request.query.name, key: request.headers[KEY_HEADER] };
        const signal = streams.begin(reply);
        reply.raw.once('finish', () => cutOffLater(request.raw, clock));
        const { snapshot, differences } = await hatch.snapshots.import(
          callerOf(request),
          asked,
          whileItFlows(body, clock),
          signal,
        );
        reply.code(201).header('location', `/snapshots/${snapshot.id}`);
        return { ...presentSnapshot(snapshot), differences: [...differences] };
      },
    );
  });
}
