import { Type } from 'typebox';
import { Deleted, ListQuery } from '../contract/common.ts';
import { CreateImage, Image, ImageParams } from '../contract/image.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, OPERATOR } from './auth.ts';
import { answerPage } from './page.ts';
import { presentImage } from './present.ts';

const tags = ['Images'];
/** Whoever makes VMs, and whoever runs the host. */
const SEE = ['read', 'write', 'operator'] as const;

/** What VMs boot from; files on the host are the operator's business. */
export function imageRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.post(
    '/images',
    {
      config: { idempotent: true, access: OPERATOR, errors: ['already_exists'] },
      schema: {
        operationId: 'createImage',
        tags,
        summary: 'Register files on the host as an image',
        body: CreateImage,
        response: { 201: Image },
      },
    },
    async (request, reply) => {
      const { body } = request;
      const image = await hatch.images.create(callerOf(request), {
        name: body.name,
        kernelPath: body.kernel_path,
        rootfsPath: body.rootfs_path,
        initrdPath: body.initrd_path,
        bootArgs: body.boot_args,
        defaultUser: body.default_user,
      });
      reply.code(201).header('location', `/images/${image.id}`);
      return presentImage(image);
    },
  );

  app.get(
    '/images',
    {
      config: { access: SEE },
      schema: {
        operationId: 'listImages',
        tags,
        summary: 'List images',
        querystring: ListQuery,
        response: { 200: Type.Array(Image) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const images = await answerPage(request, reply, (page) => hatch.images.list(caller, page));
      return images.map(presentImage);
    },
  );

  app.get(
    '/images/:id',
    {
      config: { access: SEE },
      schema: {
        operationId: 'getImage',
        tags,
        summary: 'See an image',
        params: ImageParams,
        response: { 200: Image },
      },
    },
    async (request) => presentImage(await hatch.images.get(callerOf(request), request.params.id)),
  );

  app.delete(
    '/images/:id',
    {
      config: { access: OPERATOR, errors: ['in_use'] },
      schema: {
        operationId: 'deleteImage',
        tags,
        summary: 'Forget an image',
        description: 'Refused while VMs or templates use it. The files that were registered stay.',
        params: ImageParams,
        response: { 200: Deleted },
      },
    },
    async (request) => {
      await hatch.images.delete(callerOf(request), request.params.id);
      return { status: 'deleted' as const };
    },
  );
}
