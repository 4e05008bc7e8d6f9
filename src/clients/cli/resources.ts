import type { Command } from 'commander';
import type { Image } from '../../contract/image.ts';
import type { Key } from '../../contract/key.ts';
import { Scope } from '../../contract/key.ts';
import type { Template } from '../../contract/template.ts';
import { withIdle } from './idle-options.ts';
import { showIdle } from './show-idle.ts';
import { print, waiting, type Act } from './context.ts';
import { formatFields, formatTable } from './table.ts';
import { imageId, readSizes, templateId, type SizeOptions } from './vm-requests.ts';
import { several } from './vm.ts';
import { age, formatMib, formatPairs, UsageError } from './words.ts';

const MIB = 1024 * 1024;

/** `hatch image ls|get|add|rm`. */
export function imageCommands(image: Command, act: Act): void {
  image
    .command('ls')
    .alias('list')
    .description('list images')
    .action(
      act(async (context) =>
        print(context, await context.client.images.list(), (list) => showImages(list, context.io.now())),
      ),
    );
  image
    .command('get')
    .description('show one image')
    .argument('<image>', 'its name or id')
    .action(
      act(async (context, id: string) =>
        print(context, await context.client.images.get(imageId(id)), (one) =>
          showImage(one, context.io.now()),
        ),
      ),
    );
  image
    .command('add')
    .description('register files of the host as an image (operators)')
    .argument('<name>', 'the image becomes img-<name>')
    .requiredOption('--kernel <path>', 'the kernel, on the host')
    .requiredOption('--rootfs <path>', 'the root file system, on the host: raw ext4, qcow2 or a cloud image')
    .option('--initrd <path>', 'the initial RAM disk, on the host')
    .option('--boot-args <line>', "the kernel's command line")
    .option('--user <name>', 'the user that keys are let in as')
    .action(
      act(async (context, name: string, options: AddImage) => {
        const work = context.client.images.create({
          name,
          kernel_path: options.kernel,
          rootfs_path: options.rootfs,
          ...(options.initrd === undefined ? {} : { initrd_path: options.initrd }),
          ...(options.bootArgs === undefined ? {} : { boot_args: options.bootArgs }),
          ...(options.user === undefined ? {} : { default_user: options.user }),
        });
        const made = await waiting(context, `Reading ${options.rootfs}`, work);
        return print(context, made, (one) => `Image ${one.id} is there.`);
      }),
    );
  image
    .command('rm')
    .description('remove an image that no VM uses')
    .argument('<image>', 'its name or id')
    .action(
      act(async (context, id: string) =>
        print(context, await context.client.images.delete(imageId(id)), () => `Removed ${imageId(id)}.`),
      ),
    );
}

interface AddImage {
  readonly kernel: string;
  readonly rootfs: string;
  readonly initrd?: string;
  readonly bootArgs?: string;
  readonly user?: string;
}

/** `hatch template ls|get|create|update|rm`. */
export function templateCommands(template: Command, act: Act): void {
  template
    .command('ls')
    .alias('list')
    .description('list templates')
    .action(
      act(async (context) =>
        print(context, await context.client.templates.list(), (list) =>
          showTemplates(list, context.io.now()),
        ),
      ),
    );
  template
    .command('get')
    .description('show one template')
    .argument('<template>', 'its name or id')
    .action(
      act(async (context, id: string) =>
        print(context, await context.client.templates.get(templateId(id)), showTemplate),
      ),
    );
  withSizes(template.command('create'))
    .description('make a template')
    .argument('<name>', 'the template becomes tpl-<name>')
    .action(
      act(async (context, name: string, options: TemplateOptions) => {
        const made = await context.client.templates.create({
          name,
          ...(await readTemplate(options, context.io)),
        });
        return print(
          context,
          made,
          (one) => `Template ${one.id} is there. Use it: hatch vm create --template ${one.name}`,
        );
      }),
    );
  withSizes(template.command('update'))
    .description('change a template')
    .argument('<template>', 'its name or id')
    .action(
      act(async (context, id: string, options: TemplateOptions) => {
        const patch = await readTemplate(options, context.io);
        if (Object.keys(patch).length === 0)
          throw new UsageError('Say what is to change: --cpus, --memory, --image...');
        return print(context, await context.client.templates.update(templateId(id), patch), showTemplate);
      }),
    );
  template
    .command('rm')
    .description('remove a template; not while a VM made from it is there')
    .argument('<template>', 'its name or id')
    .action(
      act(async (context, id: string) =>
        print(
          context,
          await context.client.templates.delete(templateId(id)),
          () => `Removed ${templateId(id)}.`,
        ),
      ),
    );
}

interface TemplateOptions extends SizeOptions {
  readonly description?: string;
}

async function readTemplate(options: TemplateOptions, io: Parameters<typeof readSizes>[1]) {
  const { description } = options;
  return { ...(description === undefined ? {} : { description }), ...(await readSizes(options, io)) };
}

function withSizes(command: Command): Command {
  return withIdle(command)
    .option('--description <text>', 'what it is for')
    .option('--image <id>', 'the image VMs boot')
    .option('--cpus <n>', 'virtual CPUs')
    .option('--memory <size>', 'memory: 512, 512M, 2G')
    .option('--disk <size>', 'size of the root disk')
    .option('--user-data <file>', 'cloud-init user data; - is standard input')
    .option('--label <key=value>', 'a label; may be given again', several)
    .option('--boot-args <line>', "the kernel's command line");
}

