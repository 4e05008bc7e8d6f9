import { Readable } from 'node:stream';
import type { FastifyReply } from 'fastify';
import { Type } from 'typebox';
import { errorFields } from '../base/logger.ts';
import {
  FileContentQuery,
  FileEntry,
  FileListQuery,
  SnapshotDiff,
  SnapshotDiffQuery,
} from '../contract/saved-file.ts';
import { SnapshotName, SnapshotParams } from '../contract/snapshot.ts';
import { Failure } from '../model/failure.ts';
import { askedPath } from '../model/saved-files.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, READ } from './auth.ts';
import type { Streams } from './lifecycle.ts';
import { DEFAULT_LIMIT, linkTo } from './page.ts';
import { presentChange, presentFile } from './present-files.ts';

const tags = ['Snapshots'];
const DIFF_LIMIT = 1000;
const SEEN =
  'What the guest had made durable when it was saved: `sync` in it first if that matters. Nothing is woken for it. Only ext4 ' +
  'that fills the whole disk can be looked into.';

const DiffParams = Type.Object({ id: SnapshotName, other: SnapshotName }, { additionalProperties: false });

/** Files on the disks of snapshots: listed, read and compared. */
export function savedFileRoutes(
  app: App,
  { hatch, log, streams }: Pick<ApiDeps, 'hatch' | 'log'> & { readonly streams: Streams },
): void {
  /** Looks into disks as long as somebody waits for the answer. */
  const whileWanted = async <T>(
    reply: FastifyReply,
    look: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> => {
    const signal = streams.begin(reply);
    try {
      return await look(signal);
    } catch (error) {
      if (!signal.aborted || error instanceof Failure) throw error;
      throw new Failure('timeout', 'The caller hung up before the disk had been looked into.', {
        cause: error,
      });
    }
  };

  app.get(
    '/snapshots/:id/files',
    {
      config: { access: READ, errors: ['timeout'] },
      schema: {
        operationId: 'listSnapshotFiles',
        tags,
        summary: 'List a folder on a snapshot’s disk',
        description: SEEN,
        params: SnapshotParams,
        querystring: FileListQuery,
        response: {
          200: Type.Array(FileEntry, { description: 'A page, in the order they lie on the disk.' }),
        },
      },
    },
    async (request, reply) => {
      const { limit = DEFAULT_LIMIT, after, ...asked } = request.query;
      const wanted = { path: askedPath(asked, '/'), limit, after };
      const { entries, next } = await whileWanted(reply, (signal) =>
        hatch.snapshots.files(callerOf(request), request.params.id, wanted, signal),
      );
      if (next !== null) reply.header('link', linkTo(request.url, next));
      return entries.map(presentFile);
    },
  );

  app.get(
    '/snapshots/:id/files/content',
    {
      config: { access: READ, errors: ['timeout'], bytes: 'The file as it is.' },
      schema: {
        operationId: 'readSnapshotFile',
        tags,
        summary: 'Read a file from a snapshot’s disk',
        description: `${SEEN} Links are followed within the disk.`,
        params: SnapshotParams,
        querystring: FileContentQuery,
      },
    },
    async (request, reply) => {
      const path = askedPath(request.query);
      const { sizeBytes, content } = await whileWanted(reply, (signal) =>
        hatch.snapshots.readFile(callerOf(request), request.params.id, path, signal),
      );
      reply.headers({
        'content-type': 'application/octet-stream',
        'content-length': sizeBytes,
        // A guest wrote it: no browser is to show it as a page of this server.
        'content-disposition': 'attachment',
      });
      content.once('error', (error) => {
        // The answer has begun: it is cut off, for the caller to notice. One who hung up is no trouble.
        if (reply.raw.destroyed) return;
        const { id } = request.params;
        log.warn({ request_id: request.id, snapshot: id, ...errorFields(error) }, 'a saved file broke off');
      });
      if (request.method !== 'HEAD') return reply.send(content);
      content.destroy();
      return reply.send(Readable.from([]));
    },
  );

  app.get(
    '/snapshots/:id/diff/:other',
    {
      config: { access: READ, errors: ['timeout', 'too_large'] },
      schema: {
        operationId: 'diffSnapshots',
        tags,
        summary: 'Compare the disks of two snapshots',
        description: `What is another on the disk of the second. ${SEEN}`,
        params: DiffParams,
        querystring: SnapshotDiffQuery,
        response: { 200: SnapshotDiff },
      },
    },
    async (request, reply) => {
      const { limit = DIFF_LIMIT, ...asked } = request.query;
      const { id, other } = request.params;
      const wanted = { path: askedPath(asked, '/'), limit };
      const { changes, truncated } = await whileWanted(reply, (signal) =>
        hatch.snapshots.diff(callerOf(request), id, other, wanted, signal),
      );
      return { changes: changes.map(presentChange), truncated };
    },
  );
}
