import { Type } from 'typebox';
import { Deleted, ListQuery } from '../contract/common.ts';
import { CreateTemplate, PatchTemplate, Template, TemplateParams } from '../contract/template.ts';
import type { TemplateFields } from '../ops/hatch.ts';
import type { ApiDeps, App } from './app.ts';
import { callerOf, READ, WRITE } from './auth.ts';
import { answerPage } from './page.ts';
import { presentTemplate } from './present.ts';
import { readIdle } from './vm-requests.ts';

const tags = ['Templates'];

/** Settings to make VMs with. */
export function templateRoutes(app: App, { hatch }: Pick<ApiDeps, 'hatch'>): void {
  app.post(
    '/templates',
    {
      config: { idempotent: true, access: WRITE, errors: ['already_exists'] },
      schema: {
        operationId: 'createTemplate',
        tags,
        summary: 'Make a template',
        body: CreateTemplate,
        response: { 201: Template },
      },
    },
    async (request, reply) => {
      const { name, ...fields } = request.body;
      const template = await hatch.templates.create(callerOf(request), name, readFields(fields));
      reply.code(201).header('location', `/templates/${template.id}`);
      return presentTemplate(template, true);
    },
  );

  app.get(
    '/templates',
    {
      config: { access: READ },
      schema: {
        operationId: 'listTemplates',
        tags,
        summary: 'List templates',
        querystring: ListQuery,
        response: { 200: Type.Array(Template) },
      },
    },
    async (request, reply) => {
      const caller = callerOf(request);
      const templates = await answerPage(request, reply, (page) => hatch.templates.list(caller, page));
      return templates.map((template) => presentTemplate(template, false));
    },
  );

  app.get(
    '/templates/:id',
    {
      config: { access: READ },
      schema: {
        operationId: 'getTemplate',
        tags,
        summary: 'See a template',
        params: TemplateParams,
        response: { 200: Template },
      },
    },
    async (request) => {
      const caller = callerOf(request);
      const template = await hatch.templates.get(caller, request.params.id);
      return presentTemplate(template, caller.scopes.has('write'));
    },
  );

  app.patch(
    '/templates/:id',
    {
      config: { access: WRITE },
      schema: {
        operationId: 'patchTemplate',
        tags,
        summary: 'Change a template',
        description: 'VMs made from it before stay as they are.',
        params: TemplateParams,
        body: PatchTemplate,
        response: { 200: Template },
      },
    },
    async (request) =>
      presentTemplate(
        await hatch.templates.patch(callerOf(request), request.params.id, readFields(request.body)),
        true,
      ),
  );

  app.delete(
    '/templates/:id',
    {
      config: { access: WRITE, errors: ['in_use'] },
      schema: {
        operationId: 'deleteTemplate',
        tags,
        summary: 'Remove a template',
        params: TemplateParams,
        response: { 200: Deleted },
      },
    },
    async (request) => {
      await hatch.templates.delete(callerOf(request), request.params.id);
      return { status: 'deleted' as const };
    },
  );
}

/** A template's settings as the operations take them; what was not said is absent, null takes a setting away. */
function readFields(body: PatchTemplate): TemplateFields {
  return {
    ...(body.description === undefined ? {} : { description: body.description }),
    ...(body.image_id === undefined ? {} : { imageId: body.image_id }),
    ...(body.vcpu_count === undefined ? {} : { vcpuCount: body.vcpu_count }),
    ...(body.mem_mib === undefined ? {} : { memMib: body.mem_mib }),
    ...(body.disk_mib === undefined ? {} : { diskMib: body.disk_mib }),
    ...(body.user_data === undefined ? {} : { userData: body.user_data }),
    ...(body.boot_args === undefined ? {} : { bootArgs: body.boot_args }),
    ...(body.idle === undefined ? {} : { idle: body.idle && readIdle(body.idle) }),
    ...(body.labels === undefined ? {} : { labels: body.labels }),
  };
}