/** `hatch key ls|create|rm`. */
export function keyCommands(key: Command, act: Act): void {
  key
    .command('ls')
    .alias('list')
    .description("list the account's API keys, without their secrets")
    .option('--account <id>', 'of another account (operators)')
    .action(
      act(async (context, { account }: { account?: string }) =>
        print(context, await context.client.keys.list({ account_id: account }), (list) =>
          showKeys(list, context.io.now()),
        ),
      ),
    );
  key
    .command('create')
    .description('make an API key; its secret is shown once')
    .argument('<name>', 'what it is for')
    .option(
      '--scope <scope>',
      `what it may do: ${Scope.enum.join(', ')}; may be given again (read, write)`,
      several,
    )
    .option('--expires <time>', 'when it stops working, as 2027-03-06T10:30:00Z (never)')
    .option('--account <id>', 'for another account (operators)')
    .action(
      act(
        async (
          context,
          name: string,
          options: { scope?: readonly string[]; expires?: string; account?: string },
        ) => {
          const made = await context.client.keys.create({
            name,
            scopes: readScopes(options.scope ?? ['read', 'write']),
            ...(options.expires === undefined ? {} : { expires_at: options.expires }),
            ...(options.account === undefined ? {} : { account_id: options.account }),
          });
          return print(
            context,
            made,
            (one) =>
              `${one.secret}\n\nKey ${one.id} (${one.scopes.join(', ')}). Keep the secret: it is not shown again.`,
          );
        },
      ),
    );
  key
    .command('rm')
    .alias('revoke')
    .description('revoke an API key; it is dead at once')
    .argument('<key>', 'its id')
    .option('--account <id>', 'of another account (operators)')
    .action(
      act(async (context, id: string, { account }: { account?: string }) =>
        print(context, await context.client.keys.revoke(id, { account_id: account }), () => `Revoked ${id}.`),
      ),
    );
}

function readScopes(words: readonly string[]): Scope[] {
  return words
    .flatMap((word) => word.split(','))
    .map((word) => {
      const scope = Scope.enum.find((one) => one === word);
      if (scope === undefined)
        throw new UsageError(`--scope must be one of ${Scope.enum.join(', ')}; it is "${word}".`);
      return scope;
    });
}

function showImages(images: readonly Image[], now: number): string {
  if (images.length === 0) return 'No images yet. Build the default one on the host: hatchd image build';
  return formatTable(
    ['ID', 'SIZE', 'USER', 'AGENT', 'AGE'],
    images.map((one) => [
      one.id,
      formatMib(Math.round(one.size_bytes / MIB)),
      one.default_user,
      one.agent === undefined ? 'unknown' : one.agent ? 'yes' : 'no',
      age(one.created_at, now),
    ]),
  );
}

function showImage(one: Image, now: number): string {
  return formatFields({
    Id: one.id,
    Size: formatMib(Math.round(one.size_bytes / MIB)),
    SHA256: one.sha256,
    Agent: one.agent === undefined ? 'unknown' : one.agent ? 'yes' : 'no',
    User: one.default_user,
    'Boot args': one.boot_args,
    Made: `${age(one.created_at, now)} ago`,
  });
}

function showTemplates(templates: readonly Template[], now: number): string {
  if (templates.length === 0)
    return 'No templates yet. Make one: hatch template create web --cpus 2 --memory 2G';
  return formatTable(
    ['ID', 'IMAGE', 'CPUS', 'MEMORY', 'DISK', 'DESCRIPTION', 'AGE'],
    templates.map((one) => [
      one.id,
      one.image_id,
      one.vcpu_count,
      one.mem_mib === undefined ? undefined : formatMib(one.mem_mib),
      one.disk_mib === undefined ? undefined : formatMib(one.disk_mib),
      one.description,
      age(one.created_at, now),
    ]),
  );
}

function showTemplate(one: Template): string {
  const fields = formatFields({
    Id: one.id,
    Description: one.description,
    Image: one.image_id,
    CPUs: one.vcpu_count,
    Memory: one.mem_mib === undefined ? undefined : formatMib(one.mem_mib),
    Disk: one.disk_mib === undefined ? undefined : formatMib(one.disk_mib),
    Labels: formatPairs(one.labels),
    Idle: one.idle && showIdle(one.idle),
    'Boot args': one.boot_args,
  });
  return one.user_data === undefined ? fields : `${fields}\n\nUser data:\n${one.user_data.trimEnd()}`;
}

function showKeys(keys: readonly Key[], now: number): string {
  if (keys.length === 0) return 'No API keys.';
  return formatTable(
    ['ID', 'NAME', 'BEGINS', 'SCOPES', 'STATE', 'LAST USED', 'AGE'],
    keys.map((one) => [
      one.id,
      one.name,
      one.prefix,
      one.scopes.join(','),
      stateOfKey(one, now),
      one.last_used_at && age(one.last_used_at, now),
      age(one.created_at, now),
    ]),
  );
}

function stateOfKey({ revoked_at: revoked, expires_at: expires }: Key, now: number): string {
  if (revoked !== undefined) return 'revoked';
  if (expires !== undefined && Date.parse(expires) <= now) return 'expired';
  return 'good';
}
