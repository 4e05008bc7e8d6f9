import { Type, type Static } from 'typebox';

export const Health = Type.Object(
  { status: Type.Literal('ok'), version: Type.String({ description: 'Of the server.' }) },
  {
    $id: 'Health',
    additionalProperties: false,
    description: 'The process lives.',
    examples: [{ status: 'ok', version: '0.1.0' }],
  },
);
export type Health = Static<typeof Health>;

export const Ready = Type.Object(
  { status: Type.Literal('ready') },
  {
    $id: 'Ready',
    additionalProperties: false,
    description: 'Store, network and hypervisor are usable.',
    examples: [{ status: 'ready' }],
  },
);
export type Ready = Static<typeof Ready>;
